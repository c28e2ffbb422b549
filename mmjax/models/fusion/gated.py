"""The gated cross-attention block of Flamingo (Alayrac et al. 2022, figure 4)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.core.errors import ConfigError
from mmjax.layers.attention import Attention, AttentionConfig
from mmjax.layers.cache import KeyValue
from mmjax.layers.linear import Norm
from mmjax.layers.mlp import MLP, Activation
from mmjax.layers.parameters import parameter
from mmjax.ops.masks import AttentionMask
from mmjax.parallel.sharding import constrain


@dataclasses.dataclass(frozen=True)
class GatedCrossAttentionConfig:
    """Blocks before the decoder's layers `offset`, `offset + every`, and so on.

    before: instead, the layers that have a block before them; the decoder's depth stands for its end, and a layer that
      is named twice has two. Where they do not repeat, the depth is not scanned.
    qk_norm of the attention, RMS norms, and the two below are Mllama's.
    mlp_skips_unseen: a token that sees no image gets nothing from the feed-forward either.
    unseen_attends_all: a token that sees no image attends to all media of its row, as transformers has it, instead of
      getting nothing from the attention.
    `gate_init` is the value inside the tanh: 0 leaves a pre-trained language model as it was on the first step; a
    model trained from nothing learns faster from about 0.5.
    """

    attention: AttentionConfig
    mlp_width: int
    every: int = 1
    offset: int = 0
    before: tuple[int, ...] | None = None
    activation: Activation = "squared_relu"
    mlp_gated: bool = False
    norm: Literal["rms", "layer"] = "layer"
    norm_eps: float = 1e-5
    gate_init: float = 0.0
    gate_shape: Literal["scalar", "channel"] = "scalar"
    mlp_skips_unseen: bool = False
    unseen_attends_all: bool = False

    def __post_init__(self):
        if not 0 <= self.offset < self.every:
            raise ConfigError(f"offset must be from 0 to {self.every - 1} (every - 1), not {self.offset}")

    def slots(self, layers: int) -> tuple[int, ...]:
        """Of `layers` decoder layers, from a superblock's start on, those with a block before them."""
        return tuple(range(self.offset, layers, self.every)) if self.before is None else self.before


class GatedCrossAttention(nn.Module):
    """`x + tanh(a) attention(norm x, media)`, then `x + tanh(b) mlp(norm x)`.

    The mask's query segments are the media index of the text and its key segments the image numbers, so a
    token that looks at no image gets exactly zero from the attention (unless the config says otherwise).
    """

    config: GatedCrossAttentionConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        media: Float[Array, "B S E"] | None,
        mask: AttentionMask,
        cache: KeyValue | None = None,
        *,
        shared: KeyValue | None = None,
        shared_mask: AttentionMask | None = None,
    ) -> tuple[Float[Array, "B T D"], KeyValue]:
        """Attends to `media`, or to a cache of its keys and values; returns the text and those keys and values.

        shared: keys and values of media of one row, which all rows may look at besides.
        """
        config = self.config
        seen = None
        if config.mlp_skips_unseen or config.unseen_attends_all:
            grids = [mask.dense(x.shape[1], (cache.key if media is None else media).shape[1])]
            grids += [] if shared is None else [shared_mask.dense(x.shape[1], shared.key.shape[1])]
            seen = functools.reduce(jnp.logical_or, (jnp.any(grid, axis=-1, keepdims=True) for grid in grids))
            if config.unseen_attends_all:
                mask, *further = (AttentionMask(allowed=grid | ~seen) for grid in grids)
                shared_mask = further[0] if further else None
        y = Norm(config.norm, config.norm_eps, name="attention_norm")(x)
        attend = Attention(config.attention, dtype=self.dtype, name="attention")
        y, pair = attend(y, media, mask=mask, cache=cache, shared=shared, shared_mask=shared_mask)
        x = x + self._gate("attention_gate", x) * y
        y = Norm(config.norm, config.norm_eps, name="mlp_norm")(x)
        y = MLP(config.mlp_width, config.activation, config.mlp_gated, dtype=self.dtype, name="mlp")(y)
        if config.mlp_skips_unseen:
            y = jnp.where(seen, y, jnp.zeros((), y.dtype))
        x = x + self._gate("mlp_gate", x) * y
        return constrain(x, "batch", "length", "embed"), pair

    def _gate(self, name, x):
        channels = x.shape[-1:] if self.config.gate_shape == "channel" else ()
        axes = ("embed",) if channels else ()
        init = nn.initializers.constant(self.config.gate_init)
        gate = jnp.tanh(parameter(self, name, init, channels, axes)).astype(x.dtype)
        return gate.reshape((1,) * (x.ndim - gate.ndim) + gate.shape)
