"""A model that was trained here: generation and scores by `mmjax.decoding`, pictures scaled to its own size."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Float
from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.data.images import fitted
from mmjax.decoding.beams import Beams
from mmjax.decoding.beginnings import Beginning, read_beginning
from mmjax.decoding.generate import generate
from mmjax.decoding.pictures import put
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.rows import PROMPT_BUCKET, bucket, tokenize_prompt
from mmjax.decoding.scoring import BATCH_TOKENS, Continuations, score_continuations
from mmjax.decoding.shared import Group, cut, plan_groups
from mmjax.decoding.stops import before_stop
from mmjax.evaluation.models.model import Progress, Rated
from mmjax.models.flamingo import Flamingo
from mmjax.ops.images import normalize_images
from mmjax.parallel.sharding import constrain, nested, use_mesh
from mmjax.text.prompt import Tokenized
from mmjax.text.tokenizer import Tokenizer

# Pictures that are embedded at the same time.
PICTURES = 64


class RunModel:
    """A Flamingo with `params` by path; with a mesh all processes ask it together, and it uses their devices."""

    def __init__(
        self,
        model: Flamingo,
        params: Mapping[str, Array],
        tokenizer: Tokenizer,
        *,
        name: str = "run",
        mesh: Mesh | None = None,
    ):
        self.name = name
        self._model, self._params, self._tokenizer, self._mesh = model, params, tokenizer, mesh
        self._side = model.config.vision.image_size

    def write(
        self, prompts: Sequence[Prompt], *, max_tokens: int, stop: Sequence[str], beams: int, progress: Progress
    ) -> list[str]:
        """As `EvaluatedModel.write`.

        Raises:
          InputError: a prompt longer than the model's positions.
        """
        prompts = self._scaled(prompts)
        read = [tokenize_prompt(prompt, self._tokenizer) for prompt in prompts]
        texts: dict[int, str] = {}
        for group in plan_groups(read, [prompt.media for prompt in prompts]):
            beginning = self._beginning(group, read, prompts)
            lengths = {number: len(read[number].tokens) - group.length for number in group.members}
            for batch in self._batches(lengths):
                written = generate(
                    self._model,
                    self._params,
                    self._tokenizer,
                    [prompts[number] for number in batch],
                    max_tokens=max_tokens,
                    # Stop strings do not go with beams, which are cut when they are done.
                    stop=stop if beams == 1 else (),
                    beams=Beams(beams) if beams > 1 else None,
                    beginning=beginning,
                    mesh=self._mesh,
                )
                texts.update((number, before_stop(one.text, stop)) for number, one in zip(batch, written, strict=True))
                progress(len(batch))
        return [texts[number] for number in range(len(prompts))]

    def rate(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[Text]], *, progress: Progress
    ) -> list[Rated]:
        """As `EvaluatedModel.rate`."""
        scored = score_continuations(
            self._model,
            self._params,
            self._tokenizer,
            self._scaled(prompts),
            continuations,
            mesh=self._mesh,
            on_scored=progress,
        )
        return [
            Rated(
                one.log_likelihoods,
                tuple(map(len, one.tokens)),
                tuple(self._written(one, number, text) for number, text in enumerate(texts)),
            )
            for one, texts in zip(scored, continuations, strict=True)
        ]

    def embed_pictures(self, pictures: Sequence[Media], *, progress: Progress) -> Float[np.ndarray, "N D"]:
        """The mean of the vision encoder's features of each picture's first frame, of unit length."""
        vectors = []
        for start in range(0, len(pictures), PICTURES):
            frames = [_frame(medium, self._side) for medium in pictures[start : start + PICTURES]]
            images = np.zeros((PICTURES, self._side, self._side, 3), np.uint8)
            images[: len(frames)] = frames
            found = _embed(self._model, self._mesh, self._params, put(images, self._mesh))
            vectors.append(np.asarray(jax.device_get(found))[: len(frames)])
            progress(len(frames))
        return np.concatenate(vectors)

    def embed_texts(self, texts: Sequence[str], *, progress: Progress) -> Float[np.ndarray, "N D"]:
        """Raises InputError: a Flamingo has no vectors of texts."""
        raise InputError(f"{self.name} does not compare texts with pictures: it has no tower of texts")

    def _beginning(self, group: Group, read: Sequence[Tokenized], prompts: Sequence[Prompt]) -> Beginning | None:
        """The demonstrations that prompts share, read once."""
        if not group.length:
            return None
        text, media = cut(read[group.members[0]], group.length)[0], prompts[group.members[0]].media[: group.pictures]
        length = bucket(group.length, PROMPT_BUCKET)
        return read_beginning(self._model, self._params, self._tokenizer, text, media, length=length, mesh=self._mesh)

    def _batches(self, lengths: Mapping[int, int]) -> Iterator[list[int]]:
        """Prompts of about the same length go together; the longest first, which take most memory."""
        platform = (jax.devices() if self._mesh is None else self._mesh.devices.flat)[0].platform
        room = BATCH_TOKENS.get(platform, BATCH_TOKENS["other"])
        order = sorted(lengths, key=lambda number: (-lengths[number], number))
        while order:
            rows = max(1, room // bucket(lengths[order[0]], PROMPT_BUCKET))
            batch, order = order[:rows], order[rows:]
            yield batch

    def _written(self, scored: Continuations, number: int, text: Text) -> str:
        if scored.is_greedy(number):
            return text.text
        greedy = scored.greedy_tokens[number]
        first = int(np.argmax(scored.tokens[number] != greedy))
        return self._tokenizer.decode(greedy[: first + 1])

    def _scaled(self, prompts):
        """Prompts with every picture at the model's size, each different medium once."""
        scaled: dict[int, Media] = {}

        def of(segment):
            if not isinstance(segment, Media):
                return segment
            if id(segment) not in scaled:
                scaled[id(segment)] = Media(tuple(_fit(frame, self._side) for frame in segment.load()))
            return scaled[id(segment)]

        return [Prompt(tuple(map(of, prompt.segments))) for prompt in prompts]


def _frame(medium, side):
    return _fit(medium.load()[0], side)


def _fit(frame, side):
    return frame if frame.shape[:2] == (side, side) else fitted(frame, side, side, "crop")


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _embed(model: nn.Module, mesh, params, images):
    with use_mesh(mesh):
        config = model.config
        normalized = normalize_images(images, config.image_mean, config.image_std, model.dtype)
        features = model.apply(
            nested(params), normalized, method=lambda model, pictures: model.vision(pictures).features
        )
        vectors = jnp.mean(features.astype(jnp.float32), axis=1)
        vectors = vectors / jnp.linalg.norm(vectors, axis=-1, keepdims=True)
        return constrain(vectors, None, None)
