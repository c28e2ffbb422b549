"""A released checkpoint, called as its reference is: prompts and pictures in, the reference's outputs out."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Int, Shaped
from mmjax.core.errors import InputError
from mmjax.decoding.stops import StopStrings
from mmjax.interop.calls.caller import Caller
from mmjax.interop.calls.generation import SETTINGS, Written
from mmjax.interop.engine import Pretrained, load
from mmjax.interop.hub import find_source
from mmjax.interop.processing.pictures import PictureProcessor, read_picture_processor
from mmjax.interop.processing.prompts import Pictures, PromptProcessor, read_prompt_processor
from mmjax.interop.processing.tokens import PromptTokenizer, read_tokenizer
from mmjax.parallel.sharding import use_mesh

# Each array of token rows, and the mask of what is no padding that goes with it; all others are stacked as they are.
_TOKENS = {
    "input_ids": "attention_mask",
    "lang_x": "attention_mask",
    "decoder_input_ids": "decoder_attention_mask",
    "qformer_input_ids": "qformer_attention_mask",
}
_KINDS = ("token_type_ids", "mm_token_type_ids")


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """Model, parameters by path, tokenizer and processor of one folder.

    `processor` is None where the folder has none (a language model has a tokenizer alone), and a `PictureProcessor`
    where there are pictures but no text.
    """

    pretrained: Pretrained
    tokenizer: PromptTokenizer | None
    processor: PromptProcessor | PictureProcessor | None
    mesh: Mesh | None = None

    @property
    def model(self) -> nn.Module:
        """The Linen module, computing in float32; `model.apply(nested(parameters), ...)`."""
        return self.pretrained.model()

    @functools.cached_property
    def caller(self) -> Caller:
        """What calls are made with; its programs are kept as long as the model is."""
        return Caller(self.pretrained)

    @property
    def parameters(self) -> dict[str, Shaped[Array, "..."]]:
        """Parameters by path."""
        return self.pretrained.parameters

    def prepare(
        self, prompts: str | Sequence[Any] | None = None, pictures: Pictures | None = None, *, pad: str = "right"
    ) -> dict[str, Shaped[np.ndarray, "..."]]:
        """Arrays by the reference's names, rows of tokens padded on the side `pad`, with their attention_mask.

        Raises:
          InputError: the folder has no processor or tokenizer for this, or prompts and pictures do not go together.
        """
        if prompts is None:
            processor = self.processor.pictures if isinstance(self.processor, PromptProcessor) else self.processor
            if processor is None or pictures is None:
                raise InputError("give prompts, or pictures to a model whose folder has a preprocessor_config.json")
            return _stacked(processor(pictures), 0, pad)
        if isinstance(self.processor, PromptProcessor):
            return _stacked(self.processor(prompts, pictures), padding_token(self.processor.tokenizer), pad)
        if self.tokenizer is None:
            raise InputError(f"{self.pretrained.origin.folder} has no tokenizer.json, so it takes no prompts")
        if pictures is not None:
            raise InputError(f"{self.pretrained.origin.folder} has no processor for prompts with pictures")
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return _stacked(
            {"input_ids": [self.tokenizer.encode(text) for text in texts]}, padding_token(self.tokenizer), pad
        )

    def __call__(self, fn: str = "forward", /, **arrays: Any) -> dict[str, Shaped[Array, "..."]]:
        """What the reference's method `fn` returns for these arguments, by its names.

        Raises:
          InputError: the family has no such method.
        """
        kw = {name: value for name, value in arrays.items() if np.ndim(value) == 0}
        given = {name: np.asarray(value) for name, value in arrays.items() if name not in kw}
        with use_mesh(self.mesh):
            outputs = self.caller.call(fn, given, kw)
        return {name: value[0] if isinstance(value, tuple) else value for name, value in outputs.items()}

    def generate(self, *, max_new_tokens: int = 20, do_sample: bool = False, **further: Any) -> Int[np.ndarray, "B T"]:
        """Tokens, the prompt included, as the reference's `generate` returns them; greedy unless asked otherwise.

        further: the prompt's arrays, and settings of the reference's `generate` (`num_beams`, `repetition_penalty`,
        `eos_token_id`, ...; and `seed`, of the draws), over those of the folder's generation_config.json.

        Raises:
          InputError: the family does not generate, or a setting is not known here or does not go with the others.
        """
        return self.write(max_new_tokens=max_new_tokens, do_sample=do_sample, **further).sequences

    def answer(
        self,
        prompts: str | Sequence[Any],
        pictures: Pictures | None = None,
        *,
        stop: Sequence[str] = (),
        choices: Sequence[str] = (),
        **settings: Any,
    ) -> list[str]:
        """What the model writes after each prompt, without special tokens, as `write` does it.

        With several sequences of each prompt, those of a prompt stand together.

        Raises:
          InputError: as `prepare` and `generate`.
        """
        arrays = self.prepare(prompts, pictures, pad="left")
        return self.texts_of(self.write(stop=stop, choices=choices, **settings, **arrays), stop)

    def write(
        self,
        *,
        max_new_tokens: int = 20,
        do_sample: bool = False,
        stop: Sequence[str] = (),
        choices: Sequence[str] = (),
        **further: Any,
    ) -> Written:
        """As `generate`, with log-probabilities and scores.

        stop: strings of which the first ends a row; the token that completes it is the last. choices: the answers of
        which one is written, as it would follow the prompt.

        Raises:
          InputError: as `generate`.
        """
        given = {name: np.asarray(value) for name, value in further.items() if name not in SETTINGS}
        kw = {name: value for name, value in further.items() if name in SETTINGS}
        kw |= {"max_new_tokens": max_new_tokens, "do_sample": do_sample}
        answers = [self._text_tokenizer().encode(text, special=False) for text in choices]
        with use_mesh(self.mesh):
            return self.caller.generate(given, kw, stops=self._stops(stop), answers=answers)

    def texts_of(self, written: Written, stop: Sequence[str] = ()) -> list[str]:
        """The text of each row that was written, without special tokens and up to the first stop string."""
        rows = written.sequences[:, written.start :]
        texts = [self._decode(row[:length].tolist()) for row, length in zip(rows, written.lengths, strict=True)]
        stops = self._stops(stop)
        return texts if stops is None else [stops.cut(text) for text in texts]

    def _stops(self, strings):
        return StopStrings(tuple(strings), self._decode) if strings else None

    def _decode(self, tokens):
        return self._text_tokenizer().backend.decode(tokens, skip_special_tokens=True)

    def _text_tokenizer(self) -> PromptTokenizer:
        tokenizer = self.processor.tokenizer if isinstance(self.processor, PromptProcessor) else self.tokenizer
        if tokenizer is None:
            raise InputError(f"{self.pretrained.origin.folder} has no tokenizer.json, so there are no texts")
        return tokenizer


def load_pretrained(
    path: str | Path, *, mesh: Mesh | None = None, dtype: Literal["float32", "bfloat16"] = "float32"
) -> LoadedModel:
    """Opens a folder in the layout of transformers, or a model of a hub by name: weights, tokenizer and processor.

    dtype: of the parameters. mesh: they are laid out over it as they are read.

    Raises:
      InputError, CheckpointError: as `engine.load`, or a tokenizer's or processor's file is broken.
    """
    folder = find_source(path)
    pretrained = load(folder, mesh=mesh, dtype=jnp.dtype(dtype))
    tokenizer = read_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
    processor: PromptProcessor | PictureProcessor | None = None
    if any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        read = read_prompt_processor if tokenizer is not None else read_picture_processor
        processor = read(folder)
    return LoadedModel(pretrained, tokenizer, processor, mesh)


def padding_token(tokenizer: PromptTokenizer) -> int:
    """What rows are filled up with: the padding token, else the one that ends a text, else 0."""
    for name in ("pad_token", "eos_token"):
        if name in tokenizer.named:
            return tokenizer.id_of(tokenizer.named[name])
    return 0


def _stacked(arrays: Mapping[str, Any], pad_token: int, side: str) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Ragged rows of tokens as arrays, with masks of what is no padding."""
    if side not in ("left", "right"):
        raise InputError(f"rows are padded on the left or on the right, not {side!r}")
    stacked = {}
    for name, value in arrays.items():
        if name not in (*_TOKENS, *_KINDS) or isinstance(value, np.ndarray):
            stacked[name] = np.asarray(value)
            continue
        filling = 0 if name in _KINDS else pad_token
        most = max(map(len, value))
        gaps = [most - len(row) for row in value]
        stacked[name] = np.array(
            [_beside(row, [filling] * gap, side) for row, gap in zip(value, gaps, strict=True)], np.int64
        )
        if name in _TOKENS:
            there = [_beside([1] * len(row), [0] * gap, side) for row, gap in zip(value, gaps, strict=True)]
            stacked[_TOKENS[name]] = np.array(there, np.int64)
    looks = "cross_attention_mask"
    if side == "left" and looks in stacked:  # made for rows that are padded on the right
        gaps = (stacked["attention_mask"] == 0).sum(axis=1)
        rows = zip(stacked[looks], gaps, strict=True)
        stacked[looks] = np.stack(
            [np.concatenate([row[len(row) - gap :] * 0, row[: len(row) - gap]]) for row, gap in rows]
        )
    return stacked


def _beside(row, filling, side):
    return [*filling, *row] if side == "left" else [*row, *filling]
