"""What a data set offers to the stream, and how its examples are measured."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.example import Example, Media, Text
from mmjax.text.tokenizer import Tokenizer


class ExampleSource(Protocol):
    """A data set with random access. `load` is a pure function of the source's seed, the index and the epoch.

    The text of an example and the number of its media depend on the index alone, so that its length is known
    before it is read; what pictures look like may depend on the epoch too. Media are decoded by `Media.load`, not by
    `load`. Either may raise DataError for a record that cannot be used.
    """

    name: str

    def __len__(self) -> int: ...

    def load(self, index: int, epoch: int) -> Example: ...


class Lengths(NamedTuple):
    """Tokens (with first and last) and media of each example of a source."""

    tokens: Int[np.ndarray, " S"]
    images: Int[np.ndarray, " S"]


def measure(source: ExampleSource, tokenizer: Tokenizer) -> Lengths:
    """The exact length of every example as `mmjax.text.prompt.tokenize` makes it, without decoding a picture."""
    known: dict[str, int] = {}
    tokens = np.empty(len(source), np.int32)
    images = np.empty(len(source), np.int32)
    for index in range(len(source)):
        total, media = 2, 0
        for segment in source.load(index, 0).segments:
            if isinstance(segment, Media):
                media += 1
            elif isinstance(segment, Text):
                if segment.text not in known:
                    known[segment.text] = len(tokenizer.encode(segment.text))
                total += known[segment.text] + segment.end_of_chunk
        tokens[index], images[index] = total + media, media
    return Lengths(tokens, images)
