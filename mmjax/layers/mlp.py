"""Feed-forward blocks: one hidden layer, gated or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.layers.linear import Linear
from mmjax.parallel.sharding import Rows, constrain

Activation = Literal["gelu", "gelu_tanh", "gelu_quick", "silu", "relu", "squared_relu"]

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "gelu_quick": lambda x: x * jax.nn.sigmoid(1.702 * x),  # CLIP
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "squared_relu": lambda x: jnp.square(jax.nn.relu(x)),  # Primer; Flamingo's resampler and cross-attention
}


class MLP(nn.Module):
    """`down(act(up x))`, or gated `down(act(gate x) * up x)` (SwiGLU with silu, GeGLU with GELU; Shazeer 2020).

    `rows` is what the first axis counts: rows of a batch, or pictures.
    """

    hidden: int
    activation: Activation = "gelu"
    gated: bool = False
    use_bias: bool = False
    dtype: Any = jnp.float32
    out_init_scale: float = 1.0
    rows: Rows = "batch"

    @nn.compact
    def __call__(self, x: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
        act = ACTIVATIONS[self.activation]
        wide = {"in_axes": ("embed",), "out_axes": ("mlp",), "use_bias": self.use_bias}
        wide |= {"dtype": self.dtype, "rows": self.rows}
        y = Linear((self.hidden,), **wide, name="up")(x)
        y = act(Linear((self.hidden,), **wide, name="gate")(x)) * y if self.gated else act(y)
        y = constrain(y, self.rows, "length" if self.rows == "batch" else None, "mlp")
        narrow = ((x.shape[-1],), ("mlp",), ("embed",), self.use_bias, self.dtype, self.out_init_scale, self.rows)
        return Linear(*narrow, name="down")(y)
