"""Maps from picture features to the decoder's width: one or two linear maps, after neighbours were pooled or joined."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.core.errors import ConfigError, InputError
from mmjax.layers.linear import Linear, Norm
from mmjax.layers.mlp import ACTIVATIONS, Activation


@dataclasses.dataclass(frozen=True)
class ProjectorConfig:
    """Features of a square of patches to vectors of `width`.

    hidden: width between two linear maps (LLaVA); 0: a single map (PaliGemma).
    pool: this many patches along each side are averaged (Gemma-3).
    shuffle: instead, their channels are joined, so that the features are shuffle^2 as wide (Idefics-3).
    norm: an RMS norm before the maps, with `norm_offset` on its scale (Gemma-3).
    join: the channels of this many features that follow one another are joined, after the norm (Qwen2.5-VL, where
      patches come square by square).
    """

    width: int
    hidden: int = 0
    activation: Activation = "gelu"
    bias: bool = True
    pool: int = 1
    shuffle: int = 1
    norm: bool = False
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    join: int = 1

    def __post_init__(self):
        if self.pool < 1 or self.shuffle < 1 or (self.pool > 1 and self.shuffle > 1):
            raise ConfigError(f"a projector either pools ({self.pool}) or shuffles ({self.shuffle}), by 1 or more")


class Projector(nn.Module):
    """Picture features to vectors that stand in a text."""

    config: ProjectorConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "M P E"]) -> Float[Array, "M S D"]:
        """One vector for each patch, or for each square of `pool` or `shuffle` patches a side (row by row), or for each
        `join` patches.

        Raises:
          InputError: the patches are no square that is to be pooled, or do not divide.
        """
        config = self.config
        x = features.astype(self.dtype)
        if config.pool > 1:
            x = jnp.mean(_squares(x, config.pool), axis=(2, 4)).reshape(x.shape[0], -1, x.shape[-1])
        if config.shuffle > 1:
            x = _squares(x, config.shuffle).transpose(0, 1, 3, 2, 4, 5)
            x = x.reshape(x.shape[0], x.shape[1] * x.shape[2], -1)
        if config.norm:
            x = Norm("rms", config.norm_eps, config.norm_offset, name="norm")(x)
        if config.join > 1:
            if x.shape[1] % config.join:
                raise InputError(f"{x.shape[1]} patches do not divide into groups of {config.join}, which are joined")
            x = x.reshape(x.shape[0], -1, config.join * x.shape[-1])
        if config.hidden:
            up = Linear((config.hidden,), ("embed",), ("mlp",), config.bias, self.dtype, rows="image", name="up")
            x = ACTIVATIONS[config.activation](up(x))
        axis = "mlp" if config.hidden else "embed"
        return Linear((config.width,), (axis,), ("embed",), config.bias, self.dtype, rows="image", name="out")(x)


def _squares(x, side: int):
    """[M, side*h * side*w, E] -> [M, h, side, w, side, E]."""
    count, patches, width = x.shape
    length = math.isqrt(patches)
    if length**2 != patches or length % side:
        raise InputError(f"{patches} patches are not a square whose side divides by {side}")
    return x.reshape(count, length // side, side, length // side, side, width)
