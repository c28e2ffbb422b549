"""A picture encoder with a decoder that attends to it: each token to its own picture, through a map where needed."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoder_decoder import EncoderDecoder, EncoderDecoderConfig
from mmjax.models.encoders.vit import ViTConfig
from mmjax.parallel.sharding import nested
from tests.models.plain_numpy import random_parameters
from tests.quick import quick_jit

TINY = EncoderDecoderConfig(
    ViTConfig(image_size=8, patch_size=4, width=20, layers=1, heads=2, mlp_width=24, class_token=True),
    DecoderConfig(
        vocab_size=30, width=24, layers=2, heads=4, head_width=6, mlp_width=28, norm="layer", positions="learned",
        max_length=8, qkv_bias=True, out_bias=True, encoder_attention=True,
    ),
    start_token=1,
)  # fmt: skip


def inputs(rows, pictures, length):
    random = np.random.default_rng(0)
    images = jnp.asarray(random.normal(size=(rows, pictures, 8, 8, 3)), jnp.float32)
    tokens = jnp.asarray(random.integers(1, 30, (rows, length)), jnp.int32)
    ones = jnp.ones((rows, length), jnp.int32)
    return images, tokens, jnp.cumsum(ones, axis=1) - 1, ones, ones


def prepared(config=TINY):
    model = EncoderDecoder(config)
    return model, nested(random_parameters(model, 1, *inputs(2, 1, 3)))


def test_packed_texts_look_at_their_own_pictures():
    """Two rows of one picture each, and the same in one row: nothing changes."""
    model, variables = prepared()
    images, tokens, places, ones, looks = inputs(2, 1, 3)
    apply = quick_jit(lambda *inputs: model.apply(variables, *inputs).hidden)
    apart = apply(images, tokens, places, ones, looks)
    numbers = jnp.asarray([[1, 1, 1, 2, 2, 2]], jnp.int32)
    packed = apply(images.reshape(1, 2, 8, 8, 3), tokens.reshape(1, 6), places.reshape(1, 6), numbers, numbers)
    np.testing.assert_allclose(packed.reshape(apart.shape), apart, atol=2e-6 * float(jnp.abs(apart).max()))
    swapped = apply(images[::-1], tokens, places, ones, looks)
    assert (np.abs(swapped - apart).max(axis=-1) > 1e-3).all()
    blind, other = (apply(x, tokens, places, ones, 0 * looks) for x in (images, images[::-1]))
    np.testing.assert_array_equal(blind, other)


def test_media_are_all_tokens_of_the_encoder():
    model, variables = prepared()
    images = inputs(2, 3, 3)[0]
    media, seen = quick_jit(lambda images: model.apply(variables, images, method="encode"))(images)
    assert media.features.shape == (2, 15, 24) and seen.tokens.shape == (6, 5, 20)
    assert np.array_equal(media.segments, [np.repeat([1, 2, 3], 5)] * 2)


def test_equal_widths_need_no_map():
    assert "media_projection" in prepared()[1]["params"]
    wide = dataclasses.replace(TINY, vision=dataclasses.replace(TINY.vision, width=24))
    assert "media_projection" not in prepared(wide)[1]["params"]


def test_refuses():
    with pytest.raises(ConfigError, match="encoder_attention to True"):
        EncoderDecoderConfig(TINY.vision, dataclasses.replace(TINY.decoder, encoder_attention=False))
    with pytest.raises(ConfigError, match="encoder_attention goes with"):
        dataclasses.replace(TINY.decoder, parallel_residual=True)
