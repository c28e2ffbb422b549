"""Beam search, as transformers does it: the same sequences, and the same scores.

Each row keeps `count` running texts. In every step the best continuations of all of them together are found; those
that end go, with a score that is their log-probability over length ** length_penalty, among the `count` best finished
ones, and the best of the others run on.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError
from mmjax.decoding.loop import Rules, advance_trail, choosable, first_trail, repeat_rows, take_rows, without_prompt
from mmjax.decoding.trail import Trail
from mmjax.decoding.writer import Opening, Writer, begin, go_on
from mmjax.models.decoders.cache import DecoderCache
from mmjax.parallel.sharding import constrain, current_mesh, use_mesh

# What is taken from the score of a text that may not be chosen; a whole number of float32, as the reference's.
_OUT = 1.0e9


@dataclasses.dataclass(frozen=True)
class Beams:
    """How beams are searched.

    length_penalty: above 0 it prefers longer texts. early_stopping: True ends a row once `count` texts are finished;
    False when the best running text, at its present length, is no better than the worst finished one; "never" when it
    could not become better at any length.
    """

    count: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False

    def __post_init__(self):
        if self.count < 2:
            raise InputError(f"a beam search needs 2 beams or more, not {self.count}")
        if not np.isfinite(self.length_penalty):
            raise InputError(f"length_penalty must be a number, not {self.length_penalty}")
        if self.early_stopping not in (True, False, "never"):
            raise InputError(f'early_stopping must be True, False or "never", not {self.early_stopping!r}')


class Found(NamedTuple):
    """The `count` best texts of each row, the best first; after `lengths` tokens there is nothing.

    scores: the sum of log-probabilities (with penalties, where there are any) over length ** length_penalty.
    log_probabilities: of each token, under the model itself.
    """

    tokens: Int[np.ndarray, "B N S"]
    lengths: Int[np.ndarray, "B N"]
    scores: Float[np.ndarray, "B N"]
    log_probabilities: Float[np.ndarray, "B N S"]


def search(
    writer: Writer,
    parameters: Mapping[str, Array],
    opening: Opening,
    rules: Rules,
    beams: Beams,
    *,
    ends: int,
    room: int,
    most: int,
) -> Found:
    """The best texts of at most `most` (<= `room`) tokens after each prompt, which is read once for all its beams.

    Rows of `rules` are those of the prompts; its temperature, filters and seed do not count. ends: how many tokens end
    a text. All rows have the same limit `most`, or 0.
    """
    # In float64, as the reference computes the powers; that of length 0 is never used.
    lengths = np.arange(room + 1, dtype=np.float64)
    powers = np.power(np.maximum(lengths, 1.0), beams.length_penalty).astype(np.float32)
    found = _search(
        writer,
        current_mesh(),
        room,
        beams.count,
        max(2, 1 + ends) * beams.count,
        beams.early_stopping,
        # Whether a text may gain by being longer than it is.
        beams.early_stopping == "never" and beams.length_penalty > 0.0,
        parameters,
        opening,
        rules,
        powers,
        np.int32(most),
    )
    return Found(*jax.device_get(found))


@flax.struct.dataclass
class _Texts:
    """Texts of each row: [B, N, ...]. `ended` are finished; for those that run, it says nothing."""

    tokens: Int[Array, "B N S"]
    log_probabilities: Float[Array, "B N S"]
    scores: Float[Array, "B N"]
    lengths: Int[Array, "B N"]
    ended: Bool[Array, "B N"]

    def take(self, index: Int[Array, "B K"]) -> _Texts:
        """The texts of these numbers."""

        def chosen(x):
            return jnp.take_along_axis(x, index.reshape(*index.shape, *(1,) * (x.ndim - 2)), axis=1)

        return jax.tree.map(chosen, self)

    def beside(self, other: _Texts) -> _Texts:
        """These, and the others after them."""
        return jax.tree.map(lambda *pair: jnp.concatenate(pair, axis=1), self, other)

    def best(self, count: int) -> _Texts:
        """Those with the highest scores, the first of equal ones first."""
        return self.take(jax.lax.top_k(self.scores, count)[1])


@flax.struct.dataclass
class _Search:
    """`hopeful`: rows whose running texts may still become better than the finished ones."""

    step: Int[Array, ""]
    running: _Texts
    finished: _Texts
    hopeful: Bool[Array, "B 1"]
    over: Bool[Array, ""]
    cache: DecoderCache
    trail: Trail


@functools.partial(
    jax.jit, static_argnames=("writer", "mesh", "room", "count", "kept", "early_stopping", "gains_by_length")
)
def _search(
    writer: Writer,
    mesh: Mesh | None,
    room: int,
    count: int,
    kept: int,
    early_stopping,
    gains_by_length: bool,
    parameters,
    opening: Opening,
    rules: Rules,
    powers,
    most,
):
    batch = len(opening.tokens)
    wanted = rules.limits > 0

    def extend(state: _Search, output, cache) -> _Search:
        """One more token, given the model's output for the last one."""
        logits = output.logits()[:, -1]
        vocabulary = logits.shape[-1]
        plain = jax.nn.log_softmax(logits, axis=-1)
        lengths = jnp.broadcast_to(state.step, (batch * count,))
        scores = choosable(plain, of_beams, state.trail, lengths).reshape(batch, count, vocabulary)
        totals = (scores + state.running.scores[:, :, None]).reshape(batch, -1)
        totals, flat = jax.lax.top_k(totals, kept)
        beam, token = flat // vocabulary, flat % vocabulary
        told = jnp.take_along_axis(plain.reshape(batch, -1), flat, axis=1)
        length = state.step + 1
        ended = rules.ends[token] | (length >= most)
        texts = state.running.take(beam)
        texts = texts.replace(
            tokens=texts.tokens.at[:, :, state.step].set(token),
            log_probabilities=texts.log_probabilities.at[:, :, state.step].set(told),
            scores=totals,
            lengths=jnp.full_like(token, length),
        )
        finished = _finish(state, texts, ended, powers[length], early_stopping)
        left = totals - _OUT * ended.astype(jnp.float32)
        onward = jax.lax.top_k(left, count)[1]
        running = texts.replace(scores=left).take(onward)
        rows = (jnp.arange(batch)[:, None] * count + jnp.take_along_axis(beam, onward, axis=1)).reshape(-1)
        written = jnp.take_along_axis(token, onward, axis=1).reshape(-1)
        trail = jax.tree.map(lambda x: x[rows], state.trail)
        trail = advance_trail(trail, of_beams, written, jnp.ones(rows.shape, bool))
        hopeful = state.hopeful & _may_improve(running, finished, powers[jnp.where(gains_by_length, most, length)])
        full = jnp.all(finished.ended | ~wanted[:, None]) & (early_stopping is True)
        over = ~jnp.any(hopeful) | full | jnp.all(ended)
        return _Search(length, running, finished, hopeful, over, take_rows(cache, rows), trail)

    def step(state: _Search) -> _Search:
        token = state.running.tokens[:, :, state.step - 1].reshape(-1, 1)
        there = jnp.ones(token.shape, bool)
        output = go_on(writer, parameters, state.cache, later, token, there, state.step - 1)
        return extend(state, output, output.cache)

    with use_mesh(mesh):
        of_beams = repeat_rows(rules.replace(writable=None, ends=None, answers=None), count)
        of_beams = of_beams.replace(writable=rules.writable, ends=rules.ends, answers=rules.answers)
        first = begin(writer, parameters, opening, spare=room)
        each = jnp.repeat(jnp.arange(batch), count)
        trail = first_trail(opening, rules, vocabulary=first.unembedding.shape[0], spare=room)
        later = repeat_rows(without_prompt(opening), count)
        nothing = _nothing(batch, count, room, wanted)
        # All beams are the same at first: only the first of them counts.
        running = nothing.replace(
            scores=jnp.broadcast_to(jnp.where(jnp.arange(count) == 0, 0.0, -_OUT), (batch, count))
        )
        start = _Search(
            jnp.int32(0),
            running,
            nothing,
            wanted[:, None],
            jnp.bool_(False),
            None,
            repeat_rows(trail, count),
        )
        output = first.replace(hidden=repeat_rows(first.hidden, count), cache=None)
        state = extend(start, output, take_rows(first.cache, each))
        found = jax.lax.while_loop(lambda state: ~state.over, step, state).finished
        leaves = (found.tokens, found.lengths, found.scores, found.log_probabilities)
        return tuple(constrain(x, *(None,) * x.ndim) for x in leaves)


def _nothing(batch, count, room, wanted) -> _Texts:
    """No finished texts; rows that are not wanted count as full of them."""
    zeros = jnp.zeros((batch, count, room), jnp.int32)
    return _Texts(
        zeros,
        zeros.astype(jnp.float32),
        jnp.full((batch, count), -_OUT),
        zeros[:, :, 0],
        jnp.broadcast_to(~wanted[:, None], (batch, count)),
    )


def _finish(state: _Search, texts: _Texts, ended, power, early_stopping) -> _Texts:
    """The best finished texts, after those of `texts` that ended just now and are among the best `count` of all."""
    finished, count = state.finished, state.finished.scores.shape[1]
    fresh = ended & (jnp.arange(ended.shape[1]) < count)[None]
    scores = texts.scores / power
    full = jnp.all(finished.ended, axis=1, keepdims=True) & (early_stopping is True)
    for out in (full, ~state.hopeful, ~fresh):
        scores -= _OUT * out.astype(jnp.float32)
    return finished.beside(texts.replace(scores=scores, ended=fresh)).best(count)


def _may_improve(running: _Texts, finished: _Texts, power) -> Bool[Array, "B 1"]:
    """Whether the best running text would be better than the worst finished one, or there are too few of these."""
    hoped = running.scores[:, :1] / power
    worst = jnp.where(finished.ended, jnp.min(finished.scores, axis=1, keepdims=True), -_OUT)
    return jnp.any(hoped > worst, axis=1, keepdims=True)
