"""What the harness asks of a model, whoever made it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mmjax.core.arrays import Float
from mmjax.core.example import Media, Text
from mmjax.decoding.prompt import Prompt

Progress = Callable[[int], object]


class Rated(NamedTuple):
    """Log-likelihoods of the continuations of a prompt (sums over tokens), and how many tokens each has.

    written: for each continuation what greedy decoding writes in its place, as far as one look tells: up to the first
      token that is not the continuation's. Empty for a model that does not tell.
    """

    log_likelihoods: Float[np.ndarray, "C"]
    lengths: tuple[int, ...]
    written: tuple[str, ...] = ()


class EvaluatedModel(Protocol):
    """Deterministic: what is given for a prompt does not depend on the prompts beside it.

    Pictures of prompts are media as the data set has them; a model scales them as it needs. `progress` is called with
    the number of prompts just done. A model that cannot do one of these raises InputError, which says so.
    """

    name: str

    def write(
        self, prompts: Sequence[Prompt], *, max_tokens: int, stop: Sequence[str], beams: int, progress: Progress
    ) -> list[str]:
        """The text after each prompt, up to the first stop string (which it leaves out) or the end of its chunk."""

    def rate(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[Text]], *, progress: Progress
    ) -> list[Rated]:
        """log p(continuation | prompt) of each continuation of each prompt."""

    def embed_pictures(self, pictures: Sequence[Media], *, progress: Progress) -> Float[np.ndarray, "N D"]:
        """A unit vector for each picture: the tower's own where it has one, else the mean of the encoder's features."""

    def embed_texts(self, texts: Sequence[str], *, progress: Progress) -> Float[np.ndarray, "N D"]:
        """A unit vector for each text, to be compared with those of pictures."""
