"""AdamW against the same in numpy at float64, over several steps, with clipping, decay and the groups' factors."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mmjax.core.errors import ConfigError
from mmjax.optim.groups import ParameterGroup
from mmjax.optim.optimizer import OptimConfig, make_optimizer
from mmjax.optim.schedules import ScheduleConfig

GROUPS = {
    "embed": ParameterGroup(".*"),
    "kernel": ParameterGroup(".*", learning_rate=0.1, weight_decay=2.0),
    "scale": ParameterGroup(".*", weight_decay=0.0),
}
SHAPES = {"embed": (5, 3), "kernel": (3, 4), "scale": (3,)}
STEPS = 12


def random_tree(seed, size=1.0):
    generator = np.random.default_rng(seed)
    return {path: size * generator.standard_normal(shape) for path, shape in SHAPES.items()}


def adamw(params, gradients, config, factor):
    """The algorithm as its paper has it, at float64; `factor` is the schedule's, by step."""
    first = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    second = {path: np.zeros(shape) for path, shape in SHAPES.items()}
    for step, gradient in enumerate(gradients, 1):
        norm = np.sqrt(sum(np.sum(g**2) for g in gradient.values()))
        shrink = min(1.0, config.clip_norm / norm) if config.clip_norm else 1.0
        for path, group in GROUPS.items():
            g = shrink * gradient[path]
            first[path] = config.beta1 * first[path] + (1 - config.beta1) * g
            second[path] = config.beta2 * second[path] + (1 - config.beta2) * g**2
            mean = first[path] / (1 - config.beta1**step)
            spread = np.sqrt(second[path] / (1 - config.beta2**step))
            rate = config.learning_rate * group.learning_rate * factor(step - 1)
            decay = config.weight_decay * group.weight_decay * params[path]
            params = {**params, path: params[path] - rate * (mean / (spread + config.eps) + decay)}
    return params


@pytest.mark.parametrize(
    "settings",
    [
        {"clip_norm": 0.0},
        {"clip_norm": 1.0},  # some of the gradients are below it, some above
        {"clip_norm": 0.0, "weight_decay": 0.3},
        {"clip_norm": 2.0, "weight_decay": 0.3, "beta1": 0.8, "beta2": 0.95, "eps": 1e-3},
    ],
)
def test_adamw_is_that_of_the_paper(settings):
    config = OptimConfig(0.05, ScheduleConfig("wsd", warmup_steps=3, decay_share=0.5, end_factor=0.1), **settings)
    gradients = [random_tree(seed, size=0.02 if seed % 3 else 1.5) for seed in range(1, STEPS + 1)]
    norms = [np.sqrt(sum(np.sum(g**2) for g in gradient.values())) for gradient in gradients]
    assert min(norms) < 1.0 < max(norms)

    optimizer = make_optimizer(config, STEPS, GROUPS)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), random_tree(0))
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, gradient):
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for gradient in gradients:
        params, state = step(params, state, jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), gradient))

    factor = [1 / 3, 2 / 3, 1, 1, 1, 1] + [1 - 0.9 * done / 6 for done in range(6)]
    expected = adamw(random_tree(0), gradients, config, factor.__getitem__)
    for path in SHAPES:
        np.testing.assert_allclose(params[path], expected[path], rtol=2e-6, atol=2e-6, err_msg=path)
        assert params[path].dtype == jnp.float32


def test_decay_is_decoupled_and_without_a_gradient_is_all_there_is():
    config = OptimConfig(0.1, weight_decay=0.5, clip_norm=1.0)
    optimizer = make_optimizer(config, 10, GROUPS)
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), random_tree(0))
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = jax.jit(optimizer.update)(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["embed"], -0.05 * params["embed"], rtol=1e-6)
    np.testing.assert_allclose(updates["kernel"], -0.01 * params["kernel"], rtol=1e-6)
    np.testing.assert_array_equal(updates["scale"], 0.0)


def test_the_norm_that_is_clipped_is_that_of_all_parameters_together():
    optimizer = make_optimizer(OptimConfig(1.0, clip_norm=1.0, eps=1e8), 10, GROUPS)  # so that the update is linear
    params = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), random_tree(0))
    gradient = {path: jnp.full(shape, 10.0) for path, shape in SHAPES.items()}
    updates, _ = jax.jit(optimizer.update)(gradient, optimizer.init(params), params)
    places = 15 + 12 + 3
    np.testing.assert_allclose(updates["embed"] * -1e8, places**-0.5, rtol=1e-5)
    np.testing.assert_allclose(updates["kernel"] * -1e8, 0.1 * places**-0.5, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be positive, not 0.0"),
        ({"learning_rate": float("nan")}, "learning_rate must be positive, not nan"),
        ({"learning_rate": 1e-3, "beta1": 1.0}, "beta1 must be at least 0 and below 1, not 1.0"),
        ({"learning_rate": 1e-3, "beta2": -0.1}, "beta2 must be at least 0 and below 1, not -0.1"),
        ({"learning_rate": 1e-3, "ema_decay": 1.0}, "ema_decay must be at least 0 and below 1, not 1.0"),
        ({"learning_rate": 1e-3, "clip_norm": -1.0}, "clip_norm must be at least 0, not -1.0"),
        ({"learning_rate": 1e-3, "weight_decay": -0.1}, "weight_decay must be at least 0, not -0.1"),
        ({"learning_rate": 1e-3, "eps": 0.0}, "eps must be positive, not 0.0"),
    ],
)
def test_values_that_make_no_optimizer_are_refused(settings, message):
    with pytest.raises(ConfigError, match=f"^{message}$"):
        OptimConfig(**settings)
