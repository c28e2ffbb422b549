"""Attention, one function: grouped heads, masks as rules, and a backend for each kind of machine."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mmjax.core.arrays import Array, Float
from mmjax.core.errors import InputError
from mmjax.ops._attention_cudnn import cudnn_attention, cudnn_refusal
from mmjax.ops._attention_splash import splash_attention, splash_kernel, splash_refusal
from mmjax.ops._attention_xla import merged, xla_attention, xla_attention_total
from mmjax.ops.masks import MASK_ARRAYS, AttentionMask

BACKENDS = ("reference", "xla", "cudnn", "splash")

_SHORT = 128  # fewer queries than this leave a TPU kernel's blocks mostly empty
_BLOCK_SCORES = 2**17  # scores of one head that the XLA backend holds at a time
_SMALLEST_BLOCK = 128


@dataclasses.dataclass(frozen=True)
class AttentionShards:
    """Over which axes of a mesh rows, heads and query positions are split.

    Every device has the keys of its rows and heads whole: with `length`, context parallelism by gathered keys
    (Llama 3, Dubey et al. 2024, section 3.3.2).
    """

    mesh: Mesh
    batch: tuple[str, ...]
    heads: tuple[str, ...]
    length: tuple[str, ...]

    def ways(self, axes: tuple[str, ...]) -> int:
        """Parts that `axes` cut a dimension into."""
        return math.prod(self.mesh.shape[axis] for axis in axes)


_chosen_backend = jax.make_user_context(default_value=None)
_target_platform = jax.make_user_context(default_value=None)


@contextlib.contextmanager
def default_backend(name: str | None) -> Iterator[None]:
    """Uses the backend `name` wherever a call names none; None returns to the choice by platform.

    A jitted function called under another default is traced anew.

    Raises:
      InputError: no such backend.
    """
    _check_backend(name)
    with _chosen_backend(name):
        yield


@contextlib.contextmanager
def target_platform(name: str) -> Iterator[None]:
    """Chooses backends for the platform `name` ("cpu", "cuda", "tpu") instead of this machine's.

    For programs that are traced here and compiled for another machine.
    """
    with _target_platform(name):
        yield


def attention(
    query: Float[Array, "B T H K"],
    key: Float[Array, "B S G K"],
    value: Float[Array, "B S G Kv"],
    *,
    mask: AttentionMask = AttentionMask(),  # noqa: B008 (frozen)
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Float[Array, "H"] | None = None,
    backend: str | None = None,
    shards: AttentionShards | None = None,
) -> Float[Array, "B T H Kv"]:
    """softmax(scale query key^T) value over the keys that `mask` shows to each query.

    A query that sees nothing gives exactly 0, and passes no gradient. The softmax is taken in float32.
    Each of the G key/value heads serves H/G neighbouring query heads (Ainslie et al. 2023).

    The backends: "reference" is the definition, in float32; "xla" runs everywhere and does everything;
    "cudnn" (CUDA) and "splash" (TPU; elsewhere interpreted, slowly) never form the scores. By default a
    flash kernel is taken on its platform where it can do what is asked, else "xla". Under a mesh, say by
    `shards` how the arrays lie: every device then works on its own part.

    "xla" and "splash" name what they keep for the backward pass "attention": a `jax.checkpoint` policy
    that saves this name keeps a recomputed block from attending twice.

    Args:
      scale: factor on the scores; K**-0.5 by default.
      softcap: scores become softcap * tanh(scores / softcap) (Gemma 2).
      alibi_slopes: a head's penalty per position of distance, added after the soft-cap (Press et al. 2022);
        constants, no gradient is taken for them.
      backend: one of `BACKENDS`, instead of that of `default_backend` or the choice by platform.
      shards: how rows, heads and queries lie on a mesh, whose axes divide them.

    Raises:
      InputError: shapes or dtypes that do not fit, an unknown backend, or a named one that cannot do this.
    """
    _check_inputs(query, key, value, mask, alibi_slopes)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    parts = 1 if shards is None else shards.ways(shards.length)
    name = backend if backend is not None else _chosen_backend.value
    platform = chosen_platform()
    refusals = {
        "cudnn": cudnn_refusal(query, key, value, mask, softcap, alibi_slopes, platform),
        "splash": splash_refusal(query, key, value, mask, alibi_slopes, parts),
    }
    if parts > 1 and mask.window is not None:
        refusals["cudnn"] = refusals["cudnn"] or "it has a window only where there are as many queries as keys"
    if name is None:
        name = _fastest(platform, query.shape[1] // parts, refusals)
    _check_backend(name)
    if refusals.get(name):
        raise InputError(f"attention backend {name!r} cannot do this: {refusals[name]}; use backend='xla'")
    kernel = None
    if name == "splash":
        heads = query.shape[2] // (1 if shards is None else shards.ways(shards.heads))
        kernel = splash_kernel(heads, query.shape[1], key.shape[1], mask, softcap, platform != "tpu", parts)
    run = functools.partial(_run, name, scale, softcap)
    if shards is None:
        return run(query, key, value, mask, alibi_slopes, kernel)
    return _on_shards(run, shards, query, key, value, mask, alibi_slopes, kernel)


def chosen_platform() -> str:
    """The platform that programs are made for here."""
    return _target_platform.value or jax.default_backend()


class Keys(NamedTuple):
    """A part of the keys that queries attend to, and who sees which of them."""

    key: Float[Array, "B S G K"]
    value: Float[Array, "B S G Kv"]
    mask: AttentionMask


def attention_over(
    query: Float[Array, "B T H K"],
    parts: Sequence[Keys],
    *,
    scale: float | None = None,
    softcap: float | None = None,
    alibi_slopes: Float[Array, "H"] | None = None,
) -> Float[Array, "B T H Kv"]:
    """`attention` over the keys of all parts together, not to be differentiated.

    A part of one row is seen by all rows of the queries, and is not copied for them: each part is attended to apart,
    and what it gives is weighted by its share of the softmax (as flash attention does with blocks; Dao et al. 2022).

    Raises:
      InputError: shapes or dtypes that do not fit.
    """
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    found = []
    for key, value, mask in parts:
        shared = key.shape[0] == 1 < query.shape[0]
        own, mask = _in_one_row(query, mask) if shared else (query, mask)
        _check_inputs(own, key, value, mask, alibi_slopes)
        block = _block(own.shape[1], key.shape[1])
        part = xla_attention_total(own, key, value, mask, scale, softcap, alibi_slopes, block)
        found.append(tuple(x.reshape(*query.shape[:2], *x.shape[2:]) for x in part))
    return merged(found)


def _in_one_row(query, mask: AttentionMask):
    """All rows' queries one after the other, and the mask for them."""
    rows, length = query.shape[:2]
    query_positions = jnp.broadcast_to(mask.positions(length, 1)[0], (rows, length))
    mask = dataclasses.replace(mask, query_positions=query_positions)
    of_queries = {
        name: getattr(mask, name).reshape(1, rows * length, *getattr(mask, name).shape[2:])
        for name in ("query_segments", "query_positions", "query_blocks", "allowed")
        if getattr(mask, name) is not None
    }
    return query.reshape(1, rows * length, *query.shape[2:]), dataclasses.replace(mask, **of_queries)


def _block(queries: int, keys: int) -> int:
    """How many queries the XLA backend takes at once."""
    blocks = -(-queries // max(_BLOCK_SCORES // keys, _SMALLEST_BLOCK))
    return -(-queries // blocks)


def _run(name: str, scale, softcap, query, key, value, mask, alibi_slopes, kernel):
    if name == "reference":
        return _reference(query, key, value, mask, scale, softcap, alibi_slopes)
    if name == "cudnn":
        return cudnn_attention(query, key, value, mask, scale)
    if name == "splash":
        return splash_attention(query, key, value, mask, scale, kernel)
    return xla_attention(query, key, value, mask, scale, softcap, alibi_slopes, _block(query.shape[1], key.shape[1]))


def _on_shards(run, shards: AttentionShards, query, key, value, mask: AttentionMask, alibi_slopes, kernel):
    """`run` of each device's part."""
    batch, heads, length = (axes or None for axes in (shards.batch, shards.heads, shards.length))
    ways = shards.ways(shards.heads)
    if key.shape[2] % ways:
        # Fewer key heads than devices to hold them: each gets the one that its query heads use.
        key, value = (jnp.repeat(x, math.lcm(x.shape[2], ways) // x.shape[2], axis=2) for x in (key, value))
    if shards.length and mask.causal:
        query_positions, key_positions = mask.positions(query.shape[1], key.shape[1])
        mask = dataclasses.replace(mask, query_positions=query_positions, key_positions=key_positions)

    def of_rule(name, rule):
        if rule is None:
            return None
        of_query = length if name.startswith("query") or name == "allowed" else None
        return P(batch if rule.shape[0] == query.shape[0] else None, of_query)

    rules = {field.name: getattr(mask, field.name) for field in dataclasses.fields(mask) if field.name in MASK_ARRAYS}
    mask_spec = dataclasses.replace(mask, **{name: of_rule(name, rule) for name, rule in rules.items()})
    kernel_spec = None
    if kernel is not None:
        kernel_spec = kernel.manual_sharding_spec(NamedSharding(shards.mesh, P(None, length)))
    specs = (
        P(batch, length, heads),
        P(batch, None, heads),
        P(batch, None, heads),
        mask_spec,
        None if alibi_slopes is None else P(heads),
        kernel_spec,
    )
    mapped = jax.shard_map(run, mesh=shards.mesh, in_specs=specs, out_specs=specs[0], check_vma=False)
    return mapped(query, key, value, mask, alibi_slopes, kernel)


def _fastest(platform: str, queries: int, refusals: dict[str, str | None]) -> str:
    if platform in ("gpu", "cuda") and not refusals["cudnn"]:
        return "cudnn"
    if platform == "tpu" and not refusals["splash"] and queries >= _SHORT:
        return "splash"
    return "xla"


def _reference(query, key, value, mask, scale, softcap, alibi_slopes):
    """The definition, in float32 (or float64 where the inputs are)."""
    with jax.named_scope(_seen_scope(mask, query.shape[1], key.shape[1])):
        return _by_definition(query, key, value, mask, scale, softcap, alibi_slopes)


def _seen_scope(mask: AttentionMask, queries: int, keys: int) -> str:
    """How many of the pairs causality and a window leave, by which FLOPs are told of what is computed in vain.

    Of a causal grid half, as is the custom.
    """
    seen = total = queries * keys
    if mask.causal and queries == keys and mask.query_positions is None:
        width = queries if mask.window is None else min(mask.window, queries)
        seen = total // 2 if width == queries else width * queries - width * (width - 1) // 2
    return f"seen_{seen}_of_{total}"


def _by_definition(query, key, value, mask, scale, softcap, alibi_slopes):
    wide = jnp.float64 if query.dtype == jnp.float64 else jnp.float32
    queries, keys = query.shape[1], key.shape[1]
    repeats = query.shape[2] // key.shape[2]
    query, key, repeated = (
        x.astype(wide) for x in (query, jnp.repeat(key, repeats, axis=2), jnp.repeat(value, repeats, axis=2))
    )
    scores = jnp.einsum("bthk,bshk->bhts", query, key, precision="highest") * scale
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if alibi_slopes is not None:
        query_positions, key_positions = mask.positions(queries, keys)
        distance = jnp.abs(query_positions[:, :, None] - key_positions[:, None, :])
        slopes = jax.lax.stop_gradient(alibi_slopes).astype(wide)
        scores -= slopes[None, :, None, None] * distance[:, None].astype(wide)
    grid = mask.dense(queries, keys)[:, None]
    sees_any = grid.any(-1, keepdims=True)
    weights = jax.nn.softmax(jnp.where(grid | ~sees_any, scores, -jnp.inf), axis=-1)
    weights = jnp.where(sees_any, weights, 0)
    return jnp.einsum("bhts,bshk->bthk", weights, repeated, precision="highest").astype(value.dtype)


def _check_backend(name: str | None) -> None:
    if name is not None and name not in BACKENDS:
        raise InputError(f"there is no attention backend {name!r}; choose from {', '.join(BACKENDS)}")


def _check_inputs(query, key, value, mask: AttentionMask, alibi_slopes) -> None:
    fits = (
        query.ndim == key.ndim == value.ndim == 4
        and query.shape[0] == key.shape[0] == value.shape[0]
        and query.shape[3] == key.shape[3]
        and key.shape[1:3] == value.shape[1:3]
        and query.shape[2] % key.shape[2] == 0
    )
    if not fits:
        raise InputError(
            "attention needs query [B,T,H,K], key [B,S,G,K] and value [B,S,G,Kv] with H a multiple of G, "
            f"not {query.shape}, {key.shape} and {value.shape}"
        )
    if not query.dtype == key.dtype == value.dtype:
        raise InputError(
            f"attention needs one dtype for query, key and value, not {query.dtype}, {key.dtype} and {value.dtype}"
        )
    if alibi_slopes is not None and alibi_slopes.shape != query.shape[2:3]:
        raise InputError(f"alibi_slopes must be one number a head, [{query.shape[2]}], not {alibi_slopes.shape}")
    batch, queries, keys = query.shape[0], query.shape[1], key.shape[1]
    for name, length in (
        ("query_segments", queries),
        ("query_positions", queries),
        ("key_segments", keys),
        ("key_positions", keys),
        ("prefix", keys),
        ("query_blocks", queries),
        ("key_blocks", keys),
    ):
        rule = getattr(mask, name)
        if rule is not None and rule.shape not in ((batch, length), (1, length)):
            raise InputError(f"the mask's {name} must be [{batch},{length}], not {rule.shape}")
    if mask.allowed is not None and mask.allowed.shape not in ((batch, queries, keys), (1, queries, keys)):
        raise InputError(f"the mask's allowed must be [{batch},{queries},{keys}], not {mask.allowed.shape}")
