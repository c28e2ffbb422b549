"""Schedules against their formulas, and against figures worked out by hand."""

import math

import jax
import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.optim.schedules import ScheduleConfig, make_schedule


def factors(total_steps, **settings):
    schedule = jax.jit(make_schedule(ScheduleConfig(**settings), total_steps))
    return np.array([schedule(step) for step in range(total_steps)])


def test_constant_after_a_warm_up():
    np.testing.assert_allclose(factors(6, kind="constant", warmup_steps=4), [0.25, 0.5, 0.75, 1.0, 1.0, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(factors(3, kind="constant"), [1.0, 1.0, 1.0])


def test_cosine_by_hand():
    # Two steps of warm-up, then eight from the top of the cosine to 0.2, which the step after the last would have.
    half = [0.2 + 0.8 * (1 + math.cos(math.pi * done / 8)) / 2 for done in range(8)]
    np.testing.assert_allclose(factors(10, kind="cosine", warmup_steps=2, end_factor=0.2), [0.5, 1.0, *half], rtol=1e-6)
    assert half[4] == pytest.approx(0.6)


def test_wsd_by_hand():
    # 20% of ten steps decay: step 8 is still at the top, step 9 half-way down.
    np.testing.assert_allclose(
        factors(10, kind="wsd", warmup_steps=2, decay_share=0.2, end_factor=0.5), [0.5] + [1.0] * 8 + [0.75], rtol=1e-6
    )
    # All of it decays: the fall begins when the warm-up ends, not within it.
    np.testing.assert_allclose(
        factors(6, kind="wsd", warmup_steps=2, decay_share=1.0), [0.5, 1.0, 1.0, 0.75, 0.5, 0.25], rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["constant", "cosine", "wsd"])
@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 50, 200])
@pytest.mark.parametrize("end_factor", [0.0, 0.1, 1.0])
def test_formulas_over_all_steps_and_after_the_last(kind, warmup_steps, end_factor):
    total, share = 100, 0.3

    def expected(step):
        warm = min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
        if kind == "constant":
            return warm
        start = warmup_steps if kind == "cosine" else max(warmup_steps, 70)
        done = min(1.0, max(0.0, (step - start) / max(1, total - start)))
        fall = (1 + math.cos(math.pi * done)) / 2 if kind == "cosine" else 1 - done
        return warm * (end_factor + (1 - end_factor) * fall)

    config = ScheduleConfig(kind, warmup_steps, end_factor, share)
    schedule = jax.vmap(make_schedule(config, total))
    steps = np.arange(150, dtype=np.int32)
    np.testing.assert_allclose(schedule(steps), [expected(step) for step in steps], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more, not -1"),
        ({"end_factor": 1.5}, "end_factor must be from 0 to 1, not 1.5"),
        ({"end_factor": -0.1}, "end_factor must be from 0 to 1, not -0.1"),
        ({"decay_share": 0.0}, "decay_share must be above 0 and at most 1, not 0.0"),
        ({"decay_share": 1.1}, "decay_share must be above 0 and at most 1, not 1.1"),
    ],
)
def test_values_that_make_no_schedule_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        ScheduleConfig(**settings)
