"""AdamW (Loshchilov and Hutter 2019) with clipping by the global norm, over a flat dictionary of parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import ConfigError
from mmjax.optim.groups import ParameterGroup
from mmjax.optim.schedules import ScheduleConfig, make_schedule


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """weight_decay is decoupled and times the learning rate. clip_norm: 0 for none. ema_decay: 0 for no average."""

    learning_rate: float
    schedule: ScheduleConfig = dataclasses.field(default_factory=ScheduleConfig)
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0
    ema_decay: float = 0.0
    groups: tuple[ParameterGroup, ...] = (ParameterGroup(".*"),)

    def __post_init__(self):
        for name in ("learning_rate", "eps"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("weight_decay", "clip_norm"):
            if not 0.0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"{name} must be at least 0, not {getattr(self, name)}")
        for name in ("beta1", "beta2", "ema_decay"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ConfigError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")


def make_optimizer(
    config: OptimConfig, total_steps: int, groups: Mapping[str, ParameterGroup]
) -> optax.GradientTransformation:
    """The optimizer of the parameters in `groups` (trainable paths only), each with its group's factors."""
    schedule = make_schedule(config.schedule, total_steps)
    steps = [
        _adam(config.beta1, config.beta2, config.eps),
        _decay({path: config.weight_decay * group.weight_decay for path, group in groups.items()}),
        _scale({path: -config.learning_rate * group.learning_rate for path, group in groups.items()}),
        optax.scale_by_schedule(schedule),
    ]
    if config.clip_norm:
        steps.insert(0, optax.clip_by_global_norm(config.clip_norm))
    return optax.chain(*steps)


def _adam(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction. Unlike optax's, it promotes no dtype, and 1 - beta^t keeps its digits where beta is near 1."""

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros, jax.tree.map(jnp.zeros_like, params))

    def update(updates, state, params=None):
        count = optax.safe_increment(state.count)
        first = jax.tree.map(lambda m, g: beta1 * m + (1.0 - beta1) * g, state.mu, updates)
        second = jax.tree.map(lambda v, g: beta2 * v + (1.0 - beta2) * jnp.square(g), state.nu, updates)
        share1, share2 = _share_seen(beta1, count), _share_seen(beta2, count)
        direction = jax.tree.map(lambda m, v: (m / share1) / (jnp.sqrt(v / share2) + eps), first, second)
        return direction, optax.ScaleByAdamState(count, first, second)

    return optax.GradientTransformation(init, update)


def _share_seen(beta: float, count: Int[Array, ""]) -> Float[Array, ""]:
    """1 - beta^count: how much of a running average that began at zero is made of what was seen."""
    return -jnp.expm1(count.astype(jnp.float32) * math.log(beta)) if beta else jnp.ones((), jnp.float32)


def _decay(factors: Mapping[str, float]) -> optax.GradientTransformation:
    def update(updates, params):
        return {
            path: update + factors[path] * params[path] if factors[path] else update for path, update in updates.items()
        }

    return optax.stateless(update)


def _scale(factors: Mapping[str, float]) -> optax.GradientTransformation:
    return optax.stateless(
        lambda updates, _: {path: jnp.asarray(factors[path], u.dtype) * u for path, u in updates.items()}
    )
