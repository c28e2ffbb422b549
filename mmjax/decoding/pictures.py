"""Each different picture of many prompts is encoded once, and rows gather the ones they look at."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Hashable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Bool, Float, Int, Shaped, UInt8
from mmjax.core.errors import InputError
from mmjax.core.example import Media
from mmjax.decoding.prompt import load_frames
from mmjax.models.decoders.decoder import Media as SeenMedia
from mmjax.models.flamingo import Flamingo
from mmjax.models.inline import InlineModel
from mmjax.ops.images import normalize_images
from mmjax.parallel.sharding import batch_sharding, constrain, nested, use_mesh

# Pictures that are encoded at the same time.
CHUNK = 64


def known_by(picture: Shaped[np.ndarray, "..."]) -> Hashable:
    """What tells a picture from others: its shape, and a digest of its pixels."""
    return picture.shape, hashlib.blake2b(np.ascontiguousarray(picture), digest_size=16).digest()


class PictureTable:
    """The different pictures among those added: a picture that comes again gets the slot that it has."""

    def __init__(self):
        self._slots: dict[Hashable, int] = {}
        self._pictures: list[UInt8[np.ndarray, "F h w 3"]] = []
        self._most_frames = 1

    def __len__(self) -> int:
        return len(self._pictures)

    def add(self, media: Media) -> int:
        """The slot of a medium.

        Raises:
          InputError: it is no picture, or not of the size of the others.
          DataError: it cannot be decoded.
        """
        frames = load_frames(media)
        key = known_by(frames)
        if key not in self._slots:
            if self._pictures and frames.shape[1:] != self._pictures[0].shape[1:]:
                height, width = frames.shape[1:3]
                raise InputError(
                    f"pictures of one call must have one size, but one is {height}x{width} and another "
                    f"{self._pictures[0].shape[1]}x{self._pictures[0].shape[2]}; scale them to the model's"
                )
            self._slots[key] = len(self._pictures)
            self._pictures.append(frames)
            self._most_frames = max(self._most_frames, len(frames))
        return self._slots[key]

    def chunk(self, start: int, count: int) -> tuple[UInt8[np.ndarray, "B F h w 3"], Bool[np.ndarray, "B F"]]:
        """`count` pictures from slot `start` on, padded with none, and which frames there are."""
        chosen = self._pictures[start : start + count]
        images = np.zeros((count, self._most_frames, *self._pictures[0].shape[1:]), np.uint8)
        present = np.zeros((count, self._most_frames), bool)
        for row, frames in enumerate(chosen):
            images[row, : len(frames)] = frames
            present[row, : len(frames)] = True
        return images, present


def encode_pictures(
    model: nn.Module, params: Mapping[str, Array], table: PictureTable, *, capacity: int, mesh: Mesh | None
) -> Float[Array, "capacity R D"]:
    """Features of every picture of the table, by slot; `capacity` (>= their number) is how many rows there are."""
    chunk = min(capacity, CHUNK)
    parts = []
    for start in range(0, max(len(table), 1), chunk):
        if len(table):
            images, present = table.chunk(start, chunk)
        else:  # text alone: one picture that is not there
            side = model.config.vision.image_size
            images, present = np.zeros((chunk, 1, side, side, 3), np.uint8), np.zeros((chunk, 1), bool)
        parts.append(_encode(model, mesh, params, put(images, mesh), put(present, mesh)))
    return _join(parts, capacity)


def picture_bytes(model: nn.Module, params: Mapping[str, Array]) -> int:
    """Bytes of the features of one picture."""
    side = model.config.vision.image_size
    images, present = jax.ShapeDtypeStruct((1, 1, side, side, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 1), jnp.bool_)
    features = jax.eval_shape(functools.partial(_encode, model, None), params, images, present)
    return features.size * features.dtype.itemsize


def gather(features: Float[Array, "S R D"], slots: Int[Array, "B N"]) -> SeenMedia:
    """What the rows of a batch look at: image n of a row is the picture `slots[n]`, or nothing where that is -1."""
    batch, count = slots.shape
    seen = jnp.take(features, jnp.maximum(slots, 0), axis=0)
    numbers = jnp.where(slots >= 0, jnp.arange(1, count + 1, dtype=jnp.int32)[None], 0)
    latents = features.shape[1]
    return SeenMedia(seen.reshape(batch, count * latents, -1), jnp.repeat(numbers, latents, axis=1))


def put(value: Shaped[np.ndarray, "B *S"], mesh: Mesh | None) -> Any:
    """Rows on the device, or over the batch axes of the mesh."""
    return jax.device_put(value) if mesh is None else jax.device_put(value, batch_sharding(mesh, value.shape))


@functools.partial(jax.jit, static_argnames=("model", "mesh"))
def _encode(model, mesh, params, images, present):
    with use_mesh(mesh):
        return constrain(_FEATURES[type(model)](model, params, images, present), None, None, None)


def _seen_from_outside(model: Flamingo, params, images, present):
    return model.apply(nested(params), images[:, None], present[:, None], method="encode").features


def _standing_in_text(model: InlineModel, params, images, present):
    if images.shape[1] != 1:
        raise InputError("pictures that stand in the text have one frame; give videos to a model that reads them")
    config = model.config
    pixels = normalize_images(images[:, 0], config.image_mean, config.image_std, model.dtype)
    return model.apply(nested(params), pixels, method="encode")[0]


# By the class of the model: (model, params, images [M F h w 3], which frames there are [M F]) -> features [M S D].
_FEATURES = {Flamingo: _seen_from_outside, InlineModel: _standing_in_text}


@functools.partial(jax.jit, static_argnames=("capacity",))
def _join(parts, capacity):
    joined = jnp.concatenate(parts)[:capacity]
    return jnp.pad(joined, ((0, capacity - joined.shape[0]), (0, 0), (0, 0)))
