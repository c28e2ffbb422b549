"""ConvNeXt against float64; picture sizes; published sizes; over several devices; what it refuses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError, InputError
from mmjax.models.encoders.convnext import SIZES, ConvNeXt, ConvNeXtConfig
from mmjax.parallel.mesh import MeshConfig, make_mesh
from mmjax.parallel.sharding import abstract_parameters, nested, parameter_shardings, use_mesh
from tests.models.plain_numpy import (
    assert_same_gradients,
    below,
    layer_norm,
    layer_of,
    linear,
    mlp,
    random_parameters,
)
from tests.quick import quick_jit

BASE = ConvNeXtConfig(depths=(2, 1), widths=(10, 16), patch_size=2)
CASES = {
    "classifier": dataclasses.replace(BASE, projection=5, norm_eps=1e-3, final_norm_eps=1e-2),
    "plain": dataclasses.replace(BASE, layer_scale=0.0, activation="relu"),
    "three-stages": ConvNeXtConfig((1, 3, 2), (7, 9, 20), patch_size=3, activation="gelu_tanh"),
}
# With a classifier of 1000 classes; the paper says 28.6M, 50.2M, 88.6M, 197.8M and 350.2M.
PARAMETERS = {
    "ConvNeXt-T": 28_589_128,
    "ConvNeXt-S": 50_223_688,
    "ConvNeXt-B": 88_591_464,
    "ConvNeXt-L": 197_767_336,
    "ConvNeXt-XL": 350_196_968,
}


def merge(x, p, size):
    """A convolution of this size and stride."""
    rows, columns = x.shape[0] // size, x.shape[1] // size
    places = [
        [
            np.tensordot(x[size * r : size * r + size, size * c : size * c + size], p["kernel"], 3)
            for c in range(columns)
        ]
        for r in range(rows)
    ]
    return np.array(places) + p["bias"]


def block(config, p, x):
    padded = np.pad(x, [(3, 3), (3, 3), (0, 0)])
    y = sum(
        padded[i : i + x.shape[0], j : j + x.shape[1]] * p["depthwise_kernel"][i, j] for i in range(7) for j in range(7)
    )
    y = layer_norm(y + p["depthwise_bias"], below(p, "norm"), config.norm_eps)
    return x + mlp(y, below(p, "mlp"), config.activation) * p.get("layer_scale", 1.0)


def plain_convnext(config, p, image):
    p = {path: np.asarray(value, np.float64) for path, value in p.items()}
    x = layer_norm(merge(image, below(p, "patch"), config.patch_size), below(p, "patch_norm"), config.norm_eps)
    hidden = [x]
    for stage, depth in enumerate(config.depths):
        own = below(p, f"stage_{stage}")
        if stage:
            x = merge(layer_norm(x, below(own, "downsample_norm"), config.norm_eps), below(own, "downsample"), 2)
        for layer in range(depth):
            x = block(config, layer_of(below(own, "layers"), layer), x)
        hidden.append(x)
    pooled = layer_norm(x.mean((0, 1)), below(p, "final_norm"), config.final_norm_eps)
    projected = linear(pooled, below(p, "projection")) if config.projection else None
    return hidden, pooled, projected


@pytest.mark.parametrize("name", CASES)
def test_equals_float64(name):
    config = CASES[name]
    images = np.random.default_rng(3).normal(size=(2, 25, 14, 3)).astype(np.float32)
    p = random_parameters(ConvNeXt(config), 1, jnp.asarray(images))
    ours = quick_jit(ConvNeXt(config).apply)(nested(p), images)
    assert (ours.projected is None) == (not config.projection)
    assert np.array_equal(ours.last_hidden_state, ours.hidden[-1])
    for row in range(2):
        hidden, pooled, projected = plain_convnext(config, p, images[row].astype(np.float64))
        pairs = [*zip(ours.hidden, hidden, strict=True), (ours.pooled, pooled)]
        for found, value in [*pairs, (ours.projected, projected)] if config.projection else pairs:
            np.testing.assert_allclose(found[row], value, atol=2e-5 * np.abs(value).max(), rtol=0)


def test_computes_in_the_dtype_that_it_is_given():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    config = CASES["classifier"]
    p = random_parameters(ConvNeXt(config), 1, images)
    wide = quick_jit(ConvNeXt(config).apply)(nested(p), images)
    narrow = quick_jit(ConvNeXt(config, jnp.bfloat16).apply)(nested(p), images)
    for ours, reference in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        assert ours.dtype == jnp.bfloat16
        np.testing.assert_allclose(ours.astype(jnp.float32), reference, atol=0.05 * np.abs(reference).max(), rtol=0)


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    config = dataclasses.replace(SIZES[name], projection=1000)
    shapes, axes = abstract_parameters(
        ConvNeXt(config).init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    )
    assert sum(shape.size for shape in shapes.values()) == PARAMETERS[name]
    assert all(len(axes[path]) == len(shape.shape) for path, shape in shapes.items())
    assert axes["stage_2/layers/depthwise_kernel"] == ("layers", None, None, "embed")
    assert axes["stage_2/layers/mlp/up/kernel"] == ("layers", "embed", "mlp")


def test_pictures_of_the_training_size_end_in_seven_by_seven_places():
    images = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    output, _ = jax.eval_shape(ConvNeXt(SIZES["ConvNeXt-T"]).init_with_output, jax.random.key(0), images)
    assert output.last_hidden_state.shape == (2, 7, 7, 768)
    assert [hidden.shape[1:] for hidden in output.hidden] == [
        (56, 56, 96),
        (56, 56, 96),
        (28, 28, 192),
        (14, 14, 384),
        (7, 7, 768),
    ]


def gradients(config, p, images, mesh=None):
    cotangent = np.random.default_rng(1).normal(size=(4, 5)).astype(np.float32)

    def loss(p):
        return jnp.sum(cotangent * ConvNeXt(config).apply(nested(p), images).projected)

    with use_mesh(mesh):
        return quick_jit(jax.grad(loss))(p)


def test_remat_and_devices_change_no_gradient():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(4, 16, 12, 3)), jnp.float32)
    config = dataclasses.replace(BASE, projection=5)
    p = random_parameters(ConvNeXt(config), 1, images)
    expected = gradients(config, p, images)
    assert_same_gradients(gradients(dataclasses.replace(config, remat="full"), p, images), expected, 1e-6)

    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2), jax.devices()[:4])
    shapes, axes = abstract_parameters(ConvNeXt(config).init, jax.random.key(0), images)
    shardings = parameter_shardings(shapes, axes, mesh)
    laid = {path: jax.device_put(value, shardings[path]) for path, value in p.items()}
    assert not laid["stage_1/layers/mlp/up/kernel"].sharding.is_fully_replicated
    assert_same_gradients(gradients(config, laid, images, mesh), expected, 1e-5)


def test_refuses():
    with pytest.raises(InputError, match=r"picture of 16x3 is too small .* at least 4x4"):
        ConvNeXt(BASE).init(jax.random.key(0), jnp.zeros((1, 16, 3, 3)))
    for wrong, message in [
        ({"depths": (2, 1, 1)}, "the same number of stages"),
        ({"depths": (), "widths": ()}, "one or more"),
        ({"depths": (2, 0)}, "must be positive"),
        ({"widths": (0, 8)}, "must be positive"),
        ({"patch_size": 0}, "must be positive"),
        ({"layer_scale": -1.0}, "layer_scale must be positive, or 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(BASE, **wrong)
