"""Normalisation over the last dimension, computed in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float


def rms_norm(
    x: Float[Array, "*dims D"], scale: Float[Array, "D"], eps: float, offset: float = 0.0
) -> Float[Array, "*dims D"]:
    """x / sqrt(mean(x**2) + eps) * (offset + scale), in x's dtype (Zhang & Sennrich 2019).

    `offset` is 1 where the scale is stored around 0 (Gemma), else 0 (Llama).
    """
    wide = x.astype(jnp.float32)
    wide *= jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    return (wide * _aligned(scale.astype(jnp.float32) + offset, x.ndim)).astype(x.dtype)


def layer_norm(
    x: Float[Array, "*dims D"], scale: Float[Array, "D"] | None, bias: Float[Array, "D"] | None, eps: float
) -> Float[Array, "*dims D"]:
    """(x - mean) / sqrt(variance + eps) * scale + bias, in x's dtype (Ba et al. 2016)."""
    wide = x.astype(jnp.float32)
    wide -= jnp.mean(wide, axis=-1, keepdims=True)
    wide *= jax.lax.rsqrt(jnp.mean(jnp.square(wide), axis=-1, keepdims=True) + eps)
    if scale is not None:
        wide *= _aligned(scale.astype(jnp.float32), x.ndim)
    if bias is not None:
        wide += _aligned(bias.astype(jnp.float32), x.ndim)
    return wide.astype(x.dtype)


def _aligned(vector: Float[Array, "D"], rank: int) -> Float[Array, "*ones D"]:
    return vector.reshape((1,) * (rank - 1) + vector.shape)
