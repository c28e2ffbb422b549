"""Linear maps and norms with named axes; float32 parameters, computation in the module's dtype."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.layers.parameters import Initializer, parameter
from mmjax.ops.attention import chosen_platform
from mmjax.ops.norms import layer_norm, rms_norm
from mmjax.parallel.gathering import gathered_dot
from mmjax.parallel.sharding import Rows, current_mesh, starting


def fan_in_normal(scale: float = 1.0, inputs: int = 1) -> Initializer:
    """Truncated normal of variance scale / fan-in, where the first `inputs` dimensions of a kernel are its inputs."""

    def init(key, shape, dtype=jnp.float32):
        deviation = math.sqrt(scale / math.prod(shape[:inputs]))
        # 0.8796 is the standard deviation of a unit normal truncated at two.
        return jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype) * (deviation / 0.87962566103423978)

    return init


def by_outputs(
    x: Float[Array, "... I"], matrix: Float[Array, "O I"], preferred_element_type: Any = None
) -> Float[Array, "... O"]:
    """`x` times the transposed `matrix`, whose rows are the outputs: a table of words, or a transposed kernel.

    On CPU, the matrix stands first in the product, whatever XLA would make of it: so a few rows of `x` take the time
    in which the matrix is read, the other way round up to twice that (benchmarks/decode.py), and many no longer.
    """
    product = functools.partial(jnp.einsum, preferred_element_type=preferred_element_type)
    if chosen_platform() != "cpu" or current_mesh() is not None:
        return product("...i,oi->...o", x, matrix)
    rows = x.reshape(-1, x.shape[-1])
    outputs = jax.lax.optimization_barrier(product("oi,bi->ob", matrix, rows))
    return outputs.T.reshape(*x.shape[:-1], len(matrix))


class Linear(nn.Module):
    """Contracts the last `len(in_axes)` dimensions of the input with a kernel of `in_axes + out_axes`.

    Kernel: `[*inputs, *outputs]`; bias: `[*outputs]`. `rows` is what the input's first dimension counts: rows of a
    batch, of which the second are positions of the text, or pictures. On a single device the parameters may have
    `transposed [*outputs, *inputs]` in the place of the kernel, with which few rows are faster on CPU.
    """

    outputs: tuple[int, ...]
    in_axes: tuple[str | None, ...]
    out_axes: tuple[str | None, ...]
    use_bias: bool = False
    dtype: Any = jnp.float32
    init_scale: float = 1.0
    rows: Rows = "batch"

    @nn.compact
    def __call__(self, x: Float[Array, ...]) -> Float[Array, ...]:
        contracted = len(self.in_axes)
        inputs = x.shape[x.ndim - contracted :]
        if self.has_variable("params", "transposed"):
            kernel = self.get_variable("params", "transposed").astype(self.dtype)
            # As matrices: of kernels with more dimensions XLA copies every one, in every step, before it multiplies.
            size, leading = math.prod(inputs), x.shape[: x.ndim - contracted]
            y = by_outputs(x.astype(self.dtype).reshape(-1, size), kernel.reshape(-1, size))
            return self._biased(y.reshape(*leading, *self.outputs))
        init, axes = fan_in_normal(self.init_scale, contracted), self.in_axes + self.out_axes
        boxed = nn.with_logical_partitioning(starting(init), axes)
        kernel = self.param("kernel", boxed, inputs + self.outputs, jnp.float32).astype(self.dtype)
        leading = (self.rows, "length" if self.rows == "batch" else None, *(None,) * x.ndim)[: x.ndim - contracted]
        return self._biased(gathered_dot(x.astype(self.dtype), kernel, contracted, leading + self.in_axes, axes))

    def _biased(self, y):
        if not self.use_bias:
            return y
        bias = parameter(self, "bias", nn.initializers.zeros_init(), self.outputs, self.out_axes, self.dtype)
        return y + bias.reshape((1,) * (y.ndim - bias.ndim) + bias.shape)


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
        scale = parameter(self, "scale", start, shape, (self.axis,))
        if self.kind == "rms":
            return rms_norm(x, scale, eps=self.eps, offset=self.offset)
        bias = None
        if self.use_bias:
            bias = parameter(self, "bias", nn.initializers.zeros_init(), shape, (self.axis,))
        return layer_norm(x, scale, bias, eps=self.eps)
