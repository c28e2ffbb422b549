"""How a module gets a parameter: float32, with named axes, cast, and brought to where it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Shaped
from mmjax.parallel.gathering import gathered
from mmjax.parallel.sharding import starting

Initializer = Callable[..., Any]


def parameter(
    module: nn.Module,
    name: str,
    init: Initializer,
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    dtype: Any = jnp.float32,
) -> Shaped[Array, ...]:
    """The parameter `name` of `module`, whose dimensions are the logical `axes`, in `dtype`."""
    value = module.param(name, nn.with_logical_partitioning(starting(init), axes), shape, jnp.float32)
    return gathered(value.astype(dtype), *axes)
