"""Attention, one function: grouped heads, masks as rules, and a backend for each kind of machine."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.core.errors import InputError
from mmjax.ops.masks import AttentionMask

BACKENDS = ("reference", "xla", "cudnn", "splash")

_chosen_backend = jax.make_user_context(default_value=None)


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
    Each of the G key/value heads serves H/G neighbouring query heads (Ainslie et al. 2023, GQA).

    Args:
      scale: factor on the scores; K**-0.5 by default.
      softcap: scores become softcap * tanh(scores / softcap) (Gemma 2).
      alibi_slopes: a head's penalty per position of distance, added after the soft-cap (Press et al. 2022).
      backend: one of `BACKENDS`; by default that of `default_backend`, else the fastest of the platform
        that can do what is asked.

    Raises:
      InputError: shapes that do not fit, an unknown backend, or a named one that cannot do this.
    """
    _check_shapes(query, key, value, alibi_slopes)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    name = backend if backend is not None else _chosen_backend.value
    _check_backend(name)
    run = _reference if name == "reference" else _xla
    return run(query, key, value, mask, scale, softcap, alibi_slopes)


def _reference(query, key, value, mask, scale, softcap, alibi_slopes):
    """The definition, in float32 (or float64 where the inputs are)."""
    wide = jnp.float64 if query.dtype == jnp.float64 else jnp.float32
    (queries, heads), keys = query.shape[1:3], key.shape[1]
    key = jnp.repeat(key, heads // key.shape[2], axis=2).astype(wide)
    repeated = jnp.repeat(value, heads // value.shape[2], axis=2).astype(wide)
    scores = jnp.einsum("bthk,bshk->bhts", query.astype(wide), key, precision="highest") * scale
    scores = _adjusted(scores, mask, queries, keys, softcap, alibi_slopes)
    grid = mask.dense(queries, keys)[:, None]
    sees_any = grid.any(-1, keepdims=True)
    weights = jax.nn.softmax(jnp.where(grid | ~sees_any, scores, -jnp.inf), axis=-1)
    weights = jnp.where(sees_any, weights, 0)
    return jnp.einsum("bhts,bshk->bthk", weights, repeated, precision="highest").astype(value.dtype)


def _xla(query, key, value, mask, scale, softcap, alibi_slopes):
    """Keys and values stay as they are (neither repeated nor widened); scores are float32."""
    wide = jnp.float64 if query.dtype == jnp.float64 else jnp.float32
    batch, queries, heads, width = query.shape
    keys, groups = key.shape[1:3]
    grouped = query.reshape(batch, queries, groups, heads // groups, width)
    scores = jnp.einsum("btgrk,bsgk->bgrts", grouped, key, preferred_element_type=wide) * scale
    if softcap is not None or alibi_slopes is not None:
        scores = scores.reshape(batch, heads, queries, keys)
        scores = _adjusted(scores, mask, queries, keys, softcap, alibi_slopes)
        scores = scores.reshape(batch, groups, heads // groups, queries, keys)
    if not mask.sees_all:
        grid = mask.dense(queries, keys)[:, None, None]
        scores = jnp.where(grid, scores, jnp.finfo(wide).min / 2)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    if not mask.sees_all:
        weights = jnp.where(grid, weights, 0)
    total = jnp.einsum("bgrts->btgr", weights)[..., None]
    mixed = jnp.einsum("bgrts,bsgk->btgrk", weights.astype(value.dtype), value, preferred_element_type=wide)
    output = mixed / jnp.where(total == 0, 1, total)
    return output.reshape(batch, queries, heads, value.shape[-1]).astype(value.dtype)


def _adjusted(scores, mask, queries, keys, softcap, alibi_slopes):
    """Scores [B,H,T,S] after the soft-cap and with the distance penalty."""
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    if alibi_slopes is not None:
        query_positions, key_positions = mask.positions(queries, keys)
        distance = jnp.abs(query_positions[:, :, None] - key_positions[:, None, :]).astype(scores.dtype)
        scores -= alibi_slopes.astype(scores.dtype)[None, :, None, None] * distance[:, None]
    return scores


def _check_backend(name: str | None) -> None:
    if name is not None and name not in BACKENDS:
        raise InputError(f"there is no attention backend {name!r}; choose from {', '.join(BACKENDS)}")


def _check_shapes(query, key, value, alibi_slopes) -> None:
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
    if alibi_slopes is not None and alibi_slopes.shape != query.shape[2:3]:
        raise InputError(f"alibi_slopes must be one number a head, [{query.shape[2]}], not {alibi_slopes.shape}")
