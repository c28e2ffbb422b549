"""The cached forward pass says what the uncached one says, whatever the decoder."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.decoding.flamingo import make_writer, open_rows
from mmjax.decoding.pictures import PictureTable, encode_pictures, gather
from mmjax.decoding.rows import pad_rows, tokenize_prompt
from mmjax.decoding.writer import begin, go_on
from tests.decoding.tiny_models import (
    LONGEST,
    LetterTokenizer,
    random_parameters,
    random_prompt,
    tiny_model,
    uncached_logits,
)

DECODERS = {
    "rotary": {"rope_fraction": 0.5, "parallel_residual": True, "qkv_bias": True},
    "windows": {"layers": 3, "windows": (3, None), "norm_position": "sandwich", "logits_softcap": 3.0},
    "learned": {"positions": "learned", "max_length": LONGEST, "norm": "layer", "mlp_gated": False},
    "alibi": {"positions": "alibi", "tied_embeddings": True, "qk_norm": "head"},
}


@functools.partial(jax.jit, static_argnames=("model",))
def read_prompts(model, params, rows, media):
    first = begin(make_writer(model, media), params, open_rows(rows, media), spare=5)
    return first.logits()[:, 0], first.cache


@functools.partial(jax.jit, static_argnames=("model",))
def read_more(model, params, rows, media, cache, tokens, step):
    present = jnp.broadcast_to(rows.lengths[:, None] > 0, tokens.shape)
    output = go_on(make_writer(model, media), params, cache, open_rows(rows, media), tokens, present, step)
    return output.logits(), output.cache


@pytest.mark.parametrize("settings", DECODERS.values(), ids=DECODERS)
def test_prefill_and_steps_equal_the_uncached_forward(settings):
    model, tokenizer = tiny_model(**settings), LetterTokenizer()
    params = random_parameters(model)
    prompts = [random_prompt(1, chunks=3), random_prompt(2, chunks=1), random_prompt(3, chunks=2, letters=2)]
    more = np.random.default_rng(0).integers(5, 31, (4, 5)).astype(np.int32)
    table = PictureTable()
    slots = [[table.add(medium) for medium in prompt.media] for prompt in prompts]
    read = [tokenize_prompt(prompt, tokenizer) for prompt in prompts]
    rows = jax.tree.map(jnp.asarray, pad_rows(read, slots, rows=4, length=19, images=3, pad=0))
    media = gather(encode_pictures(model, params, table, capacity=8, mesh=None), rows.slots)

    scores, cache = read_prompts(model, params, rows, media)
    told = [scores[:, None]]
    for step in range(more.shape[1]):
        scores, cache = read_more(model, params, rows, media, cache, more[:, step, None], step)
        told.append(scores)
    told = np.concatenate(told, axis=1)

    for row, prompt in enumerate(prompts):
        expected = uncached_logits(model, params, tokenizer, prompt, more[row])[-6:]
        largest = np.abs(expected).max()
        assert largest > 1  # so that the tolerance means something
        assert np.abs(told[row] - expected).max() < 1e-5 * largest
    assert np.isfinite(told).all()  # of the row that is padding, too
