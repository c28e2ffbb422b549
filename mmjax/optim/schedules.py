"""Learning rates over steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax.numpy as jnp

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """The factor on the learning rate: a linear warm-up, then

    constant: 1.  cosine: half a cosine down towards `end_factor`.
    wsd (warm-up, stable, decay): 1, then linearly down towards `end_factor` over the last `decay_share` of the steps.

    `end_factor` itself is what a step after the last would have.
    """

    kind: Literal["constant", "cosine", "wsd"] = "constant"
    warmup_steps: int = 0
    end_factor: float = 0.0
    decay_share: float = 0.2

    def __post_init__(self):
        if self.warmup_steps < 0:
            raise ConfigError(f"warmup_steps must be 0 or more, not {self.warmup_steps}")
        if not 0.0 <= self.end_factor <= 1.0:
            raise ConfigError(f"end_factor must be from 0 to 1, not {self.end_factor}")
        if not 0.0 < self.decay_share <= 1.0:
            raise ConfigError(f"decay_share must be above 0 and at most 1, not {self.decay_share}")


def make_schedule(config: ScheduleConfig, total_steps: int) -> Callable[[Int[Array, ""]], Float[Array, ""]]:
    """The factor at a step (counted from 0); the first update of a warm-up of n steps has 1/n."""

    def factor(step):
        step = jnp.asarray(step, jnp.float32)
        warm = jnp.minimum(1.0, (step + 1.0) / max(1, config.warmup_steps))
        if config.kind == "constant":
            return warm
        start = config.warmup_steps
        if config.kind == "wsd":
            start = max(start, round(total_steps * (1.0 - config.decay_share)))
        done = jnp.clip((step - start) / max(1, total_steps - start), 0.0, 1.0)
        fall = 0.5 * (1.0 + jnp.cos(math.pi * done)) if config.kind == "cosine" else 1.0 - done
        return warm * (config.end_factor + (1.0 - config.end_factor) * fall)

    return factor
