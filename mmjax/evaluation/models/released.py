"""A folder in the layout of transformers, run by our code: prompts by its own processor, in batches of like prompts."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Float, Shaped
from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.rows import bucket
from mmjax.decoding.scoring import Candidates, rate_candidate, stack_candidates
from mmjax.decoding.writer import Opening, Writer, begin
from mmjax.evaluation.models.layouts import as_picture, continued, lay_out_prompt
from mmjax.evaluation.models.model import Progress, Rated
from mmjax.interop.calls.adapters import extended, tokens_of
from mmjax.interop.calls.kinds import find_adapter
from mmjax.interop.pretrained import LoadedModel, padding_token
from mmjax.interop.processing.prompts import PromptProcessor
from mmjax.models.encoder_decoder import EncoderDecoderConfig
from mmjax.models.two_tower import TwoTowerConfig

# Prompts of a batch, and pictures of one at most (a prompt of more is a batch by itself).
ROWS, PICTURES = 8, 16


class ReleasedModel:
    """A checkpoint of any family that `mmjax.interop` calls; each process has it whole."""

    def __init__(self, loaded: LoadedModel):
        self._pretrained = loaded.pretrained
        self._loaded = loaded
        self.name = str(loaded.pretrained.origin.folder)
        self._adapter = find_adapter(loaded.pretrained.config)
        self._processor = loaded.processor.name if isinstance(loaded.processor, PromptProcessor) else ""
        self._reads_apart = isinstance(loaded.pretrained.config, EncoderDecoderConfig)

    def write(
        self, prompts: Sequence[Prompt], *, max_tokens: int, stop: Sequence[str], beams: int, progress: Progress
    ) -> list[str]:
        """As `EvaluatedModel.write`.

        Raises:
          InputError: the model does not write.
        """
        texts: dict[int, str] = {}
        for numbers, arrays in self._batches(prompts):
            # Stop strings do not go with beams, which are cut when they are done.
            ends = stop if beams == 1 else ()
            written = self._loaded.write(max_new_tokens=max_tokens, num_beams=beams, stop=ends, **arrays)
            texts.update(zip(numbers, self._loaded.texts_of(written, stop), strict=False))
            progress(len(numbers))
        return [texts[number] for number in range(len(prompts))]

    def rate(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[Text]], *, progress: Progress
    ) -> list[Rated]:
        """As `EvaluatedModel.rate`.

        Raises:
          InputError: a continuation without a token, or a model that does not write.
        """
        tokens = [[self._tokens(text) for text in texts] for texts in continuations]
        rated: dict[int, Rated] = {}
        for numbers, arrays in self._batches(prompts):
            opening, writer = self._loaded.caller.open(arrays, {})
            rows = [tokens[number] for number in numbers]
            candidates = _stacked(rows, len(opening.tokens))
            told = np.asarray(_rate(writer, self._pretrained.parameters, opening, candidates))
            for number, own, row in zip(numbers, rows, told, strict=False):
                rated[number] = Rated(row[: len(own)], tuple(map(len, own)))
            progress(len(numbers))
        return [rated[number] for number in range(len(prompts))]

    def embed_pictures(self, pictures: Sequence[Media], *, progress: Progress) -> Float[np.ndarray, "N D"]:
        """As `EvaluatedModel.embed_pictures`.

        Raises:
          InputError: the model has no features of pictures.
        """
        method = "get_image_features" if self._knows("get_image_features") else "forward"
        vectors = []
        for picture in pictures:
            arrays = self._loaded.prepare(pictures=[as_picture(picture)])
            found = self._loaded(method, **arrays)
            name = next((name for name in ("", "pooler_output", "image_embeds") if name in found), None)
            if name is None:
                raise InputError(f"{self.name} has no features of pictures")
            vectors.append(_unit(found[name]))
            progress(1)
        return np.stack(vectors)

    def embed_texts(self, texts: Sequence[str], *, progress: Progress) -> Float[np.ndarray, "N D"]:
        """As `EvaluatedModel.embed_texts`.

        Raises:
          InputError: the model has no tower of texts.
        """
        if not isinstance(self._pretrained.config, TwoTowerConfig):
            raise InputError(f"{self.name} does not compare texts with pictures: it has no tower of texts")
        longest = self._pretrained.config.text.decoder.max_length
        # SigLIP was trained on rows filled up to their full length.
        filled = self._pretrained.family.model_type.startswith("siglip")
        vectors = []
        for text in texts:
            tokens = self._tokenizer.encode(text)
            tokens = [*tokens[: longest - 1], tokens[-1]] if len(tokens) > longest else tokens
            width = longest if filled else min(longest, bucket(len(tokens), 8))
            pad = padding_token(self._tokenizer) if filled else tokens[-1]
            row = np.array([[*tokens, *[pad] * (width - len(tokens))]], np.int64)
            there = {} if filled else {"attention_mask": (np.arange(width) < len(tokens)).astype(np.int64)[None]}
            vectors.append(_unit(self._loaded("get_text_features", input_ids=row, **there)[""]))
            progress(1)
        return np.stack(vectors)

    @property
    def _tokenizer(self):
        processor = self._loaded.processor
        return processor.tokenizer if isinstance(processor, PromptProcessor) else self._loaded.tokenizer

    def _knows(self, method: str) -> bool:
        return self._adapter is not None and method in self._adapter.methods

    def _tokens(self, text: Text) -> list[int]:
        tokens = self._tokenizer.encode(continued(text, self._processor), special=False)
        if not tokens:
            raise InputError(f"a continuation to be rated has no token: {text.text!r}")
        return tokens

    def _batches(self, prompts: Sequence[Prompt]) -> Iterator[tuple[list[int], dict[str, Shaped[np.ndarray, "..."]]]]:
        """Prompts of as many pictures and about as long go together; a batch that is not full repeats its last."""
        if self._adapter is None or self._adapter.prompt is None:
            raise InputError(f"{self.name}: a model of the family {self._pretrained.family.model_type} does not write")
        order = sorted(range(len(prompts)), key=lambda at: (len(prompts[at].media), len(str(prompts[at])), at))
        for count, group in itertools.groupby(order, lambda at: len(prompts[at].media)):
            numbers, rows = list(group), max(1, min(ROWS, PICTURES // max(1, count)))
            for start in range(0, len(numbers), rows):
                batch = numbers[start : start + rows]
                yield batch, self._arrays([prompts[at] for at in [*batch, *[batch[-1]] * (rows - len(batch))]])

    def _arrays(self, prompts: Sequence[Prompt]) -> dict[str, Shaped[np.ndarray, "..."]]:
        """The arrays of a batch, padded on the left to a bucket."""
        loaded = self._loaded
        placeholder = loaded.processor.placeholder if self._processor else ""
        laid = [lay_out_prompt(prompt, self._processor, placeholder) for prompt in prompts]
        pictures = [[as_picture(medium) for medium in media] for _, media in laid]
        arrays = loaded.prepare([text for text, _ in laid], pictures if any(pictures) else None, pad="left")
        if self._reads_apart:
            return arrays
        length = tokens_of(arrays).shape[1]
        return extended(arrays, bucket(length, 32) - length, 0, filling=padding_token(self._tokenizer))


def _unit(found: Shaped[Array, "..."]) -> Float[np.ndarray, "D"]:
    vector = np.asarray(found, np.float32).reshape(-1, found.shape[-1]).mean(axis=0)
    return vector / np.linalg.norm(vector)


def _stacked(rows: Sequence[Sequence[Sequence[int]]], count: int) -> Candidates:
    """Candidates of each row in one array, with their lengths; sizes in buckets."""
    most, longest = max(map(len, rows)), max(len(tokens) for row in rows for tokens in row)
    return stack_candidates(rows, (count, bucket(most), bucket(longest, 4)))


@functools.partial(jax.jit, static_argnames="writer")
def _rate(writer: Writer, parameters, opening: Opening, candidates: Candidates):
    """log p of each candidate [B, C]: the prompt is read once, and each goes on from there."""
    count, length = candidates.tokens.shape[1:]
    first = begin(writer, parameters, opening, spare=length)
    all_tokens = jnp.ones(first.unembedding.shape[0], bool)

    def rate_one(number):
        return rate_candidate(writer, parameters, first, opening, candidates, number, all_tokens)[0]

    return jax.lax.map(rate_one, jnp.arange(count, dtype=jnp.int32)).T
