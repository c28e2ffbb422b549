"""Rotary positions against complex rotation in float64, and frequencies against those of published models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.core.errors import ConfigError, InputError
from mmjax.ops.rope import RopeScaling, apply_rope, rope_frequencies

# As transformers 5.2 computes them, at these channels of the fewest and the most changed.
PUBLISHED = {
    "Llama 3.1": (
        (128, 500000.0, RopeScaling("llama3", 8.0, 8192)),
        {0: 1.0, 16: 0.03760603, 25: 0.005940731, 32: 0.000524846, 42: 2.274893e-05, 63: 3.068926e-07},
        1.0,
    ),
    "yarn, 4k to 64k": (
        (128, 10000.0, RopeScaling("yarn", 16.0, 4096)),
        {0: 1.0, 16: 0.1, 25: 0.02244714, 32: 0.005673077, 42: 0.0004902359, 63: 7.217387e-06},
        1.2772588722239782,
    ),
    "Qwen 2.5 with yarn": (
        (64, 1e6, RopeScaling("yarn", 4.0, 32768)),
        {0: 1.0, 8: 0.03162278, 12: 0.005154795, 16: 0.0005833334, 21: 2.886955e-05, 31: 3.849816e-07},
        1.138629436111989,
    ),
    "linear": (
        (64, 10000.0, RopeScaling("linear", 8.0)),
        {0: 0.125, 8: 0.0125, 16: 0.00125, 31: 1.666902e-05},
        1.0,
    ),
    "unscaled": ((64, 10000.0, RopeScaling("none")), {0: 1.0, 8: 0.1, 16: 0.01, 24: 0.001}, 1.0),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_frequencies_equal_published_ones(name):
    (width, base, scaling), expected, attention_factor = PUBLISHED[name]
    frequencies = rope_frequencies(width, base, scaling)
    assert frequencies.dtype == np.float32 and frequencies.shape == (width // 2,)
    np.testing.assert_allclose(frequencies[list(expected)], list(expected.values()), rtol=1e-6)
    assert scaling.attention_factor == pytest.approx(attention_factor)


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    width=st.sampled_from([2, 6, 16]),
    turning=st.sampled_from([1, 2, 3]),
    furthest=st.sampled_from([10, 4000]),
)
def test_turns_pairs_as_complex_numbers(seed, width, turning, furthest):
    generator = np.random.default_rng(seed)
    half = min(turning, width // 2)
    x = generator.normal(size=(2, 3, 2, width)).astype(np.float32)
    positions = generator.integers(0, furthest, (2, 3))
    frequencies = rope_frequencies(2 * half, 100.0)
    pairs = x[..., :half].astype(np.float64) + 1j * x[..., half : 2 * half]
    turned = pairs * np.exp(1j * positions[..., None, None] * frequencies.astype(np.float64))
    expected = np.concatenate([turned.real, turned.imag, x[..., 2 * half :]], axis=-1)
    found = jax.jit(apply_rope)(jnp.asarray(x), jnp.asarray(positions, jnp.int32), frequencies)
    np.testing.assert_allclose(found, expected, atol=furthest * 3e-7)


def test_scores_depend_on_the_distance_only():
    generator = np.random.default_rng(0)
    query, key = (jnp.asarray(generator.normal(size=(1, 1, 1, 32)), jnp.float32) for _ in range(2))
    frequencies = rope_frequencies(32, 10000.0)

    def score(query_position, key_position):
        at = [jnp.full((1, 1), position, jnp.int32) for position in (query_position, key_position)]
        return (apply_rope(query, at[0], frequencies) * apply_rope(key, at[1], frequencies)).sum()

    np.testing.assert_allclose(score(107, 100), score(7, 0), rtol=1e-4)
    assert abs(score(107, 100) - score(108, 100)) > 0.01


def test_far_positions_stay_exact_in_bfloat16():
    """The angle is made in float32: in 16 bits positions 30000 and 30001 would be one."""
    x = jnp.ones((1, 2, 1, 4), jnp.bfloat16)
    found = apply_rope(x, jnp.array([[30000, 30001]], jnp.int32), rope_frequencies(4, 10000.0))
    assert found.dtype == jnp.bfloat16
    angle = 30001.0
    np.testing.assert_allclose(float(found[0, 1, 0, 0]), np.cos(angle) - np.sin(angle), atol=0.01)
    assert (found[0, 0, 0, 0] != found[0, 1, 0, 0]).all()


def test_sections_turn_with_their_own_axes():
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(2, 3, 2, 14)), jnp.float32)
    positions = jnp.asarray(generator.integers(0, 50, (2, 3, 3)), jnp.int32)
    frequencies = rope_frequencies(12, 100.0)  # the last two channels stay
    found = apply_rope(x, positions, frequencies, (2, 1, 3))
    for axis, pairs in enumerate([[0, 1], [2], [3, 4, 5]]):
        plain = apply_rope(x, positions[..., axis], frequencies)
        channels = [*pairs, *(pair + 6 for pair in pairs)]
        assert np.array_equal(found[..., channels], plain[..., channels])
    assert np.array_equal(found[..., 12:], x[..., 12:])
    alike = jnp.repeat(positions[..., :1], 3, axis=-1)
    one_number = apply_rope(x, positions[..., 0], frequencies, (2, 1, 3))
    assert np.array_equal(apply_rope(x, alike, frequencies, (2, 1, 3)), one_number)


@pytest.mark.parametrize("sections", [None, (6,), (2, 4), (2, 2, 3)])
def test_axes_need_sections(sections):
    x, positions = jnp.zeros((1, 1, 1, 12)), jnp.zeros((1, 1, 3), jnp.int32)
    with pytest.raises(InputError, match="positions of 3 axes"):
        apply_rope(x, positions, rope_frequencies(12, 100.0), sections)


@pytest.mark.parametrize(("width", "fraction"), [(64, 0.25), (80, 0.4), (64, 1.0)])
def test_partial_rotary_width(width, fraction):
    assert rope_frequencies(width, 10000.0, fraction=fraction).shape == (int(width * fraction) // 2,)


@pytest.mark.parametrize(("width", "fraction"), [(5, 1.0), (8, 0.0), (8, 0.4)])
def test_odd_rotary_widths_are_refused(width, fraction):
    with pytest.raises(ConfigError, match="must be even"):
        rope_frequencies(width, 10000.0, fraction=fraction)


@pytest.mark.parametrize(
    "settings", [{"factor": 0.5}, {"original_length": 0}, {"low_freq_factor": 4.0}, {"slow_turns": 40.0}]
)
def test_scaling_without_meaning_is_refused(settings):
    with pytest.raises(ConfigError, match="rope scaling needs"):
        RopeScaling("llama3", **settings)
