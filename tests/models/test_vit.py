"""The vision transformer against float64, option by option; positions on other grids; what it refuses."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError, InputError
from mmjax.models.encoders.positions import resize_positions, sincos_positions
from mmjax.models.encoders.vit import ViT, ViTConfig
from mmjax.parallel.sharding import nested
from tests.models.plain_numpy import (
    ACTIVATIONS,
    assert_same_gradients,
    attention,
    below,
    layer_norm,
    layer_of,
    linear,
    mlp,
    random_parameters,
)
from tests.quick import quick_jit

BASE = ViTConfig(image_size=16, patch_size=4, width=24, layers=3, heads=3, mlp_width=20)
CASES = {
    "class": dataclasses.replace(BASE, class_token=True, class_position=True, pool="class"),
    "clip": dataclasses.replace(
        BASE,
        class_token=True,
        class_position=True,
        pool="class",
        patch_bias=False,
        pre_norm_embeddings=True,
        activation="gelu_quick",
        norm_eps=1e-3,
        projection=5,
    ),
    "siglip": dataclasses.replace(BASE, pool="map", activation="gelu_tanh", registers=2, feature_layer=-2),
    "sincos-post": dataclasses.replace(
        BASE, positions="sincos", norm_position="post", pool="mean", final_norm=False, bias=False, projection=7,
        projection_bias=True, projection_activation="tanh",
    ),
    "stem-gated": dataclasses.replace(
        BASE,
        stem="convolution",
        positions="none",
        class_token=True,
        registers=3,
        layer_scale=0.1,
        mlp_gated=True,
        activation="silu",
        pool="mean",
        mask_token=True,
        feature_layer=-3,
    ),
}  # fmt: skip


def convolve(x, kernel, stride):
    """Same padding: what is missing is added at the end first."""
    size = kernel.shape[0]
    total = max((-(-x.shape[0] // stride) - 1) * stride + size - x.shape[0], 0)
    x = np.pad(x, [(total // 2, total - total // 2)] * 2 + [(0, 0)])
    ends = [x.shape[i] - size + 1 for i in range(2)]
    return sum(
        x[i : i + ends[0] : stride, j : j + ends[1] : stride] @ kernel[i, j] for i in range(size) for j in range(size)
    )


def embeddings(config, p, image, masked):
    if config.stem == "patch":
        x = convolve(image, p["patch_kernel"], config.patch_size) + p.get("patch_bias", 0.0)
    else:
        x = ACTIVATIONS["gelu_tanh"](convolve(image, p["stem_0_kernel"], 2) + p["stem_0_bias"])
        x = convolve(x, p["stem_1_kernel"], 2) + p["stem_1_bias"]
    x = x.reshape(-1, config.width)
    if config.mask_token:
        x = np.where(masked[:, None], p["mask_token"], x)
    x = (
        x
        + {"learned": p.get("position_embedding"), "sincos": sincos_positions(4, 4, config.width), "none": 0.0}[
            config.positions
        ]
    )
    if config.registers:
        x = np.concatenate([p["registers"], x])
    if config.class_token:
        x = np.concatenate([p["class_token"] + p.get("class_position", 0.0), x])
    return layer_norm(x, below(p, "embedding_norm"), config.norm_eps) if config.pre_norm_embeddings else x


def self_attention(y, p):
    p = below(p, "attention")
    return attention(y, linear(y, below(p, "key")), linear(y, below(p, "value")), p)


def block(config, p, x):
    for name, sublayer in (
        ("attention", lambda y: self_attention(y, p)),
        ("mlp", lambda y: mlp(y, below(p, "mlp"), config.activation)),
    ):
        scale = p.get(f"{name}_scale", 1.0)
        if config.norm_position == "pre":
            x = x + scale * sublayer(layer_norm(x, below(p, f"{name}_norm"), config.norm_eps))
        else:
            x = layer_norm(x + scale * sublayer(x), below(p, f"{name}_norm"), config.norm_eps)
    return x


def pool(config, p, x):
    before = config.class_token + config.registers
    if config.pool == "class":
        return x[0]
    if config.pool == "mean":
        return x[before:].mean(0)
    heads = below(p, "pool/attention")
    y = attention(p["pool/probe"], linear(x, below(heads, "key")), linear(x, below(heads, "value")), heads)
    z = layer_norm(y, below(p, "pool/mlp_norm"), config.norm_eps)
    return (y + mlp(z, below(p, "pool/mlp"), config.activation))[0]


def plain_vit(config, p, image, masked):
    p = {path: np.asarray(value, np.float64) for path, value in p.items()}
    hidden = [embeddings(config, p, image, masked)]
    for layer in range(config.layers):
        hidden.append(block(config, layer_of(below(p, "layers"), layer), hidden[-1]))
    x = layer_norm(hidden[-1], below(p, "final_norm"), config.norm_eps) if config.final_norm else hidden[-1]
    pooled = pool(config, p, x)
    projected = None
    if config.projection:
        projected = linear(pooled, below(p, "projection"))
        projected = np.tanh(projected) if config.projection_activation == "tanh" else projected
    features = x if config.feature_layer == -1 else hidden[config.feature_layer]
    return {
        "features": features[config.class_token + config.registers :],
        "pooled": pooled,
        "projected": projected,
        "tokens": x,
        "hidden": np.stack(hidden),
    }


@pytest.mark.parametrize("name", CASES)
def test_equals_float64(name):
    config = CASES[name]
    random = np.random.default_rng(3)
    images = random.normal(size=(2, 16, 16, 3)).astype(np.float32)
    masked = random.random((2, 16)) < 0.4
    model = ViT(config)
    p = random_parameters(model, 1, jnp.asarray(images))
    ours = quick_jit(model.apply)(nested(p), images, masked if config.mask_token else None)
    for row in range(2):
        expected = plain_vit(config, p, images[row].astype(np.float64), masked[row])
        for key, value in expected.items():
            found = getattr(ours, key)
            if value is None:
                assert found is None
                continue
            found = found[:, row] if key == "hidden" else found[row]
            np.testing.assert_allclose(found, value, atol=2e-5 * np.abs(value).max(), rtol=0, err_msg=key)


def test_masked_patches_are_not_seen():
    config = CASES["stem-gated"]
    images = np.random.default_rng(0).normal(size=(1, 16, 16, 3)).astype(np.float32)
    model = ViT(dataclasses.replace(config, stem="patch"))
    p = random_parameters(model, 1, jnp.asarray(images))
    masked = np.zeros((1, 16), bool)
    masked[0, 5] = True
    other = images.copy()
    other[0, 4:8, 4:8] += 1.0  # patch 5 of the grid of four by four
    apply = quick_jit(model.apply)
    assert np.array_equal(apply(nested(p), images, masked).tokens, apply(nested(p), other, masked).tokens)
    assert not np.array_equal(apply(nested(p), images, ~masked).tokens, apply(nested(p), other, ~masked).tokens)


def resized_columns(columns, rows, method):
    """A grid whose rows are `columns [side, D]`, brought to `rows` rows; every column of the grid is the same."""
    side, depth = columns.shape
    table = np.broadcast_to(columns[:, None], (side, side, depth)).reshape(-1, depth)
    resized = np.asarray(resize_positions(jnp.asarray(table, jnp.float32), rows, side + 1, method))
    resized = resized.reshape(rows, side + 1, depth)
    assert np.ptp(resized, axis=1).max() < 1e-5
    return resized[:, 0]


def test_bicubic_positions_by_hand():
    """Halfway between two places the taps of sharpness -0.75 are -3/32, 19/32, 19/32, -3/32; the edge repeats."""
    outer, inner = -3 / 32, 19 / 32
    expected = [
        [outer + inner, inner, outer, 0, 0, 0],
        [0, outer, inner, inner, outer, 0],
        [0, 0, 0, outer, inner, inner + outer],
    ]
    np.testing.assert_allclose(resized_columns(np.eye(6), 3, "bicubic"), expected, atol=1e-6)


def test_antialiased_positions_keep_a_ramp():
    """Sharpness -0.5 gives a straight line back, away from the edges, and sees twice as far at half the size."""
    ramp = np.arange(8.0)[:, None]
    for rows in (11, 13):
        places = (np.arange(rows) + 0.5) * 8 / rows - 0.5
        inner = (places >= 1) & (places <= 6)
        found = resized_columns(ramp, rows, "bicubic_antialias")[:, 0]
        np.testing.assert_allclose(found[inner], places[inner], atol=1e-5)
    half = resized_columns(np.eye(16), 8, "bicubic_antialias")
    assert (np.abs(half[4]) > 1e-6).sum() == 8
    np.testing.assert_allclose(half.sum(-1), 1.0, atol=1e-6)


def test_positions_on_their_own_grid_are_untouched():
    table = jnp.asarray(np.random.default_rng(0).normal(size=(16, 5)), jnp.float32)
    assert resize_positions(table, 4, 4, "bicubic") is table


def test_other_picture_sizes_use_the_resized_table():
    config = CASES["class"]
    p = random_parameters(ViT(config), 1, jnp.zeros((1, 16, 16, 3)))
    images = np.random.default_rng(0).normal(size=(1, 24, 8, 3)).astype(np.float32)
    table = resize_positions(p["position_embedding"], 6, 2, "bicubic")
    small = dataclasses.replace(config, positions="none")
    ours = quick_jit(ViT(config).apply)(nested(p), images).hidden[0][0, 1:]
    without = {path: value for path, value in p.items() if path != "position_embedding"}
    plain = quick_jit(ViT(small).apply)(nested(without), images).hidden[0][0, 1:]
    np.testing.assert_allclose(ours, plain + table, rtol=1e-6)


def test_features_of_several_layers_lie_side_by_side():
    config = dataclasses.replace(CASES["class"], feature_layer=(0, -1, -2, 3, -3))
    images = np.random.default_rng(0).normal(size=(2, 16, 16, 3)).astype(np.float32)
    output = quick_jit(ViT(config).apply)(nested(random_parameters(ViT(config), 1, images)), images)
    hidden = output.hidden
    expected = [hidden[0], output.tokens, hidden[2], hidden[3], hidden[1]]
    assert np.array_equal(output.features, np.concatenate(expected, axis=-1)[:, 1:])


@pytest.mark.parametrize("layer, remat", [(-1, "none"), (-2, "none"), (3, "none"), (-2, "full")])
def test_outputs_that_nobody_asked_for_are_not_kept(layer, remat):
    """Memory of the features does not grow with the depth, and that of their gradient by no output of a layer more."""

    def temporary_bytes(layers, function):
        model = ViT(dataclasses.replace(BASE, image_size=64, layers=layers, feature_layer=layer, remat=remat))
        images = jax.ShapeDtypeStruct((2, 64, 64, 3), jnp.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), images)
        run = function(lambda params, images: jnp.sum(jnp.square(model.apply(params, images).features)))
        return jax.jit(run).lower(params, images).compile().memory_analysis().temp_size_in_bytes

    tokens = 2 * 256 * 24 * 4
    assert temporary_bytes(12, lambda f: f) - temporary_bytes(4, lambda f: f) < tokens
    if remat == "full":
        # Each layer's input is kept to compute it again.
        assert temporary_bytes(12, jax.grad) - temporary_bytes(4, jax.grad) < 9 * tokens


def test_pixels_that_do_not_fill_a_patch_are_not_seen():
    """SigLIP's own size of 384 with patches of 14: six pixels are left over."""
    config = dataclasses.replace(BASE, image_size=18)
    images = np.random.default_rng(0).normal(size=(1, 18, 18, 3)).astype(np.float32)
    p = random_parameters(ViT(config), 1, images)
    assert np.array_equal(
        quick_jit(ViT(config).apply)(nested(p), images).tokens,
        quick_jit(ViT(BASE).apply)(nested(p), images[:, :16, :16]).tokens,
    )


def test_remat_gives_the_same_gradients():
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 16, 16, 3)), jnp.float32)
    p = random_parameters(ViT(BASE), 1, images)

    weights = np.random.default_rng(1).normal(size=(2, 16, 24)).astype(np.float32)

    def gradient(config):
        return quick_jit(jax.grad(lambda p: jnp.sum(weights * ViT(config).apply(nested(p), images).features)))(p)

    assert_same_gradients(gradient(dataclasses.replace(BASE, remat="full")), gradient(BASE), 1e-6)


def test_refuses():
    with pytest.raises(InputError, match="18x16 does not divide into patches of 4"):
        ViT(BASE).init(jax.random.key(0), jnp.zeros((1, 18, 16, 3)))
    with pytest.raises(InputError, match="set mask_token to True"):
        ViT(BASE).init(jax.random.key(0), jnp.zeros((1, 16, 16, 3)), jnp.zeros((1, 16), bool))
    for wrong, message in [
        ({"patch_size": 17}, "image_size"),
        ({"heads": 5}, "multiple of heads"),
        ({"pool": "class"}, "class_token"),
        ({"class_position": True}, "class_token"),
        ({"projection": 4}, "pool"),
        ({"feature_layer": -4}, "feature_layer"),
        ({"feature_layer": 4}, "feature_layer"),
        ({"stem": "convolution", "patch_size": 1}, "power of two"),
    ]:
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(BASE, **wrong)
    with pytest.raises(ConfigError, match="multiple of 4"):
        sincos_positions(2, 2, 6)
