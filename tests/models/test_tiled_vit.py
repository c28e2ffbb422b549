"""The tiled vision transformer: who sees whom among tiles, what gates and taps do, and its refusals."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError, InputError
from mmjax.models.encoders.tiled_vit import TiledViT, TiledViTConfig, _both_real
from mmjax.parallel.sharding import nested
from tests.models.plain_numpy import random_parameters
from tests.quick import quick_jit

TINY = TiledViTConfig(
    image_size=13, patch_size=4, width=20, layers=2, global_layers=1, heads=2, mlp_width=24, tiles=2,
    aspect_ratios=((1, 1), (1, 2), (2, 1)), taps=(1, 0),
)  # fmt: skip
TOKENS = 10
MASK = jnp.asarray([[True, True], [True, False]])
RATIOS = jnp.asarray([2, 1], jnp.int32)


def tiles(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, 2, 13, 13, 3)), jnp.float32)


def prepared(config=TINY):
    model = TiledViT(config)
    parameters = random_parameters(model, 1, tiles(), MASK, RATIOS)
    return parameters, quick_jit(lambda parameters, *inputs: model.apply(nested(parameters), *inputs))


def test_the_grid_of_the_docstring():
    """One tile of two tokens, filled up to three, and one that is not there."""
    grid = _both_real(jnp.asarray([[True, False]]), 2, 3).dense(6, 6)[0]
    drawn = [line.split() for line in TiledViT.__doc__.splitlines() if line.strip() and set(line.split()) <= {"#", "."}]
    assert np.array_equal(grid, np.array(drawn) == "#")


def test_features_are_the_last_layer_and_the_taps_channel_by_channel():
    parameters, apply = prepared()
    features = apply(parameters, tiles(), MASK, RATIOS)
    assert features.shape == (2, 2, TOKENS, 60)
    for number, tap in enumerate(TINY.taps):
        alone = TiledViT(dataclasses.replace(TINY, taps=(tap,)))
        other = quick_jit(alone.apply)(nested(parameters), tiles(), MASK, RATIOS)
        np.testing.assert_array_equal(other[..., :20], features[..., :20])
        np.testing.assert_array_equal(other[..., 20:], features[..., 20 + number :: 2])
    bare = quick_jit(TiledViT(dataclasses.replace(TINY, taps=())).apply)(nested(parameters), tiles(), MASK, RATIOS)
    np.testing.assert_array_equal(bare, features[..., :20])


def test_tiles_of_a_picture_see_each_other_and_no_other_picture():
    parameters, apply = prepared()
    one, other = tiles(), tiles().at[0, 1].set(tiles(1)[0, 1])
    before, after = (apply(parameters, x, MASK, RATIOS) for x in (one, other))
    assert np.abs(before[0, 0] - after[0, 0]).max() > 1e-3
    np.testing.assert_array_equal(before[1], after[1])


def test_pixels_beyond_the_last_patch_are_not_seen():
    parameters, apply = prepared()
    cut = tiles().at[:, :, 12:].set(9.0).at[:, :, :, 12:].set(9.0)
    np.testing.assert_array_equal(apply(parameters, tiles(), MASK, RATIOS), apply(parameters, cut, MASK, RATIOS))


def test_gates_of_zero_shut_off_shapes_and_the_global_layers():
    """tanh(0): the pictures' shapes add nothing, and the second transformer passes its input on."""
    parameters, apply = prepared()
    turned = jnp.asarray([3, 1], jnp.int32)
    whole, other = (apply(parameters, tiles(), MASK, ratios) for ratios in (RATIOS, turned))
    assert np.abs(whole[0] - other[0]).max() > 1e-3
    shut = {path: 0 * value if "_gate" in path else value for path, value in parameters.items()}
    np.testing.assert_array_equal(apply(shut, tiles(), MASK, RATIOS), apply(shut, tiles(), MASK, turned))
    other = {path: value * 2 if path.startswith("global_layers/mlp/") else value for path, value in shut.items()}
    np.testing.assert_array_equal(apply(shut, tiles(), MASK, RATIOS), apply(other, tiles(), MASK, RATIOS))


def test_recomputing_changes_no_gradient():
    parameters, _ = prepared()

    def loss(remat):
        model = TiledViT(dataclasses.replace(TINY, remat=remat))
        return quick_jit(jax.grad(lambda p: jnp.sum(model.apply(nested(p), tiles(), MASK, RATIOS) ** 2)))(parameters)

    plain, again = loss("none"), loss("full")
    largest = max(float(jnp.abs(gradient).max()) for gradient in plain.values())
    assert all(float(jnp.abs(plain[path] - again[path]).max()) < 1e-5 * largest for path in plain)
    assert all(float(jnp.abs(gradient).max()) > 0 for path, gradient in plain.items() if not path.endswith("key/bias"))


def test_refuses():
    with pytest.raises(ConfigError, match="taps"):
        dataclasses.replace(TINY, taps=(2,))
    with pytest.raises(ConfigError, match="2x2 have more than 2 tiles"):
        dataclasses.replace(TINY, aspect_ratios=((1, 1), (2, 2)))
    for wrong in (tiles()[:, :1], tiles()[:, :, :12]):
        with pytest.raises(InputError, match=r"2 tiles .* of 13x13"):
            jax.eval_shape(TiledViT(TINY).init, jax.random.key(0), wrong, MASK, RATIOS)
