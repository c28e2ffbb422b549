"""The attention layer: projections, norms and positions around `ops.attention`; self, cross and cached."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import ConfigError
from mmjax.layers.linear import Linear, Norm
from mmjax.ops.attention import attention
from mmjax.ops.masks import AttentionMask
from mmjax.ops.rope import apply_rope
from mmjax.parallel.sharding import constrain


@flax.struct.dataclass
class KeyValue:
    """Keys and values of one layer, or of a stack of layers with a leading axis: what a cache holds."""

    key: Float[Array, "*L B S G K"]
    value: Float[Array, "*L B S G K"]


@dataclasses.dataclass(frozen=True)
class AttentionConfig:
    """One attention layer. `kv_heads` divides `heads` (grouped queries); None: as many as heads.

    qk_norm: "head" normalises each head's queries and keys, "full" all heads together (MPT).
    qk_norm_bias: these norms, of kind "layer", have a bias (IDEFICS' resampler).
    scale: multiplies the scores; None: head_width ** -0.5.
    """

    heads: int
    head_width: int
    kv_heads: int | None = None
    qkv_bias: bool = False
    out_bias: bool = False
    qk_norm: Literal["none", "head", "full"] = "none"
    qk_norm_kind: Literal["rms", "layer"] = "rms"
    qk_norm_bias: bool = False
    norm_eps: float = 1e-6
    norm_offset: float = 0.0
    scale: float | None = None
    softcap: float | None = None

    def __post_init__(self):
        if self.heads % self.groups:
            raise ConfigError(f"heads ({self.heads}) must be a multiple of kv_heads ({self.groups})")

    @property
    def groups(self) -> int:
        """Number of key/value heads."""
        return self.kv_heads or self.heads


def _project(config: AttentionConfig, x, heads, axis, name, dtype):
    kernel = Linear((heads, config.head_width), ("embed",), (axis, "head_dim"), config.qkv_bias, dtype, name=name)
    return kernel(x)


def _qk_norm(config: AttentionConfig, x, name):
    if config.qk_norm == "none":
        return x
    norm = Norm(config.qk_norm_kind, config.norm_eps, config.norm_offset, config.qk_norm_bias, axis=None, name=name)
    if config.qk_norm == "head":
        return norm(x)
    return norm(x.reshape(*x.shape[:-2], -1)).reshape(x.shape)


def _key_value(config: AttentionConfig, memory, positions, frequencies, sections, dtype) -> KeyValue:
    key = _qk_norm(config, _project(config, memory, config.groups, "kv_heads", "key", dtype), "key_norm")
    value = _project(config, memory, config.groups, "kv_heads", "value", dtype)
    if frequencies is not None:
        key = apply_rope(key, positions, frequencies, sections)
    return KeyValue(constrain(key, "batch", None, "kv_heads", None), constrain(value, "batch", None, "kv_heads", None))


class KeyValueProjection(nn.Module):
    """Keys and values of a memory, with weights of their own."""

    config: AttentionConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, memory: Float[Array, "B S D"]) -> KeyValue:
        return _key_value(self.config, memory, None, None, None, self.dtype)


class Attention(nn.Module):
    """Multi-head attention with grouped keys and values.

    Three sources of keys and values: `memory` (projected here; self-attention when it is the input
    itself), `extra` (projected elsewhere, placed before the memory's), or a `cache`. With a cache and a memory,
    the memory's keys and values are written at `write_index [B,S]` and all of the cache is attended to.
    Without a memory the cache is read only.
    """

    config: AttentionConfig
    rope_frequencies: np.ndarray | None = None
    rope_sections: tuple[int, ...] | None = None
    alibi_slopes: np.ndarray | None = None
    out_init_scale: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        memory: Float[Array, "B S E"] | None,
        *,
        mask: AttentionMask,
        positions: Int[Array, "B T"] | Int[Array, "B T axes"] | None = None,
        extra: KeyValue | None = None,
        cache: KeyValue | None = None,
        write_index: Int[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B T D"], KeyValue]:
        """Returns the output and the keys and values that were attended to (the updated cache, if there is one)."""
        config = self.config
        query = _qk_norm(config, _project(config, x, config.heads, "heads", "query", self.dtype), "query_norm")
        if self.rope_frequencies is not None:
            query = apply_rope(query, positions, self.rope_frequencies, self.rope_sections)
        query = constrain(query, "batch", "length", "heads", None)
        if memory is None:
            pair = cache
        else:
            pair = _key_value(config, memory, positions, self.rope_frequencies, self.rope_sections, self.dtype)
            if extra is not None:
                pair = KeyValue(
                    jnp.concatenate([extra.key, pair.key], axis=1), jnp.concatenate([extra.value, pair.value], axis=1)
                )
            if write_index is not None:
                rows = jnp.arange(x.shape[0])[:, None]
                pair = KeyValue(
                    cache.key.at[rows, write_index].set(pair.key.astype(cache.key.dtype)),
                    cache.value.at[rows, write_index].set(pair.value.astype(cache.value.dtype)),
                )
        # Kept only by a caller that asks for the collection: what the attention maps of a report are drawn from.
        self.sow("attention", "queries", query)
        self.sow("attention", "keys", pair.key)
        slopes = None if self.alibi_slopes is None else jnp.asarray(self.alibi_slopes)
        y = attention(
            query,
            pair.key.astype(self.dtype),
            pair.value.astype(self.dtype),
            mask=mask,
            scale=config.scale,
            softcap=config.softcap,
            alibi_slopes=slopes,
        )
        y = constrain(y, "batch", "length", "heads", None)
        out = Linear(
            (x.shape[-1],),
            ("heads", "head_dim"),
            ("embed",),
            config.out_bias,
            self.dtype,
            self.out_init_scale,
            name="out",
        )
        return out(y), pair
