"""Generation: prompts are read once, then written on, one token a step, in one program of static shapes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Float, Int
from mmjax.core.errors import InputError
from mmjax.decoding.cached import extend, prefill
from mmjax.decoding.logits import logits, only, stop_tokens, writable_tokens
from mmjax.decoding.pictures import PictureTable, encode_pictures, gather, put
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.rows import bucket, check_lengths, pad_rows, tokenize_prompt
from mmjax.decoding.sampling import Draw, Sampling, draw_tokens, make_draw
from mmjax.parallel.sharding import constrain, use_mesh
from mmjax.text.tokenizer import Tokenizer

# The smallest buckets: of the tokens of a prompt, and of those to be written.
PROMPT_BUCKET, NEW_BUCKET = 32, 16


class Generated(NamedTuple):
    """What was written after one prompt.

    `log_probabilities` are those of the tokens under the model itself, before temperature and filters. The token that
    ended it, if one did, is the last; `text` leaves it out.
    """

    text: str
    tokens: Int[np.ndarray, "T"]
    log_probabilities: Float[np.ndarray, "T"]
    ended_by: Literal["end_of_chunk", "eos", "length"]


def generate(
    model: nn.Module,
    params: Mapping[str, Array],
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    max_tokens: int = 64,
    sampling: Sampling = Sampling(),  # noqa: B008 (frozen)
    mesh: Mesh | None = None,
) -> list[Generated]:
    """Continues each prompt until the end of its chunk, the end of the text, or `max_tokens` tokens.

    Prompts of different lengths go in one batch; batch, tokens, pictures and `max_tokens` are padded to buckets, each
    of which is compiled once. `params` are by path. What a row writes does not depend on the others.

    Raises:
      InputError: no prompt, or one longer than the model's positions.
    """
    if not prompts or max_tokens < 1:
        raise InputError(f"generation needs a prompt and max_tokens of at least 1, not {len(prompts)} and {max_tokens}")
    read = [tokenize_prompt(prompt, tokenizer) for prompt in prompts]
    check_lengths((len(text.tokens) + max_tokens for text in read), model.config.decoder.max_length)
    table = PictureTable()
    slots = [[table.add(media) for media in prompt.media] for prompt in prompts]
    batch, images = bucket(len(prompts)), bucket(max(1, *(text.images for text in read)))
    rows = pad_rows(
        read,
        slots,
        rows=batch,
        length=bucket(max(len(text.tokens) for text in read), PROMPT_BUCKET),
        images=images,
        pad=tokenizer.special["pad"],
    )
    features = encode_pictures(model, params, table, capacity=batch * images, mesh=mesh)
    rows = jax.tree.map(lambda leaf: put(leaf, mesh), rows)
    written = _generate(
        model,
        mesh,
        bucket(max_tokens, NEW_BUCKET),
        params,
        rows,
        features,
        jax.device_put(writable_tokens(tokenizer, model.config.decoder.vocab_size)),
        jax.device_put(np.array(stop_tokens(tokenizer), np.int32)),
        jax.tree.map(jax.device_put, make_draw(sampling, batch)),
        jax.device_put(np.int32(max_tokens)),
    )
    tokens, log_probabilities, lengths = jax.device_get(written)
    return [
        _read_out(tokenizer, tokens[row, : lengths[row]], log_probabilities[row, : lengths[row]])
        for row in range(len(prompts))
    ]


def _read_out(tokenizer, tokens, log_probabilities):
    special = tokenizer.special
    ends = {special["end_of_chunk"]: "end_of_chunk", special["eos"]: "eos"}
    ended_by = ends.get(int(tokens[-1]), "length")
    text = tokenizer.decode(tokens if ended_by == "length" else tokens[:-1])
    return Generated(text, tokens, log_probabilities, ended_by)


class _Writing(NamedTuple):
    """`token` of each row was chosen at `step`, and is not in the cache yet."""

    step: Array
    token: Array
    done: Array
    cache: object
    tokens: Array
    log_probabilities: Array
    lengths: Array


@functools.partial(jax.jit, static_argnames=("model", "mesh", "most"))
def _generate(model, mesh, most, params, rows, features, writable, stops, draw: Draw, max_tokens):
    with use_mesh(mesh):
        media = gather(features, rows.slots)
        first = prefill(model, params, rows, media, spare=most)

        def choose(hidden, output, step):
            scores = logits(hidden, output.unembedding, output.logits_softcap)
            token = draw_tokens(only(scores, writable), draw, step)
            chosen = jnp.take_along_axis(jax.nn.log_softmax(scores, axis=-1), token[:, None], axis=-1)
            return token, chosen[:, 0]

        def note(state: _Writing, token, log_probability, step, cache):
            here = ~state.done
            done = state.done | jnp.isin(token, stops)
            return _Writing(
                step,
                token,
                done,
                cache,
                state.tokens.at[:, step].set(jnp.where(here, token, 0)),
                state.log_probabilities.at[:, step].set(jnp.where(here, log_probability, 0.0)),
                state.lengths + here.astype(jnp.int32),
            )

        def going(state: _Writing):
            return (state.step + 1 < max_tokens) & ~jnp.all(state.done)

        def advance(state: _Writing):
            start = rows.lengths + state.step
            present = ~state.done[:, None]
            output = extend(
                model, params, state.cache, media.segments, state.token[:, None], present, start, rows.last_media
            )
            token, log_probability = choose(output.hidden[:, 0], output, state.step + 1)
            return note(state, token, log_probability, state.step + 1, output.cache)

        batch = rows.lengths.shape[0]
        nothing = jnp.zeros((batch, most), jnp.int32)
        zero = jnp.zeros((), jnp.int32)
        state = _Writing(
            zero,
            nothing[:, 0],
            rows.lengths == 0,
            first.output.cache,
            nothing,
            nothing.astype(jnp.float32),
            nothing[:, 0],
        )
        state = note(state, *choose(first.hidden, first.output, zero), zero, first.output.cache)
        state = jax.lax.while_loop(going, advance, state)
        return tuple(
            constrain(leaf, *(None,) * leaf.ndim) for leaf in (state.tokens, state.log_probabilities, state.lengths)
        )
