"""Pixels on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Float, UInt8


def normalize_images(
    images: UInt8[Array, "*B h w 3"], mean: Sequence[float], std: Sequence[float], dtype: Any
) -> Float[Array, "*B h w 3"]:
    """uint8 pixels to `(x / 255 - mean) / std`, as one multiplication and one addition in float32, then `dtype`."""
    scale = 1.0 / (255.0 * np.asarray(std, np.float32))
    shift = -np.asarray(mean, np.float32) / np.asarray(std, np.float32)
    leading = (1,) * (images.ndim - 1)
    x = images.astype(jnp.float32) * scale.reshape(*leading, 3) + shift.reshape(*leading, 3)
    return x.astype(dtype)
