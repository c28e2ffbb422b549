"""The Perceiver resampler against float64: shared and separate keys, frames, absent pictures, temporal embeddings."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError, InputError
from mmjax.models.connectors.resampler import Resampler, ResamplerConfig
from mmjax.parallel.sharding import nested
from tests.models.plain_numpy import attention, below, head_norm, layer_norm, layer_of, linear, mlp, random_parameters
from tests.quick import quick_jit

WIDER = 14  # features may come in another width than the latents'
CONFIG = ResamplerConfig(width=12, layers=2, heads=3, head_width=5, latents=4, mlp_width=20, max_frames=3)
SHARED = dataclasses.replace(CONFIG, shared_kv=True, activation="gelu", max_frames=0, norm_eps=1e-3)
FRAMES = np.array([[True, False, True], [False, True, False], [False, False, False]])


def make(config, width, frames=3, seed=0):
    features = np.random.default_rng(seed).normal(size=(3, frames, 5, width)).astype(np.float32)
    mask = FRAMES[:, :frames]
    model = Resampler(config)
    return model, random_parameters(model, 1, jnp.asarray(features), jnp.asarray(mask)), features, mask


def plain_resampler(config, p, features, mask):
    """One picture: `features [F,P,E]`, `mask [F]`. What the mask leaves out is cut away, not masked."""
    p = {path: np.asarray(value, np.float64) for path, value in p.items()}
    features = features.astype(np.float64)
    if config.max_frames and len(features) > 1:
        features = features + p["temporal_embedding"][: len(features), None]
    features = features[mask].reshape(-1, features.shape[-1])
    x = p["latents"]
    for layer in range(config.layers):
        q = layer_of(below(p, "layers"), layer)
        heads = below(q, "attention")
        media = layer_norm(features, below(q, "media_norm"), config.norm_eps)
        y = layer_norm(x, below(q, "attention_norm"), config.norm_eps)
        of_media = heads if config.shared_kv else below(q, "media")
        keys, values = (
            [linear(media, below(of_media, name)), linear(y, below(heads, name))] for name in ("key", "value")
        )
        norms = [below(of_media, "key_norm"), below(heads, "key_norm")]
        keys = [head_norm(key, norm, config.norm_eps) for key, norm in zip(keys, norms, strict=True)]
        x = x + attention(y, np.concatenate(keys), np.concatenate(values), heads, eps=config.norm_eps)
        x = x + mlp(layer_norm(x, below(q, "mlp_norm"), config.norm_eps), below(q, "mlp"), config.activation)
    return layer_norm(x, below(p, "final_norm"), config.norm_eps)


@pytest.mark.parametrize(
    ("config", "width"),
    [
        (CONFIG, WIDER),
        (SHARED, SHARED.width),
        (dataclasses.replace(CONFIG, qk_norm=True), WIDER),
        (dataclasses.replace(SHARED, qk_norm=True), SHARED.width),
    ],
    ids=["separate", "shared", "separate-norms", "shared-norms"],
)
@pytest.mark.parametrize("frames", [3, 1])
def test_equals_float64(config, width, frames):
    model, p, features, mask = make(config, width, frames)
    ours = quick_jit(model.apply)(nested(p), features, mask)
    assert ours.shape == (3, config.latents, config.width)
    for row in range(3):
        expected = plain_resampler(config, p, features[row], mask[row])
        np.testing.assert_allclose(ours[row], expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_absent_frames_are_not_seen():
    model, p, features, mask = make(CONFIG, WIDER)
    apply = quick_jit(model.apply)
    other = np.where(mask[:, :, None, None], features, 1e4 * features + 3)
    assert np.array_equal(apply(nested(p), features, mask), apply(nested(p), other, mask))
    gradient = quick_jit(jax.grad(lambda f: jnp.sum(model.apply(nested(p), f, mask) ** 3)))(features)
    assert np.isfinite(gradient).all()
    seen = np.abs(gradient).max((2, 3)) > 0
    assert np.array_equal(seen, mask)


def test_one_frame_has_no_temporal_embedding():
    model, p, features, mask = make(CONFIG, WIDER, frames=1)
    moved = p | {"temporal_embedding": p["temporal_embedding"] + 1.0}
    apply = quick_jit(model.apply)
    assert np.array_equal(apply(nested(p), features, mask), apply(nested(moved), features, mask))
    features, mask = np.repeat(features, 2, axis=1), np.repeat(mask, 2, axis=1)
    assert not np.array_equal(apply(nested(p), features, mask), apply(nested(moved), features, mask))


def test_refuses():
    model, p, features, mask = make(CONFIG, WIDER)
    with pytest.raises(InputError, match="4 frames were given but the resampler has embeddings for 3"):
        model.apply(nested(p), np.zeros((1, 4, 5, WIDER), np.float32), np.ones((1, 4), bool))
    with pytest.raises(ConfigError, match="set shared_kv to False"):
        Resampler(SHARED).init(jax.random.key(0), features, mask)
