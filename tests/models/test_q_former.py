"""The Q-Former against float64: who reads what, with a question and without, whatever the depth; and in its model."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.core.errors import ConfigError, InputError
from mmjax.models.connectors.projector import ProjectorConfig
from mmjax.models.connectors.q_former import QFormer, QFormerConfig, Question, layer_outputs
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.encoders.vit import ViT, ViTConfig
from mmjax.models.inline import InlineConfig, InlineModel
from mmjax.parallel.sharding import nested
from tests.models.plain_numpy import attention, below, layer_norm, layer_of, linear, mlp, random_parameters
from tests.quick import quick_jit

WIDTH = 10  # of the pictures' features
SILENT = QFormerConfig(width=14, queries=3, query_width=12, layers=5, heads=3, mlp_width=20)
ASKED = dataclasses.replace(SILENT, layers=4, vocab_size=30, max_length=8, activation="relu", norm_eps=1e-3)
SHALLOW = dataclasses.replace(SILENT, layers=2, cross_every=3)
TOKENS = np.array([[4, 5, 6, 7], [8, 9, 0, 0]], np.int32)
PRESENT = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], bool)
QUESTION = Question(jnp.asarray(TOKENS), jnp.asarray(PRESENT))


def make(config):
    features = np.random.default_rng(0).normal(size=(2, 5, WIDTH)).astype(np.float32)
    model = QFormer(config)
    return model, random_parameters(model, 1, jnp.asarray(features)), features


def attend(x, memory, p):
    return attention(x, linear(memory, below(p, "key")), linear(memory, below(p, "value")), p)


def plain_q_former(config, p, features, tokens):
    """One picture and the tokens of its question without padding, which is cut away, not masked."""
    p = {path: np.asarray(value, np.float64) for path, value in p.items()}
    x = p["queries"]
    if len(tokens):
        x = np.concatenate([x, p["embedding"][tokens] + p["position_embedding"][: len(tokens)]])
    x = layer_norm(x, below(p, "embedding_norm"), config.norm_eps)
    for layer in range(config.layers):
        block, slot = divmod(layer, config.cross_every)
        scanned = block < config.superblocks
        q = layer_of(below(p, f"layers/self_{slot}"), block) if scanned else below(p, f"tail/self_{slot}")

        def normed(name, x, y, q=q):
            return layer_norm(x + y, below(q, f"{name}_norm"), config.norm_eps)

        x = normed("attention", x, attend(x, x, below(q, "attention")))
        queries, text = x[: config.queries], x[config.queries :]
        if slot == 0:
            queries = normed("cross_attention", queries, attend(queries, features, below(q, "cross_attention")))
        x = normed("mlp", queries, mlp(queries, below(q, "mlp"), config.activation))
        if len(tokens):
            x = np.concatenate([x, normed("text_mlp", text, mlp(text, below(q, "text_mlp"), config.activation))])
    return linear(x[: config.queries], below(p, "out"))


@pytest.mark.parametrize("config", [SILENT, ASKED, SHALLOW], ids=["tail", "question", "shallow"])
def test_equals_float64(config):
    model, p, features = make(config)
    question = [QUESTION] if config.vocab_size else []
    ours = quick_jit(model.apply)(nested(p), features, *question)
    assert ours.shape == (2, config.queries, config.width)
    for row in range(2):
        tokens = TOKENS[row][PRESENT[row]] if question else []
        expected = plain_q_former(config, p, features[row].astype(np.float64), tokens)
        np.testing.assert_allclose(ours[row], expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_question_is_read_and_its_padding_is_not():
    model, p, features = make(ASKED)
    apply = quick_jit(model.apply)
    asked = apply(nested(p), features, QUESTION)
    padding = Question(jnp.where(QUESTION.present, QUESTION.tokens, 20), QUESTION.present)
    assert np.array_equal(asked, apply(nested(p), features, padding))
    other = Question(QUESTION.tokens.at[0, 3].set(20), QUESTION.present)
    differs = np.abs(asked - apply(nested(p), features, other)).max((1, 2)) > 1e-4
    assert differs.tolist() == [True, False]
    unasked = quick_jit(model.apply)(nested(p), features)
    expected = plain_q_former(ASKED, p, features[0].astype(np.float64), [])
    np.testing.assert_allclose(unasked[0], expected, rtol=0, atol=3e-6 * np.abs(expected).max())


def test_layer_outputs_are_all_layers_in_order():
    model, p, features = make(SILENT)
    ours, kept = quick_jit(lambda p, f: model.apply(p, f, mutable=["hidden"]))(nested(p), features)
    layers = layer_outputs(SILENT, kept["hidden"])
    assert len(layers) == SILENT.layers + 1
    assert all(layer.shape == (2, SILENT.queries, SILENT.query_width) for layer in layers)
    np.testing.assert_allclose(linear(np.asarray(layers[-1]), below(p, "out")), ours, rtol=0, atol=1e-5)
    # The first layer is the one that reads pictures; what stands before it knows none.
    assert np.array_equal(layers[0][0], layers[0][1]) and not np.array_equal(layers[1][0], layers[1][1])


def test_refuses():
    model, p, features = make(SILENT)
    with pytest.raises(InputError, match="reads no question"):
        model.apply(nested(p), features, QUESTION)
    model, p, features = make(ASKED)
    with pytest.raises(InputError, match="a question of 9 tokens was given, but the Q-Former reads 8"):
        model.apply(nested(p), features, Question(jnp.zeros((2, 9), jnp.int32), jnp.ones((2, 9), bool)))
    with pytest.raises(ConfigError, match="query_width \\(12\\) must be a multiple of heads \\(5\\)"):
        dataclasses.replace(SILENT, heads=5)
    with pytest.raises(ConfigError, match="both vocab_size"):
        dataclasses.replace(SILENT, vocab_size=9)
    with pytest.raises(ConfigError, match="cross_every"):
        dataclasses.replace(SILENT, cross_every=0)


IMAGE = 9
VISION = ViTConfig(6, 3, 8, 1, 2, 12, class_token=True, pool="class", pool_norm=True, feature_tokens="all")
TEXT = DecoderConfig(40, 14, 2, 2, 6, 20)
INLINE = InlineConfig(VISION, ASKED, TEXT, IMAGE)


def inputs():
    random = np.random.default_rng(2)
    images = jnp.asarray(random.normal(size=(2, 2, 6, 6, 3)), jnp.float32)
    tokens = random.integers(10, 40, size=(2, 10))
    tokens[:, 1:4] = tokens[:, 5:8] = IMAGE  # two pictures a row, of three queries each
    positions = jnp.broadcast_to(jnp.arange(10, dtype=jnp.int32)[None], (2, 10))
    question = Question(jnp.asarray(random.integers(1, 30, size=(2, 2, 4)), jnp.int32), jnp.ones((2, 2, 4), bool))
    return images, jnp.asarray(tokens, jnp.int32), positions, jnp.ones((2, 10), jnp.int32), question


def test_each_picture_has_its_own_question():
    images, tokens, positions, segments, question = inputs()
    model = InlineModel(INLINE)
    p = random_parameters(model, 3, images, tokens, positions, segments, question=question)

    def hidden(question):
        return model.apply(nested(p), images, tokens, positions, segments, question=question).hidden

    run = quick_jit(hidden)
    changed = question.replace(tokens=question.tokens.at[0, 1].set((question.tokens[0, 1] + 1) % 30))
    moved = np.abs(run(question) - run(changed)).max(-1) > 1e-5
    # The second picture of the first row stands at places 5 to 7, and is seen from there on.
    assert np.array_equal(moved, [[False] * 5 + [True] * 5, [False] * 10])


def test_only_a_q_former_takes_a_question():
    images, *_, question = inputs()
    of_first_row = Question(question.tokens[0], question.present[0])
    plain = dataclasses.replace(INLINE, connector=ProjectorConfig(14))
    with pytest.raises(InputError, match="only a Q-Former reads a question"):
        jax.eval_shape(lambda: InlineModel(plain).init(jax.random.key(0), images[0], of_first_row, method="encode"))


def test_pooled_vector_is_normed_twice():
    images = inputs()[0][0]
    once = dataclasses.replace(VISION, pool_norm=False, qkv_bias=False)
    p = random_parameters(ViT(once), 4, images)
    assert "layers/attention/query/bias" not in p and "layers/attention/out/bias" in p
    pooled, again = (
        quick_jit(ViT(config).apply)(nested(p), images).pooled
        for config in (once, dataclasses.replace(once, pool_norm=True))
    )
    expected = layer_norm(np.asarray(pooled, np.float64), below(p, "final_norm"), once.norm_eps)
    np.testing.assert_allclose(again, expected, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="pool_norm is the final norm once more"):
        dataclasses.replace(VISION, final_norm=False)
