"""What a step of decoding costs, and that parameters at hand say the same as stacked ones."""

import dataclasses
import functools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.decoding import writer as writing
from mmjax.decoding.flamingo import make_writer, open_rows
from mmjax.decoding.pictures import PictureTable, encode_pictures, gather
from mmjax.decoding.rows import pad_rows, tokenize_prompt
from mmjax.decoding.writer import Decode, Writer, at_hand, begin, go_on
from mmjax.models.decoders.cache import SLACK
from mmjax.models.decoders.decoder import Decoder, empty_cache
from mmjax.ops.flops import count_flops
from tests.decoding.test_rings import CONFIG, opened, random_parameters
from tests.decoding.tiny_models import LetterTokenizer, random_prompt, tiny_model
from tests.decoding.tiny_models import random_parameters as flamingo_parameters
from tests.quick import quick_jit

ROWS, SHORT, LONG = 3, 64, 192


def step_flops(config, length):
    """Of one token more in each row, with a cache of so many places."""
    writer = Writer(config, None, 0, Decode(Decoder(config), "__call__"))
    opening = opened([[1, 2]] * ROWS, "left", 2)
    cache = jax.eval_shape(lambda: empty_cache(config, None, batch=ROWS, length=length))

    def step(params, cache):
        output = go_on(writer, params, cache, opening, opening.tokens[:, :1], opening.tokens[:, :1] > 0, 5)
        return output.logits(), output.cache

    return count_flops(step, random_parameters(config), cache).total


def test_a_step_costs_no_more_in_a_longer_cache_but_for_attention():
    """The products of a query with the keys and of the weights with the values: 2 · 2 heads · width a place."""
    each = 2 * 2 * ROWS * CONFIG.heads * CONFIG.head_width
    full = dataclasses.replace(CONFIG, windows=(None,))
    assert step_flops(full, LONG) - step_flops(full, SHORT) == full.layers * each * (LONG - SHORT)
    # Of layers with windows, nothing grows; and they cost what their ring does.
    rings = dataclasses.replace(CONFIG, windows=(4, 7, None))
    assert step_flops(rings, LONG) - step_flops(rings, SHORT) == each * (LONG - SHORT)
    assert step_flops(full, LONG) - step_flops(rings, LONG) == each * (2 * LONG - (4 + SLACK) - (7 + SLACK))


@pytest.fixture(autouse=True)
def _tiny_stacks_too(monkeypatch):
    monkeypatch.setattr(writing, "AT_HAND_BYTES", (0, writing.AT_HAND_BYTES[1]))


@functools.partial(quick_jit, static_argnames=("writer", "near"))
def two_steps(writer, params, opening, tokens, near):
    cache = begin(writer, params, opening, spare=2).cache
    params, told = at_hand(writer, params) if near else params, []
    for number in range(2):
        output = go_on(writer, params, cache, opening, tokens, tokens > 0, number)
        cache = output.cache
        told.append(output.logits())
    return jnp.concatenate(told, axis=1), cache


def assert_alike(writer, params, opening):
    tokens = jnp.full((len(opening.tokens), 1), 7, jnp.int32)
    (stacked, cache), (near, other) = (two_steps(writer, params, opening, tokens, near) for near in (False, True))
    assert jax.tree.structure(cache) == jax.tree.structure(other)
    for one, two in zip(jax.tree.leaves((stacked, cache)), jax.tree.leaves((near, other)), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)
    assert np.abs(stacked).max() > 1


def test_parameters_at_hand_of_a_decoder():
    config = dataclasses.replace(CONFIG, layers=5, windows=(4, None), qkv_bias=True, out_bias=True)
    params = random_parameters(config)
    writer = Writer(config, None, 0, Decode(Decoder(config), "__call__"))
    near = at_hand(writer, params)
    assert near["layers_1/self_0/mlp/up/transposed"].shape == (32, 16)
    assert near["layers_1/self_1/attention/out/transposed"].shape == (16, 4, 8)
    assert near["tail/self_0/mlp/up/kernel"].shape == (16, 32)
    assert not any(path.startswith("layers/") for path in near)
    assert_alike(writer, params, opened([[3] * 25, [4] * 5], "left", 25))


def test_parameters_at_hand_are_made_once_and_go_with_their_originals():
    writer = Writer(CONFIG, None, 0, Decode(Decoder(CONFIG), "__call__"))
    params = random_parameters(CONFIG)
    copy = at_hand(writer, params)["layers_0/self_0/mlp/up/transposed"]
    assert at_hand(writer, dict(params))["layers_0/self_0/mlp/up/transposed"] is copy
    kept = weakref.ref(copy)
    # One of them is another array now, as after a step of training.
    changed = next(path for path in params if path.startswith("layers/"))
    params[changed] = params[changed] + 1
    del copy
    assert kept() is None
    assert at_hand(writer, params).keys() == at_hand(writer, dict(params)).keys()


def test_parameters_at_hand_of_a_flamingo():
    model, tokenizer = tiny_model(layers=4), LetterTokenizer()
    params, table = flamingo_parameters(model), PictureTable()
    prompts = [random_prompt(1, chunks=2), random_prompt(2, chunks=1)]
    slots = [[table.add(medium) for medium in prompt.media] for prompt in prompts]
    read = [tokenize_prompt(prompt, tokenizer) for prompt in prompts]
    rows = jax.tree.map(jnp.asarray, pad_rows(read, slots, rows=2, length=14, images=2, pad=0))
    media = gather(encode_pictures(model, params, table, capacity=4, mesh=None), rows.slots)
    assert_alike(make_writer(model, media), params, open_rows(rows, media))
