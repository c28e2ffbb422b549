"""Norms against float64 numpy, over random shapes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.ops.norms import layer_norm, rms_norm

shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)
seeds = st.integers(0, 2**32 - 1)


def random_inputs(shape, seed):
    generator = np.random.default_rng(seed)
    x = 3 * generator.normal(size=shape) + 2
    return x, generator.normal(size=shape[-1]), generator.normal(size=shape[-1])


@settings(max_examples=10, deadline=None)
@given(shape=shapes, seed=seeds, offset=st.sampled_from([0.0, 1.0]))
def test_rms_norm_equals_float64(shape, seed, offset):
    x, scale, _ = random_inputs(shape, seed)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * (offset + scale)
    found = rms_norm(jnp.asarray(x, jnp.float32), jnp.asarray(scale, jnp.float32), 1e-5, offset)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=10, deadline=None)
@given(shape=shapes, seed=seeds, with_scale=st.booleans(), with_bias=st.booleans())
def test_layer_norm_equals_float64(shape, seed, with_scale, with_bias):
    x, scale, bias = random_inputs(shape, seed)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    expected = expected * (scale if with_scale else 1) + (bias if with_bias else 0)
    scale, bias = (
        jnp.asarray(v, jnp.float32) if used else None for v, used in ((scale, with_scale), (bias, with_bias))
    )
    np.testing.assert_allclose(
        layer_norm(jnp.asarray(x, jnp.float32), scale, bias, 1e-5), expected, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(
    "norm", [functools.partial(rms_norm, eps=1e-6), functools.partial(layer_norm, bias=None, eps=1e-6)]
)
def test_bfloat16_is_normalised_in_float32(norm):
    """Equal to the float32 result rounded once; squares of 1e4 beside 1e-2 would be lost in 16 bits."""
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 512)) * 100 + 300, jnp.bfloat16)
    scale = jnp.linspace(0.5, 1.5, 512, dtype=jnp.bfloat16)
    found = norm(x, scale=scale)
    assert found.dtype == jnp.bfloat16
    expected = norm(x.astype(jnp.float32), scale=scale.astype(jnp.float32)).astype(jnp.bfloat16)
    np.testing.assert_array_equal(found, expected)


def test_large_mean_does_not_hide_the_variance():
    """The mean is taken off before squaring: E[x^2] - E[x]^2 would be 0 here."""
    x = jnp.asarray([[10000.0, 10001.0, 10002.0, 10003.0]])
    np.testing.assert_allclose(layer_norm(x, None, None, 0.0), [[-1.3416, -0.4472, 0.4472, 1.3416]], atol=1e-3)


@pytest.mark.parametrize("norm", [lambda x: rms_norm(x, jnp.ones(4), 1e-6), lambda x: layer_norm(x, None, None, 1e-6)])
def test_zeros_have_a_finite_gradient(norm):
    gradient = jax.grad(lambda x: norm(x).sum())(jnp.zeros((2, 4)))
    assert jnp.isfinite(gradient).all()
