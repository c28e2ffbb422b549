"""A released checkpoint, called as its reference is: prompts and pictures in, the reference's outputs out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Int, Shaped
from mmjax.core.errors import InputError
from mmjax.interop.calls.caller import call, generate
from mmjax.interop.engine import Pretrained, load
from mmjax.interop.processing.pictures import PictureProcessor, read_picture_processor
from mmjax.interop.processing.prompts import Pictures, PromptProcessor, read_prompt_processor
from mmjax.interop.processing.tokens import PromptTokenizer, read_tokenizer
from mmjax.parallel.sharding import use_mesh

# What pads each array of token rows; all others are stacked as they are.
_PADDED = {"input_ids": None, "qformer_input_ids": None, "token_type_ids": 0, "mm_token_type_ids": 0}


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
            return _stacked(self.processor(prompts, pictures), _padding(self.processor.tokenizer), pad)
        if self.tokenizer is None:
            raise InputError(f"{self.pretrained.origin.folder} has no tokenizer.json, so it takes no prompts")
        if pictures is not None:
            raise InputError(f"{self.pretrained.origin.folder} has no processor for prompts with pictures")
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        return _stacked({"input_ids": [self.tokenizer.encode(text) for text in texts]}, _padding(self.tokenizer), pad)

    def __call__(self, fn: str = "forward", /, **arrays: Any) -> dict[str, Shaped[Array, "..."]]:
        """What the reference's method `fn` returns for these arguments, by its names.

        Raises:
          InputError: the family has no such method.
        """
        kw = {name: value for name, value in arrays.items() if np.ndim(value) == 0}
        given = {name: np.asarray(value) for name, value in arrays.items() if name not in kw}
        with use_mesh(self.mesh):
            outputs = call(self.pretrained, fn, given, kw)
        return {name: value[0] if isinstance(value, tuple) else value for name, value in outputs.items()}

    def generate(self, *, max_new_tokens: int = 20, **arrays: Any) -> Int[np.ndarray, "B T"]:
        """Greedy tokens, the prompt included, as the reference's `generate` returns them.

        Raises:
          InputError: the family does not generate.
        """
        return self._generate(arrays, max_new_tokens).sequences

    def answer(
        self, prompts: str | Sequence[Any], pictures: Pictures | None = None, *, max_new_tokens: int = 20
    ) -> list[str]:
        """What the model writes after each prompt, greedily, without special tokens.

        Raises:
          InputError: as `prepare` and `generate`.
        """
        arrays = self.prepare(prompts, pictures, pad="left")
        written = self._generate(arrays, max_new_tokens)
        tokenizer = self.processor.tokenizer if isinstance(self.processor, PromptProcessor) else self.tokenizer
        rows = written.sequences[:, written.start :]
        return [tokenizer.backend.decode(row.tolist(), skip_special_tokens=True) for row in rows]

    def _generate(self, arrays, max_new_tokens):
        given = {name: np.asarray(value) for name, value in arrays.items()}
        with use_mesh(self.mesh):
            return generate(self.pretrained, self.pretrained.origin.folder, given, {"max_new_tokens": max_new_tokens})


def load_pretrained(
    path: str | Path, *, mesh: Mesh | None = None, dtype: Literal["float32", "bfloat16"] = "float32"
) -> LoadedModel:
    """Opens a folder in the layout of transformers: weights, tokenizer and processor.

    dtype: of the parameters. mesh: they are laid out over it as they are read.

    Raises:
      InputError, CheckpointError: as `engine.load`, or a tokenizer's or processor's file is broken.
    """
    folder = Path(path)
    pretrained = load(folder, mesh=mesh, dtype=jnp.dtype(dtype))
    tokenizer = read_tokenizer(folder) if (folder / "tokenizer.json").is_file() else None
    processor: PromptProcessor | PictureProcessor | None = None
    if any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        read = read_prompt_processor if tokenizer is not None else read_picture_processor
        processor = read(folder)
    return LoadedModel(pretrained, tokenizer, processor, mesh)


def _padding(tokenizer: PromptTokenizer) -> int:
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
        if name not in _PADDED or isinstance(value, np.ndarray):
            stacked[name] = np.asarray(value)
            continue
        filling = pad_token if _PADDED[name] is None else _PADDED[name]
        most = max(map(len, value))
        gaps = [most - len(row) for row in value]
        stacked[name] = np.array(
            [_beside(row, [filling] * gap, side) for row, gap in zip(value, gaps, strict=True)], np.int64
        )
        mask = {"input_ids": "attention_mask", "qformer_input_ids": "qformer_attention_mask"}.get(name)
        if mask is not None:
            there = [_beside([1] * len(row), [0] * gap, side) for row, gap in zip(value, gaps, strict=True)]
            stacked[mask] = np.array(there, np.int64)
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
