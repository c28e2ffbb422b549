"""The decoder: the cache equals the uncached forward, depth costs no program, recomputing changes no number."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.layers.attention import AttentionConfig
from mmjax.models.decoders.config import DecoderConfig, DepthPlan, depth_plan
from mmjax.models.decoders.decoder import Decoder, Media, alibi_slopes, empty_cache
from mmjax.models.fusion.gated import GatedCrossAttentionConfig
from mmjax.ops.rope import RopeScaling
from mmjax.parallel.sharding import abstract_parameters, nested
from tests.models.plain_numpy import assert_same_gradients, random_parameters
from tests.quick import quick_jit

BASE = DecoderConfig(vocab_size=40, width=24, layers=3, heads=4, head_width=6, mlp_width=28, kv_heads=2)
CROSS = GatedCrossAttentionConfig(AttentionConfig(2, 6), 24, every=2, gate_init=0.5)
CACHED = {
    "rotary-windows": (
        dataclasses.replace(
            BASE,
            windows=(3, None),
            norm_position="sandwich",
            qk_norm="head",
            rope_base=500.0,
            rope_local_base=50.0,
            rope_scaling=RopeScaling("linear", factor=2.0),
            attention_softcap=3.0,
        ),
        None,
    ),
    "learned": (
        dataclasses.replace(
            BASE, positions="learned", max_length=12, position_offset=2, norm="layer", qkv_bias=True, out_bias=True
        ),
        CROSS,
    ),
    "alibi": (dataclasses.replace(BASE, positions="alibi", qk_norm="full", qk_norm_kind="layer"), CROSS),
    "none-post": (dataclasses.replace(BASE, positions="none", norm_position="post", windows=(4,)), None),
    "twice-unseen": (
        BASE,
        dataclasses.replace(
            CROSS, every=1, before=(1, 1, 3), norm="rms", mlp_skips_unseen=True, unseen_attends_all=True
        ),
    ),
    "encoder": (dataclasses.replace(BASE, layers=2, encoder_attention=True, windows=(None, 3)), None),
    "partial-parallel": (dataclasses.replace(BASE, rope_fraction=0.4, parallel_residual=True), CROSS),
}
LENGTHS = np.array([5, 3])  # tokens of each row's prompt, in a block of 5
STEPS = 6


def ids(random, *shape):
    return jnp.asarray(random.integers(1, 40, shape), jnp.int32)


@pytest.mark.parametrize("name", CACHED)
def test_cached_equals_uncached(name):
    """Prompts of two lengths at once, then one token a step, each row at its own place."""
    config, cross = CACHED[name]
    random = np.random.default_rng(0)
    model, total = Decoder(config, cross), int(LENGTHS.max()) + STEPS
    tokens = ids(random, 2, total)
    places = jnp.broadcast_to(jnp.arange(total, dtype=jnp.int32)[None], (2, total))
    ones = jnp.ones((2, total), jnp.int32)
    media, looks_at = {}, {}
    if cross is not None or config.encoder_attention:
        features = jnp.asarray(random.normal(size=(2, 4, 10)), jnp.float32)
        media = {"media": Media(features, jnp.asarray([[1, 1, 2, 2], [1, 1, 2, 0]], jnp.int32))}
        looks_at = {"media_index": jnp.minimum(places // 3, 2)}
    variables = nested(random_parameters(model, 1, tokens, places, ones, **media, **looks_at))
    whole = quick_jit(model.apply)(variables, tokens, places, ones, **media, **looks_at).hidden

    prompt = int(LENGTHS.max())
    cache = empty_cache(config, cross, batch=2, length=total, media_length=4)
    present = jnp.asarray(np.arange(prompt)[None] < LENGTHS[:, None], jnp.int32)
    first = {key: value[:, :prompt] for key, value in looks_at.items()}
    output = quick_jit(model.apply)(
        variables, tokens[:, :prompt], places[:, :prompt], present, **media, **first, cache=cache,
        write_index=places[:, :prompt],
    )  # fmt: skip
    seen = [(row, at, output.hidden[row, at]) for row in range(2) for at in range(LENGTHS[row])]
    media = {"media": Media(None, media["media"].segments)} if media else {}

    @quick_jit
    def step(cache, at):
        rows = jnp.arange(2)
        now = {key: value[rows, at][:, None] for key, value in looks_at.items()}
        output = model.apply(
            variables, tokens[rows, at][:, None], at[:, None], ones[:, :1], **media, **now, cache=cache,
            write_index=at[:, None],
        )  # fmt: skip
        return output.hidden[:, 0], output.cache

    cache = output.cache
    for number in range(STEPS):
        at = jnp.asarray(LENGTHS + number, jnp.int32)
        hidden, cache = step(cache, at)
        seen += [(row, int(at[row]), hidden[row]) for row in range(2)]
    scale = float(jnp.abs(whole).max())
    for row, at, hidden in seen:
        np.testing.assert_allclose(hidden, whole[row, at], rtol=0, atol=1e-5 * scale, err_msg=f"row {row} token {at}")
    assert len(seen) == LENGTHS.sum() + 2 * STEPS


def test_a_later_token_is_not_seen():
    """Causality, for every kind of position at once, and segments: packing two rows into one changes nothing."""
    random = np.random.default_rng(0)
    for config, cross in CACHED.values():
        if cross is not None or config.encoder_attention:
            continue
        model, tokens = Decoder(config), ids(random, 2, 6)
        places = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32)[None], (2, 6))
        ones = jnp.ones((2, 6), jnp.int32)
        variables = nested(random_parameters(model, 1, tokens, places, ones))
        apply = quick_jit(model.apply)
        whole = apply(variables, tokens, places, ones).hidden
        later = apply(variables, tokens.at[:, 4].set(7), places, ones).hidden
        assert np.array_equal(whole[:, :4], later[:, :4])
        packed = apply(variables, *(x.reshape(1, 12) for x in (tokens, places, ones * jnp.array([[1], [2]])))).hidden
        np.testing.assert_allclose(packed.reshape(whole.shape), whole, atol=2e-6 * float(jnp.abs(whole).max()))


def test_rotary_positions_are_not_the_order():
    """Positions along three axes, which fall while the row goes on: the past is what stands before, cached or not."""
    random = np.random.default_rng(0)
    config = dataclasses.replace(BASE, rope_sections=(1, 1, 1), windows=(3, None))
    model, tokens = Decoder(config), ids(random, 2, 6)
    places = jnp.broadcast_to(jnp.arange(6, dtype=jnp.int32)[None], (2, 6))
    ones = jnp.ones((2, 6), jnp.int32)
    turned_by = jnp.asarray(np.stack([9 - np.arange(6), np.arange(6) % 2, np.zeros(6)], -1), jnp.int32)
    turned_by = jnp.broadcast_to(turned_by[None], (2, 6, 3))
    variables = nested(random_parameters(model, 1, tokens, places, ones))
    apply = quick_jit(model.apply)
    plain = apply(variables, tokens, places, ones).hidden
    alike = apply(variables, tokens, places, ones, rope_positions=jnp.repeat(places[..., None], 3, axis=-1)).hidden
    assert np.array_equal(plain, alike)
    whole = apply(variables, tokens, places, ones, rope_positions=turned_by).hidden
    scale = float(jnp.abs(whole).max())
    assert float(jnp.abs(whole - plain).max()) > 1e-3 * scale
    cache, seen = empty_cache(config, None, batch=2, length=6), []
    for at in (slice(0, 4), slice(4, 5), slice(5, 6)):
        output = apply(
            variables, tokens[:, at], places[:, at], ones[:, at], rope_positions=turned_by[:, at], cache=cache,
            write_index=places[:, at],
        )  # fmt: skip
        cache = output.cache
        seen.append(output.hidden)
    np.testing.assert_allclose(jnp.concatenate(seen, axis=1), whole, rtol=0, atol=1e-5 * scale)


def test_depth_plan():
    assert depth_plan(26, 6, None) == DepthPlan(4, 6, 2)
    assert depth_plan(40, 1, 4) == DepthPlan(10, 4, 0)
    assert depth_plan(12, 2, 3) == DepthPlan(2, 6, 0)
    assert depth_plan(3, 2, 2) == DepthPlan(1, 2, 1)
    assert depth_plan(3, 4, None) == DepthPlan(0, 4, 3)


def test_alibi_slopes():
    np.testing.assert_allclose(alibi_slopes(4), [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
    np.testing.assert_allclose(alibi_slopes(3), [2.0**-4, 2.0**-8, 2.0**-2])


def gradient_program(config, cross=None, length=6):
    """The compiled-later gradient of a loss, and arguments for it."""
    model = Decoder(config, cross)
    random = np.random.default_rng(0)
    tokens = ids(random, 2, length)
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (2, length))
    ones = jnp.ones((2, length), jnp.int32)
    media = {}
    if cross is not None:
        features = jnp.asarray(random.normal(size=(2, 4, 10)), jnp.float32)
        media = {"media": Media(features, jnp.ones((2, 4), jnp.int32)), "media_index": ones}
    weights = jnp.asarray(random.normal(size=(2, length, config.width)), jnp.float32)

    def loss(parameters):
        return jnp.sum(weights * model.apply(nested(parameters), tokens, places, ones, **media).hidden)

    shapes, _ = abstract_parameters(lambda: model.init(jax.random.key(0), tokens, places, ones, **media))
    return jax.grad(loss), shapes, lambda: random_parameters(model, 1, tokens, places, ones, **media)


def test_remat_policies_give_equal_gradients_and_keep_less():
    """With every policy the same numbers; what is kept for the backward pass falls from none to dots to full."""
    gradients, kept = {}, {}
    for policy in ("none", "dots", "full"):
        config = dataclasses.replace(BASE, layers=8, remat=policy)
        program, shapes, make = gradient_program(config, dataclasses.replace(CROSS, every=1), length=64)
        compiled = quick_jit(program).lower(shapes).compile()
        kept[policy] = compiled.memory_analysis().temp_size_in_bytes
        gradients[policy] = compiled(make())
    assert_same_gradients(gradients["dots"], gradients["none"], 1e-6)
    assert_same_gradients(gradients["full"], gradients["none"], 1e-6)
    assert kept["full"] < kept["dots"] < kept["none"]
    assert kept["full"] < kept["none"] / 2


@pytest.mark.parametrize("cross", [None, CROSS], ids=["alone", "with-cross-attention"])
def test_program_size_does_not_grow_with_depth(cross):
    sizes = []
    for layers in (4, 40):
        program, shapes, _ = gradient_program(dataclasses.replace(BASE, layers=layers, windows=(3, None)), cross)
        sizes.append(len(jax.jit(program).lower(shapes).as_text()))
    assert abs(sizes[1] - sizes[0]) < 0.01 * sizes[0]


def test_refuses():
    for wrong, message in [
        ({"positions": "learned"}, "max_length"),
        ({"parallel_residual": True, "norm_position": "post"}, "parallel_residual"),
        ({"windows": ()}, "windows"),
        ({"rope_sections": (1, 1)}, "rope_sections"),
        ({"rope_scaling": RopeScaling("yarn", factor=4.0), "rope_fraction": 0.5}, "yarn"),
    ]:
        with pytest.raises(ConfigError, match=message):
            dataclasses.replace(BASE, **wrong)
    with pytest.raises(ConfigError, match="multiple of kv_heads"):
        _ = dataclasses.replace(BASE, kv_heads=3).attention
