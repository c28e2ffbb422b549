"""AdamW (Loshchilov and Hutter 2019) with clipping by the global norm, over a flat dictionary of parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax.numpy as jnp
import optax

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
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate must be positive, not {self.learning_rate}")
        if not 0.0 <= self.ema_decay < 1.0:
            raise ConfigError(f"ema_decay must be at least 0 and below 1, not {self.ema_decay}")


def make_optimizer(
    config: OptimConfig, total_steps: int, groups: Mapping[str, ParameterGroup]
) -> optax.GradientTransformation:
    """The optimizer of the parameters in `groups` (trainable paths only), each with its group's factors."""
    schedule = make_schedule(config.schedule, total_steps)
    steps = [
        optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        _decay({path: config.weight_decay * group.weight_decay for path, group in groups.items()}),
        _scale({path: -config.learning_rate * group.learning_rate for path, group in groups.items()}),
        optax.scale_by_schedule(lambda count: schedule(count)),
    ]
    if config.clip_norm:
        steps.insert(0, optax.clip_by_global_norm(config.clip_norm))
    return optax.chain(*steps)


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
