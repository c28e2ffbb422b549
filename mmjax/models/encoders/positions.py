"""Positions of patches in a grid: fixed ones, and learned ones brought to another grid."""

from __future__ import annotations

import math
from typing import Literal

import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import ConfigError

Bicubic = Literal["bicubic", "bicubic_antialias"]
Resize = Literal["bicubic", "bicubic_antialias", "bilinear_antialias", "fraction"]


def sincos_positions(rows: int, columns: int, width: int) -> Float[np.ndarray, "P D"]:
    """Fixed 2-D sine-cosine positions [rows * columns, width] (MoCo v3, MAE): half for the column, half for the row."""
    if width % 4:
        raise ConfigError(f"sincos positions need a width that is a multiple of 4, not {width}")
    frequencies = 10_000.0 ** -(np.arange(width // 4) / (width / 4))
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    parts = []
    for coordinate in (column, row):
        angles = coordinate.reshape(-1, 1) * frequencies[None, :]
        parts += [np.sin(angles), np.cos(angles)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def resize_positions(table: Float[Array, "P D"], rows: int, columns: int, method: Bicubic) -> Float[Array, "Q D"]:
    """Learned positions of a square grid, brought to another grid; exact where the grid is the same.

    Both methods are those of torch.nn.functional.interpolate without aligned corners.
    """
    side = math.isqrt(table.shape[0])
    if (rows, columns) == (side, side):
        return table
    weights = _bicubic if method == "bicubic" else _bicubic_antialias
    grid = table.reshape(side, side, -1)
    resized = jnp.einsum(
        "rh,cw,hwD->rcD", weights(side, rows), weights(side, columns), grid.astype(jnp.float32), precision="highest"
    )
    return resized.reshape(rows * columns, -1).astype(table.dtype)


def bilinear_positions(table: Float[Array, "P D"], present: Bool[Array, "B r c"]) -> Float[Array, "B Q D"]:
    """Learned positions of a square grid, brought to the size of every picture (SigLIP-2): that of its `present`
    patches, a rectangle at the top left. What is not present has the picture's first position.

    The method is the bilinear one with antialiasing of torch.nn.functional.interpolate, without aligned corners.
    """
    side = math.isqrt(table.shape[0])
    batch, rows, columns = present.shape
    resized = jnp.einsum(
        "Brh,Bcw,hwD->BrcD",
        _bilinear_antialias(side, jnp.sum(present[:, :, 0], axis=1), rows),
        _bilinear_antialias(side, jnp.sum(present[:, 0], axis=1), columns),
        table.reshape(side, side, -1).astype(jnp.float32),
        precision="highest",
    )
    fitted = jnp.where(present[..., None], resized, resized[:, :1, :1])
    return fitted.reshape(batch, rows * columns, -1).astype(table.dtype)


def fraction_positions(present: Bool[Array, "B r c"], side: int) -> Int[Array, "B P"]:
    """Which place of a `side` x `side` grid of learned positions each patch takes: that at the same fraction of the
    picture's height and width, of which only the patches `present` count (NaViT, Dehghani et al. 2023; Idefics-2, 3).

    The picture begins at the top left; what is not present is at place 0. Fractions and the bounds between places are
    rounded to float32, and a product of such decides on which side of a bound a fraction falls, as in transformers.
    """
    bounds = (np.arange(1, side) / side).astype(np.float32)

    def places(count, length):
        step = 1 / jnp.maximum(count, 1).astype(jnp.float32)
        fraction = jnp.minimum(jnp.arange(length, dtype=jnp.float32)[None] * step[:, None], 1 - 1e-6)
        return jnp.sum(fraction[:, :, None] >= bounds[None, None], axis=-1, dtype=jnp.int32)

    _, rows, columns = present.shape
    row = places(jnp.sum(present[:, :, 0], axis=1), rows)
    column = places(jnp.sum(present[:, 0], axis=1), columns)
    place = row[:, :, None] * side + column[:, None]
    return jnp.where(present, place, 0).reshape(present.shape[0], -1)


def _cubic(distance: np.ndarray, sharpness: float) -> np.ndarray:
    """Keys' cubic convolution kernel (1981) at distances in samples."""
    x, a = np.abs(distance), sharpness
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))


def _bicubic(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Four taps of sharpness -0.75 around each place; beyond the edge stands the edge."""
    place = (np.arange(new) + 0.5) * old / new - 0.5
    first = np.floor(place).astype(int) - 1
    weights = np.zeros((new, old))
    for tap in range(4):
        index = first + tap
        np.add.at(weights, (np.arange(new), np.clip(index, 0, old - 1)), _cubic(place - index, -0.75))
    return weights.astype(np.float32)


def _bicubic_antialias(old: int, new: int) -> Float[np.ndarray, "new old"]:
    """Sharpness -0.5, widened where the grid shrinks, and normalised over the places that exist."""
    place = (np.arange(new) + 0.5) * old / new - 0.5
    weights = _cubic((place[:, None] - np.arange(old)[None]) / max(old / new, 1.0), -0.5)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def _bilinear_antialias(old: int, new: Int[Array, "B"], length: int) -> Float[Array, "B length old"]:
    """Triangles, widened where the grid shrinks, and normalised over the places that exist; of the `length` rows each
    picture means its first `new` ones."""
    step = old / jnp.maximum(new, 1).astype(jnp.float32)[:, None, None]
    place = (jnp.arange(length, dtype=jnp.float32)[None, :, None] + 0.5) * step - 0.5
    place = jnp.minimum(place, old - 0.5)  # rows that are not meant keep a weight, so that none is divided by zero
    distance = jnp.abs(place - jnp.arange(old, dtype=jnp.float32)[None, None]) / jnp.maximum(step, 1.0)
    weights = jnp.maximum(1.0 - distance, 0.0)
    return weights / jnp.sum(weights, axis=2, keepdims=True)
