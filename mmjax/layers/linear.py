"""Linear maps and norms with named axes; float32 parameters, computation in the module's dtype."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.ops.norms import layer_norm, rms_norm

Initializer = Callable[..., Any]


def fan_in_normal(scale: float = 1.0, inputs: int = 1) -> Initializer:
    """Truncated normal of variance scale / fan-in, where the first `inputs` dimensions of a kernel are its inputs."""

    def init(key, shape, dtype=jnp.float32):
        deviation = math.sqrt(scale / math.prod(shape[:inputs]))
        # 0.8796 is the standard deviation of a unit normal truncated at two.
        return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) * (deviation / 0.87962566103423978)

    return init


class Linear(nn.Module):
    """Contracts the last `len(in_axes)` dimensions of the input with a kernel of `in_axes + out_axes`.

    Kernel: `[*inputs, *outputs]`; bias: `[*outputs]`.
    """

    outputs: tuple[int, ...]
    in_axes: tuple[str | None, ...]
    out_axes: tuple[str | None, ...]
    use_bias: bool = False
    dtype: Any = jnp.float32
    init_scale: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, ...]) -> Float[Array, ...]:
        contracted = len(self.in_axes)
        inputs = x.shape[x.ndim - contracted :]
        init = nn.with_logical_partitioning(fan_in_normal(self.init_scale, contracted), self.in_axes + self.out_axes)
        kernel = self.param("kernel", init, inputs + self.outputs, jnp.float32).astype(self.dtype)
        dimensions = (tuple(range(x.ndim - contracted, x.ndim)), tuple(range(contracted)))
        y = jax.lax.dot_general(x.astype(self.dtype), kernel, (dimensions, ((), ())))
        if self.use_bias:
            init = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.out_axes)
            bias = self.param("bias", init, self.outputs, jnp.float32).astype(self.dtype)
            y = y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)
        return y


class Norm(nn.Module):
    """RMSNorm or LayerNorm over the last dimension, computed in float32.

    `offset` is added to the RMS scale, which then starts at 1 - offset (Gemma: 1).
    """

    kind: Literal["rms", "layer"] = "rms"
    eps: float = 1e-6
    offset: float = 0.0
    use_bias: bool = True
    axis: str | None = "embed"

    @nn.compact
    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        shape = x.shape[-1:]
        start = nn.initializers.constant(1.0 - self.offset)
        scale = self.param("scale", nn.with_logical_partitioning(start, (self.axis,)), shape, jnp.float32)
        if self.kind == "rms":
            return rms_norm(x, scale, eps=self.eps, offset=self.offset)
        bias = None
        if self.use_bias:
            zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), (self.axis,))
            bias = self.param("bias", zeros, shape, jnp.float32)
        return layer_norm(x, scale, bias, eps=self.eps)
