"""Pictures in tiles within the text, and pictures with a border of padding."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError, InputError
from mmjax.models.connectors.projector import ProjectorConfig
from mmjax.models.connectors.tiles import TilesConfig, tile_order
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.positions import fraction_positions
from mmjax.models.encoders.vit import ViT, ViTConfig
from mmjax.models.inline import InlineConfig, InlineModel
from mmjax.parallel.sharding import nested
from tests.models.plain_numpy import random_parameters
from tests.quick import quick_jit

IMAGE = 9
VISION = ViTConfig(image_size=8, patch_size=4, width=12, layers=1, heads=2, mlp_width=16)
DECODER = DecoderConfig(vocab_size=11, width=16, layers=1, heads=2, head_width=8, mlp_width=20)
TILED = InlineConfig(
    VISION, ProjectorConfig(16), DECODER, IMAGE, tiles=TilesConfig(resolutions=((8, 16), (16, 8), (16, 16)))
)
SIZES = [[(5, 16)], [(16, 5)]]


def tiled_rows():
    """Two rows of a picture each: its tokens, how its vectors stand, and its tiles."""
    orders = [tile_order(own, TILED.tiles.resolutions, tile=8, side=TILED.side)[0] for own in SIZES]
    longest = max(map(len, orders))
    tokens = np.full((2, longest + 2), 3)
    for row, order in enumerate(orders):
        tokens[row, 1 : 1 + len(order)] = IMAGE
    order = np.stack([np.pad(own, (0, longest - len(own))) for own in orders])
    images = np.random.default_rng(0).normal(size=(2, 3, 8, 8, 3))
    positions = np.broadcast_to(np.arange(longest + 2), tokens.shape)
    text = [jnp.asarray(x, jnp.int32) for x in (tokens, positions, np.ones_like(tokens))]
    return jnp.asarray(images, jnp.float32), text, jnp.asarray(order), [len(own) for own in orders]


def test_tiles_stand_in_the_text_as_their_order_says():
    images, text, order, counts = tiled_rows()
    model = InlineModel(TILED)
    p = nested(random_parameters(model, 1, images, *text))
    found = quick_jit(lambda p: model.apply(p, images, *text, order=order, mutable=["hidden"]))(p)
    embedded = np.asarray(found[1]["hidden"]["decoder"]["embeddings"][0])
    features, _ = quick_jit(lambda p: model.apply(p, images.reshape(6, 8, 8, 3), method="encode"))(p)
    newline = np.asarray(p["params"]["newline"])
    for row, count in enumerate(counts):
        vectors = np.concatenate([*np.asarray(features[3 * row : 3 * row + 3]), newline[None]])
        expected = vectors[np.asarray(order[row, :count])]
        np.testing.assert_allclose(embedded[row, 1 : 1 + count], expected, atol=1e-5, rtol=0)
        assert (np.asarray(order[row, :count]) == -1).any()


def test_only_a_model_with_tiles_has_a_newline():
    images, text, order, _ = tiled_rows()
    plain = InlineModel(dataclasses.replace(TILED, tiles=None))
    shapes = jax.eval_shape(plain.init, jax.random.key(0), images, *text)
    assert "newline" not in shapes["params"]
    with pytest.raises(InputError, match="reads tiles"):
        jax.eval_shape(lambda p: plain.apply(p, images, *text, order=order), shapes)


@pytest.mark.parametrize(
    "change, problem",
    [
        ({"tiles": TilesConfig(((8, 12),))}, "tiles of 8 pixels"),
        (
            {"vision": dataclasses.replace(VISION, class_token=True, feature_tokens="all")},
            "feature_tokens to 'patches'",
        ),
        ({"connector": ProjectorConfig(16, join=2)}, "without join"),
    ],
)
def test_tiles_that_make_no_grid(change, problem):
    with pytest.raises(ConfigError, match=problem):
        dataclasses.replace(TILED, **change)


def test_fractions_of_a_picture():
    """A picture of three by two patches in a grid of four by four, on four by four positions."""
    present = np.zeros((1, 4, 4), bool)
    present[0, :3, :2] = True
    places = fraction_positions(jnp.asarray(present), 4).reshape(4, 4)
    assert places.tolist() == [[0, 2, 0, 0], [4, 6, 0, 0], [8, 10, 0, 0], [0, 0, 0, 0]]
    whole = fraction_positions(jnp.ones((1, 26, 26), bool), 26)
    assert whole.tolist() == [list(range(26 * 26))]
    assert not fraction_positions(jnp.zeros((1, 2, 2), bool), 4).any()  # no picture: no division by zero patches


@pytest.mark.parametrize("pool", ["none", "mean", "map", "class"])
def test_padding_is_not_seen(pool):
    """A picture in the corner of a larger one is read as it is by itself."""
    config = ViTConfig(
        image_size=16, patch_size=4, width=12, layers=2, heads=3, mlp_width=16, pool=pool,
        class_token=pool == "class", registers=1, position_resize="fraction",
    )  # fmt: skip
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 16, 16, 3)), jnp.float32)
    present = np.zeros((1, 4, 4), bool)
    present[0, :3, :2] = True
    model = ViT(config)
    p = nested(random_parameters(model, 1, images))
    padded = quick_jit(model.apply)(p, images, present=jnp.asarray(present.reshape(1, 16)))
    alone = quick_jit(model.apply)(p, images[:, :12, :8])
    features = np.asarray(padded.features).reshape(4, 4, 12)[:3, :2].reshape(6, 12)
    np.testing.assert_allclose(features, alone.features[0], atol=2e-6, rtol=0)
    if pool != "none":
        np.testing.assert_allclose(padded.pooled, alone.pooled, atol=2e-6, rtol=0)


def test_rows_with_padding():
    """What is padding of a picture may hold anything, where the connector keeps patches apart."""
    config = dataclasses.replace(TILED, tiles=None, vision=dataclasses.replace(VISION, position_resize="fraction"))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(1, 2, 8, 8, 3)), jnp.float32)
    tokens = jnp.asarray([[1, IMAGE, IMAGE, 4, 5]], jnp.int32)
    text = [tokens, jnp.arange(5, dtype=jnp.int32)[None], jnp.ones_like(tokens)]
    present = jnp.asarray([[[True, True, False, False], [True] * 4]])
    model = InlineModel(config)
    p = nested(random_parameters(model, 1, images, *text))
    apply = quick_jit(lambda p, images: model.apply(p, images, *text, present=present).hidden)
    before = apply(p, images)
    assert np.array_equal(before, apply(p, images.at[0, 0, 4:].add(1.0)))
    assert not np.array_equal(before, apply(p, images.at[0, 0, :4].add(1.0)))
