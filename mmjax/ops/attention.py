"""Attention, one function: grouped heads, masks as rules, and a backend for each kind of machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.core.errors import InputError
from mmjax.ops._attention_cudnn import cudnn_attention, cudnn_refusal
from mmjax.ops._attention_splash import splash_attention, splash_refusal
from mmjax.ops._attention_xla import xla_attention
from mmjax.ops.masks import AttentionMask

BACKENDS = ("reference", "xla", "cudnn", "splash")

_SHORT = 128  # fewer queries than this leave a TPU kernel's blocks mostly empty
_BLOCK_SCORES = 2**17  # scores of one head that the XLA backend holds at a time
_SMALLEST_BLOCK = 128

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
) -> Float[Array, "B T H Kv"]:
    """softmax(scale query key^T) value over the keys that `mask` shows to each query.

    A query that sees nothing gives exactly 0, and passes no gradient. The softmax is taken in float32.
    Each of the G key/value heads serves H/G neighbouring query heads (Ainslie et al. 2023).

    The backends: "reference" is the definition, in float32; "xla" runs everywhere and does everything;
    "cudnn" (CUDA) and "splash" (TPU; elsewhere interpreted, slowly) never form the scores. By default a
    flash kernel is taken on its platform where it can do what is asked, else "xla". A kernel sees one
    device's part: under a mesh, call this function inside `shard_map` over batch and heads.

    "xla" and "splash" name what they keep for the backward pass "attention": a `jax.checkpoint` policy
    that saves this name keeps a recomputed block from attending twice.

    Args:
      scale: factor on the scores; K**-0.5 by default.
      softcap: scores become softcap * tanh(scores / softcap) (Gemma 2).
      alibi_slopes: a head's penalty per position of distance, added after the soft-cap (Press et al. 2022);
        constants, no gradient is taken for them.
      backend: one of `BACKENDS`, instead of that of `default_backend` or the choice by platform.

    Raises:
      InputError: shapes or dtypes that do not fit, an unknown backend, or a named one that cannot do this.
    """
    _check_inputs(query, key, value, mask, alibi_slopes)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    name = backend if backend is not None else _chosen_backend.value
    platform = _target_platform.value or jax.default_backend()
    refusals = {
        "cudnn": cudnn_refusal(query, key, value, mask, softcap, alibi_slopes, platform),
        "splash": splash_refusal(query, key, value, mask, alibi_slopes),
    }
    if name is None:
        name = _fastest(platform, query, refusals)
    _check_backend(name)
    if refusals.get(name):
        raise InputError(f"attention backend {name!r} cannot do this: {refusals[name]}; use backend='xla'")
    if name == "reference":
        return _reference(query, key, value, mask, scale, softcap, alibi_slopes)
    if name == "cudnn":
        return cudnn_attention(query, key, value, mask, scale)
    if name == "splash":
        return splash_attention(query, key, value, mask, scale, softcap, interpret=platform != "tpu")
    blocks = -(-query.shape[1] // max(_BLOCK_SCORES // key.shape[1], _SMALLEST_BLOCK))
    return xla_attention(query, key, value, mask, scale, softcap, alibi_slopes, -(-query.shape[1] // blocks))


def _fastest(platform: str, query, refusals: dict[str, str | None]) -> str:
    if platform in ("gpu", "cuda") and not refusals["cudnn"]:
        return "cudnn"
    if platform == "tpu" and not refusals["splash"] and query.shape[1] >= _SHORT:
        return "splash"
    return "xla"


def _reference(query, key, value, mask, scale, softcap, alibi_slopes):
    """The definition, in float32 (or float64 where the inputs are)."""
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
