"""The attention layer: projections, norms and positions around `ops.attention`; self, cross and cached."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import ConfigError
from mmjax.layers.cache import KeyValue, Meeting
from mmjax.layers.linear import Linear, Norm
from mmjax.ops.attention import AttentionShards, Keys, attention, attention_over
from mmjax.ops.masks import AttentionMask
from mmjax.ops.rope import apply_rope
from mmjax.parallel.sharding import Rows, constrain, current_mesh, mesh_axes_of, partition_spec


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


def _project(config: AttentionConfig, x, heads, axis, name, rows, dtype):
    outputs = (heads, config.head_width)
    return Linear(outputs, ("embed",), (axis, "head_dim"), config.qkv_bias, dtype, rows=rows, name=name)(x)


def _qk_norm(config: AttentionConfig, x, name):
    if config.qk_norm == "none":
        return x
    norm = Norm(config.qk_norm_kind, config.norm_eps, config.norm_offset, config.qk_norm_bias, axis=None, name=name)
    if config.qk_norm == "head":
        return norm(x)
    return norm(x.reshape(*x.shape[:-2], -1)).reshape(x.shape)


def _key_value(config: AttentionConfig, memory, positions, frequencies, sections, rows, dtype) -> KeyValue:
    key = _qk_norm(config, _project(config, memory, config.groups, "kv_heads", "key", rows, dtype), "key_norm")
    value = _project(config, memory, config.groups, "kv_heads", "value", rows, dtype)
    if frequencies is not None:
        key = apply_rope(key, positions, frequencies, sections)
    return KeyValue(*(constrain(x, rows, None, "kv_heads", None) for x in (key, value)))


def _shards(shape: tuple[int, ...], axes: tuple[str | None, ...]) -> AttentionShards | None:
    mesh = current_mesh()
    if mesh is None:
        return None
    spec = partition_spec(shape, axes, mesh)
    batch, length, heads = (mesh_axes_of(spec, place) for place in range(3))
    return AttentionShards(mesh, batch, heads, length)


class KeyValueProjection(nn.Module):
    """Keys and values of a memory, with weights of their own."""

    config: AttentionConfig
    dtype: Any = jnp.float32
    rows: Rows = "batch"

    @nn.compact
    def __call__(self, memory: Float[Array, "B S D"]) -> KeyValue:
        return _key_value(self.config, memory, None, None, None, self.rows, self.dtype)


class Attention(nn.Module):
    """Multi-head attention with grouped keys and values.

    Sources of keys and values: `memory` (projected here; self-attention when it is the input itself), `extra`
    (projected elsewhere, placed before the memory's), a `cache`, and `shared` ones of one row, which all rows see
    besides. With a cache and a memory, `meeting` says where the memory's keys and values are written, what is attended
    to and by which mask. Without a memory the cache is read only. Where the cache is a stack of layers', `layer` is
    the number of this one. `rows` is what the first axis counts: rows of a batch, or pictures.
    """

    config: AttentionConfig
    rope_frequencies: np.ndarray | None = None
    rope_sections: tuple[int, ...] | None = None
    alibi_slopes: np.ndarray | None = None
    out_init_scale: float = 1.0
    dtype: Any = jnp.float32
    rows: Rows = "batch"

    @property
    def query_axes(self) -> tuple[str | None, ...]:
        """Logical axes of queries and outputs: rows of text are cut by positions too, pictures are not."""
        return (self.rows, "length" if self.rows == "batch" else None, "heads", None)

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B T D"],
        memory: Float[Array, "B S E"] | None,
        *,
        mask: AttentionMask | None = None,
        positions: Int[Array, "B T"] | Int[Array, "B T axes"] | None = None,
        extra: KeyValue | None = None,
        cache: KeyValue | None = None,
        meeting: Meeting | None = None,
        layer: Int[Array, ""] | None = None,
        shared: KeyValue | None = None,
        shared_mask: AttentionMask | None = None,
    ) -> tuple[Float[Array, "B T D"], KeyValue]:
        """Returns the output and the keys and values that were attended to (the updated cache, if there is one)."""
        config = self.config
        query = _qk_norm(
            config, _project(config, x, config.heads, "heads", "query", self.rows, self.dtype), "query_norm"
        )
        if self.rope_frequencies is not None:
            query = apply_rope(query, positions, self.rope_frequencies, self.rope_sections)
        query = constrain(query, *self.query_axes)
        if memory is None:
            kept = pair = cache
        else:
            turned_by = (positions, self.rope_frequencies, self.rope_sections)
            kept = pair = _key_value(config, memory, *turned_by, self.rows, self.dtype)
            if extra is not None:
                kept = pair = extra.before(pair)
            if meeting is not None:
                kept = meeting.write(cache, pair, layer)
                pair, mask = meeting.attended(cache, kept, pair, layer), meeting.mask
        # Kept only by a caller that asks for the collection: what the attention maps of a report are drawn from.
        self.sow("attention", "queries", query)
        self.sow("attention", "keys", pair.key)
        slopes = None if self.alibi_slopes is None else jnp.asarray(self.alibi_slopes)
        settings = {"scale": config.scale, "softcap": config.softcap, "alibi_slopes": slopes}
        seen = Keys(pair.key.astype(self.dtype), pair.value.astype(self.dtype), mask)
        if shared is None:
            y = attention(
                query, seen.key, seen.value, mask=mask, **settings, shards=_shards(query.shape, self.query_axes)
            )
        else:
            beside = Keys(shared.key.astype(self.dtype), shared.value.astype(self.dtype), shared_mask)
            y = attention_over(query, (beside, seen), **settings)
        y = constrain(y, *self.query_axes)
        out = Linear(
            (x.shape[-1],),
            ("heads", "head_dim"),
            ("embed",),
            config.out_bias,
            self.dtype,
            self.out_init_scale,
            self.rows,
            name="out",
        )
        return out(y), kept
