"""From a prompt to its opening, one row at a time: what a scheduler asks of a model of any family."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Container, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError
from mmjax.core.example import Media
from mmjax.decoding.families import OPENERS, open_prompts, writer_of
from mmjax.decoding.logits import stop_tokens, writable_tokens
from mmjax.decoding.pictures import PictureTable, encode_pictures, known_by, picture_bytes, put
from mmjax.decoding.prompt import Prompt, load_frames
from mmjax.decoding.rows import pad_rows, tokenize_prompt
from mmjax.decoding.writer import Opening, Writer
from mmjax.text.prompt import Layout
from mmjax.text.tokenizer import Tokenizer

# Pictures whose features are kept, and the bytes that these may take.
MOST_KEPT, PICTURE_BYTES = 256, 1 << 30


class Prepared(NamedTuple):
    """A prompt as far as the host takes it: its tokens, what its pictures are known by, and what the reader needs."""

    tokens: Int[np.ndarray, "T"]
    pictures: tuple[Hashable, ...]
    content: Any


class Reader(Protocol):
    """Reads prompts for one model.

    writable: which tokens it may write. ends: what each token that ends a text is called. joined: see `TextStream`.
    """

    writer: Writer
    parameters: Mapping[str, Array]
    writable: Bool[np.ndarray, "V"]
    ends: Mapping[int, str]
    joined: Container[int]
    mesh: Mesh | None

    def prepare(self, prompt: Any) -> Prepared:
        """What the host does, in any thread. Raises InputError for a prompt that the model cannot read."""

    def open(self, prepared: Prepared, length: int) -> Opening:
        """One row of `length` tokens on the device; what is written goes on right behind those that are there."""

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""


class RunReader:
    """Reads `Prompt`s for a model that was trained here, with at most `most_pictures` in each.

    Each different picture is encoded once: its features are kept for the prompts to come, of as many pictures as
    `PICTURE_BYTES` hold, those that were asked for last. layout: as of `generate`.
    """

    def __init__(
        self,
        model: nn.Module,
        params: Mapping[str, Array],
        tokenizer: Tokenizer,
        *,
        most_pictures: int = 8,
        layout: Layout = Layout(),  # noqa: B008 (frozen)
        mesh: Mesh | None = None,
    ):
        """Raises InputError for a model that writes no text."""
        if type(model) not in OPENERS:
            raise InputError(f"a {type(model).__name__} writes no text")
        if most_pictures < 1:
            raise InputError(f"most_pictures must be 1 or more, not {most_pictures}")
        self.parameters, self.mesh = params, mesh
        self._model, self._tokenizer, self._layout, self._most_pictures = model, tokenizer, layout, most_pictures
        self.writable = writable_tokens(tokenizer, model.config.decoder.vocab_size)
        names = {number: name for name, number in tokenizer.special.items() if number in stop_tokens(tokenizer)}
        self.ends: Mapping[int, str] = names
        self.joined = tokenizer.byte_pieces
        self._kept = _Pictures(model, params, mesh, least=most_pictures)
        self.writer = writer_of(model, self._rows([], [], 1), self._kept.features)

    def prepare(self, prompt: Prompt) -> Prepared:
        """Tokens, and decoded pictures.

        Raises:
          InputError: too many pictures, or one that is none or has another size than the model's.
        """
        text = tokenize_prompt(prompt, self._tokenizer, self._layout)
        if not len(text.tokens):
            raise InputError("a prompt is empty; give a text or a picture")
        if text.images > self._most_pictures:
            raise InputError(
                f"a prompt has {text.images} pictures, and at most {self._most_pictures} are read; give fewer shots"
            )
        side = self._model.config.vision.image_size
        pictures = [load_frames(media) for media in prompt.media]
        for frames in pictures:
            if frames.shape[1:3] != (side, side):
                raise InputError(f"a picture is {frames.shape[1]}x{frames.shape[2]}; scale it to {side}x{side}")
        return Prepared(text.tokens, tuple(map(known_by, pictures)), (text, pictures))

    def open(self, prepared: Prepared, length: int) -> Opening:
        """One row of `length` tokens; pictures that are new are encoded."""
        text, pictures = prepared.content
        slots = [self._kept.slot_of(key, frames) for key, frames in zip(prepared.pictures, pictures, strict=True)]
        rows = jax.tree.map(lambda leaf: put(leaf, self.mesh), self._rows([text], [slots], length))
        return open_prompts(self._model, self.mesh, rows, self._kept.features)

    def _rows(self, texts, slots, length):
        pad = self._tokenizer.special["pad"]
        return pad_rows(texts, slots, rows=1, length=length, images=self._most_pictures, pad=pad)

    def decode(self, tokens: Sequence[int]) -> str:
        """Text without special tokens."""
        return self._tokenizer.decode(tokens)


class _Pictures:
    """Features of pictures on the device: of those that were asked for last."""

    def __init__(self, model, params, mesh, *, least):
        self._encode = functools.partial(encode_pictures, model, params, capacity=1, mesh=mesh)
        self._capacity = max(least, min(MOST_KEPT, PICTURE_BYTES // picture_bytes(model, params)))
        self._slots: OrderedDict[tuple, int] = OrderedDict()
        one = self._encode(PictureTable())
        self.features: Float[Array, "S R D"] = jnp.repeat(one, self._capacity, axis=0)

    def slot_of(self, key, frames) -> int:
        if key not in self._slots:
            full = len(self._slots) == self._capacity
            slot = self._slots.popitem(last=False)[1] if full else len(self._slots)
            table = PictureTable()
            table.add(Media(tuple(frames)))
            self.features = _put(self.features, self._encode(table), np.int32(slot))
            self._slots[key] = slot
        self._slots.move_to_end(key)
        return self._slots[key]


@functools.partial(jax.jit, donate_argnums=0)
def _put(features, one, slot):
    return jax.lax.dynamic_update_slice_in_dim(features, one, slot, 0)
