"""Llama 3.2 Vision: two ways to say who looks at what, text that sees no picture, embeddings beyond the words."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.layers.attention import AttentionConfig
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.tiled_vit import TiledViTConfig
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.models.mllama import Mllama, MllamaConfig
from mmjax.parallel.sharding import nested
from tests.models.plain_numpy import random_parameters
from tests.quick import quick_jit

TINY = MllamaConfig(
    vision=TiledViTConfig(
        image_size=8, patch_size=4, width=20, layers=2, global_layers=1, heads=2, mlp_width=24, tiles=2,
        aspect_ratios=((1, 1), (1, 2)), taps=(0,),
    ),
    decoder=DecoderConfig(
        vocab_size=30, width=24, layers=3, heads=4, head_width=6, mlp_width=28, kv_heads=2, tied_embeddings=False,
        extra_embeddings=2,
    ),
    cross=GatedCrossAttentionConfig(
        AttentionConfig(4, 6, 2, qk_norm="head"), 28, every=2, offset=1, activation="silu", mlp_gated=True, norm="rms",
        mlp_skips_unseen=True, unseen_attends_all=True,
    ),
    image_token=30,
)  # fmt: skip
LOOKS = jnp.asarray([[0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 1, 0]], jnp.int32)
TILE_MASK = jnp.asarray([[[True, True], [True, False]], [[True, False], [True, False]]])
RATIOS = jnp.asarray([[2, 1], [1, 0]], jnp.int32)
ONES = jnp.ones((2, 6), jnp.int32)
PLACES = jnp.cumsum(ONES, axis=1) - 1


def pictures(seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(2, 2, 2, 8, 8, 3)), jnp.float32)


def inputs(seed=0):
    tokens = jnp.asarray(np.random.default_rng(7).integers(1, 30, (2, 6)), jnp.int32)
    return pictures(seed), TILE_MASK, RATIOS, jnp.where(LOOKS == 0, tokens, 30), PLACES, ONES, LOOKS


def prepared(**cross):
    model = Mllama(dataclasses.replace(TINY, cross=dataclasses.replace(TINY.cross, **cross)))
    variables = nested(random_parameters(model, 1, *inputs()))
    return model, variables


def test_media_index_is_a_mask_of_the_tiles_that_are_there():
    model, variables = prepared()
    media = quick_jit(lambda v: model.apply(v, *inputs()[:3], method="encode"))(variables)
    assert media.features.shape == (2, 2 * 2 * 5, 24)
    tiles = np.repeat(np.asarray(TILE_MASK) * np.array([1, 2])[None, :, None], 5, axis=-1).reshape(2, 20)
    assert np.array_equal(media.segments, tiles)
    allowed = (LOOKS[:, :, None] == tiles[:, None]) & (LOOKS > 0)[:, :, None]

    @quick_jit
    def decode(**looks):
        return model.apply(variables, *inputs()[3:6], media=media, method="decode", **looks).hidden

    np.testing.assert_array_equal(decode(media_index=LOOKS), decode(media_allowed=allowed))
    assert decode(media_index=LOOKS).shape == (2, 6, 24)


@pytest.mark.parametrize("attends_all", [False, True])
def test_text_that_sees_no_picture(attends_all):
    """Other pictures change nothing of the text before the first, unless what is unseen is attended to."""
    model, variables = prepared(unseen_attends_all=attends_all)
    apply = quick_jit(lambda images: model.apply(variables, images, *inputs()[1:]).hidden)
    difference = np.abs(apply(pictures(0)) - apply(pictures(1))).max(axis=-1)
    assert (difference[:, 2:] > 1e-3).all()
    assert (difference[:, 0] > 1e-3).all() if attends_all else (difference[:, 0] == 0).all()


def test_unseen_text_skips_the_feed_forward():
    model, variables = prepared()
    through, _ = prepared(mlp_skips_unseen=False)
    first, second = (quick_jit(lambda m=m: m.apply(variables, *inputs()).hidden)() for m in (model, through))
    assert (np.abs(first - second).max(axis=-1)[:, 0] > 1e-3).all()


def test_tokens_beyond_the_vocabulary_are_read_but_have_no_logits():
    model, variables = prepared()
    decoder = variables["params"]["decoder"]
    assert decoder["embedding"].shape == (32, 24) and decoder["unembedding"].shape == (30, 24)
    changed = (*inputs()[:3], jnp.where(LOOKS == 0, inputs()[3], 31), *inputs()[4:])
    apply = quick_jit(lambda *inputs: model.apply(variables, *inputs))
    assert np.abs(apply(*inputs()).hidden - apply(*changed).hidden).max() > 1e-3
    assert apply(*inputs()).unembedding.shape == (30, 24)
    with pytest.raises(ConfigError, match="extra_embeddings"):
        dataclasses.replace(TINY.decoder, tied_embeddings=True)
