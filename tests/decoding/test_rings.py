"""Layers with a window keep a ring of places; what is written says the same as the forward pass without a cache."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.decoding.writer import Decode, Opening, Writer, begin, go_on
from mmjax.models.decoders.cache import SLACK, places_by_kind
from mmjax.models.decoders.config import DecoderConfig
from mmjax.models.decoders.decoder import Decoder, empty_cache
from mmjax.parallel.sharding import abstract_parameters, nested
from tests.quick import quick_jit

CONFIG = DecoderConfig(32, 16, 3, 4, 8, 32, kv_heads=2, windows=(4, 7, None), tied_embeddings=False)
CONFIGS = {
    "three kinds": dataclasses.replace(CONFIG, layers=4, rope_local_base=100.0, qk_norm="head"),
    "rings alone": dataclasses.replace(CONFIG, layers=2, windows=(5,), attention_softcap=2.0),
    "alibi": dataclasses.replace(CONFIG, layers=2, windows=(6, None), positions="alibi"),
}
LENGTHS = (40, 3, 29, 23)
# Several tokens at a time: as many as there is room for beyond the window, and more than that.
RUNS = (1, 1, 5, SLACK, 1, SLACK + 5, 1)


def random_parameters(config):
    ints = np.zeros((1, 2), np.int32)
    shapes, _ = abstract_parameters(Decoder(config).init, jax.random.key(0), ints, ints, ints)
    random = np.random.default_rng(0)
    return {
        path: jnp.asarray(float(path.endswith("scale")) + 0.4 * random.normal(size=shape.shape), jnp.float32)
        for path, shape in sorted(shapes.items())
    }


def opened(texts, side, width):
    """An opening of rows padded on one side; behind the padding, all rows go on at the same place."""
    tokens, there = np.zeros((len(texts), width), np.int32), np.zeros((len(texts), width), np.int32)
    for row, text in enumerate(texts):
        at = slice(width - len(text), width) if side == "left" else slice(0, len(text))
        tokens[row, at], there[row, at] = text, 1
    lengths = np.array([len(text) for text in texts], np.int32)
    positions = np.maximum(np.cumsum(there, axis=1, dtype=np.int32) - 1, 0)
    behind = np.full_like(lengths, width) if side == "left" else lengths
    return Opening(*map(jnp.asarray, (tokens, positions, there)), {}, {}, *map(jnp.asarray, (lengths, behind, tokens)))


@functools.partial(quick_jit, static_argnums=0)
def forward(config, params, tokens, segments):
    places = jnp.broadcast_to(jnp.arange(tokens.shape[1], dtype=jnp.int32)[None], tokens.shape)
    return Decoder(config).apply(nested(params), tokens, places, segments).hidden


@functools.partial(quick_jit, static_argnums=0)
def read(writer, params, opening):
    output = begin(writer, params, opening, spare=sum(RUNS))
    return output.hidden, output.cache


@functools.partial(quick_jit, static_argnums=0)
def read_more(writer, params, cache, opening, tokens, written):
    output = go_on(writer, params, cache, opening, tokens, jnp.ones(tokens.shape, bool), written)
    return output.hidden, output.cache


def hidden_of(config, params, texts):
    """By one plain forward pass of all texts."""
    width = max(LENGTHS) + sum(RUNS)
    opening = opened(texts, "right", width)
    return np.asarray(forward(config, params, opening.tokens, opening.segments))


@pytest.mark.parametrize("name", CONFIGS)
def test_rings_say_what_the_uncached_forward_says(name):
    config = CONFIGS[name]
    random, params = np.random.default_rng(1), random_parameters(config)
    texts = [random.integers(1, 32, length + sum(RUNS)).astype(np.int32) for length in LENGTHS]
    expected = hidden_of(config, params, texts)
    writer = Writer(config, None, 0, Decode(Decoder(config), "__call__"))
    for side in ("left", "right"):
        opening = opened([text[:length] for text, length in zip(texts, LENGTHS, strict=True)], side, max(LENGTHS))
        hidden, cache = read(writer, params, opening)
        told, written = [np.asarray(hidden)], 0
        for run in RUNS:
            tokens = np.stack([text[length + written :][:run] for text, length in zip(texts, LENGTHS, strict=True)])
            # What a draft proposed and was refused is written over, and leaves nothing behind.
            _, cache = read_more(writer, params, cache, opening, (tokens + 1) % 32, written) if run == 1 else (0, cache)
            hidden, cache = read_more(writer, params, cache, opening, tokens, written)
            told.append(np.asarray(hidden))
            written += run
        told = np.concatenate(told, axis=1)
        for row, length in enumerate(LENGTHS):
            np.testing.assert_allclose(told[row], expected[row, length - 1 : length + written], rtol=1e-4, atol=1e-4)
            assert np.abs(told[row]).max() > 0.5


def test_a_window_that_is_no_shorter_than_the_cache_needs_no_ring():
    assert places_by_kind((8, None), 8 + SLACK) == {"full": 24}
    assert places_by_kind((8, None), 9 + SLACK) == {"window_8": 24, "full": 25}
    assert places_by_kind((4096,), 8192) == {"window_4096": 4096 + SLACK}


def test_bytes_of_a_cache_of_windows():
    """Gemma-3's five layers of a window of 1024 to one that sees all, at 8k tokens."""
    config = dataclasses.replace(CONFIG, layers=12, windows=(1024,) * 5 + (None,))

    def size(config):
        cache = jax.eval_shape(lambda: empty_cache(config, None, batch=1, length=8192))
        return sum(leaf.size for leaf in jax.tree.leaves((cache.blocks, cache.tail)))

    full = size(dataclasses.replace(config, windows=(None,) * 6))
    assert full == 12 * 8192 * 2 * 2 * 8
    assert size(config) * 12 * 8192 == full * (10 * (1024 + SLACK) + 2 * 8192)
