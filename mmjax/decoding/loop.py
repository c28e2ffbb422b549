"""The writing loop of every model: the prompts are read once, then a token a step is chosen, in two programs.

    writing = open_writing(writer, parameters, opening, rules, room=64)     # the prompts, and the first token
    writing = write_on(writer, parameters, writing, rules, steps=64)        # until all rows are done

What a row writes does not depend on the other rows.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.decoding.answers import Answers, climb, within
from mmjax.decoding.logits import only
from mmjax.decoding.sampling import Draw, draw_tokens
from mmjax.decoding.trail import Trail, follow, open_trail, penalize, withhold_ends
from mmjax.decoding.writer import Opening, Writer, begin, go_on
from mmjax.models.decoders.cache import DecoderCache
from mmjax.parallel.sharding import constrain, current_mesh, use_mesh


@flax.struct.dataclass
class Rules:
    """What may be written, and how it is chosen. Arrays, so that other rules are no other program.

    writable: which tokens may be written at all. ends: those after which nothing comes.
    limits: how many tokens each row may have, 0 for rows that are padding of the batch.
    answers, roots: the trees of answers within which is written, and where in them each row begins; None: freely.
    """

    writable: Bool[Array, "V"]
    ends: Bool[Array, "V"]
    limits: Int[Array, "B"]
    draw: Draw
    answers: Answers | None = None
    roots: Int[Array, "B"] | None = None


@flax.struct.dataclass
class Writing:
    """Rows that are being written. `token` was chosen last, and is not in the cache yet.

    log_probabilities: under the model itself, before temperature, penalties and filters.
    lengths: tokens of each row, the one that ended it included.
    """

    opening: Opening
    cache: DecoderCache
    trail: Trail
    token: Int[Array, "B"]
    done: Bool[Array, "B"]
    tokens: Int[Array, "B S"]
    log_probabilities: Float[Array, "B S"]
    lengths: Int[Array, "B"]

    def read(self) -> Texts:
        """What is written so far, on the host."""
        return Texts(*jax.device_get((self.tokens, self.log_probabilities, self.lengths)))


class Texts(NamedTuple):
    """Rows of tokens, of which the first `lengths` are written."""

    tokens: Int[np.ndarray, "B S"]
    log_probabilities: Float[np.ndarray, "B S"]
    lengths: Int[np.ndarray, "B"]


def open_writing(
    writer: Writer, parameters: Mapping[str, Array], opening: Opening, rules: Rules, *, room: int, samples: int = 1
) -> Writing:
    """Reads the prompts, each of them once, and chooses the first token of each of its `samples` rows.

    Rows of a prompt stand together; the rows of `rules` are those that are written. At most `room` tokens fit in.
    """
    return _open(writer, current_mesh(), room, samples, parameters, opening, rules)


def write_on(writer: Writer, parameters: Mapping[str, Array], writing: Writing, rules: Rules, *, steps: int) -> Writing:
    """Writes at most `steps` more tokens in each row; ends where all rows are done. Uses up the cache of `writing`.

    The limits of `rules` may have become lower meanwhile.
    """
    rest = writing.replace(cache=None)
    return _go(writer, current_mesh(), parameters, rest, writing.cache, rules, np.int32(steps))


def choosable(scores: Float[Array, "B V"], rules: Rules, trail: Trail, written: Int[Array, "B"]) -> Float[Array, "B V"]:
    """Scores with the penalties of each row's trail, and minus infinity for what may not come next."""
    scores = penalize(only(scores, rules.writable), trail, rules.draw)
    scores = withhold_ends(scores, rules.ends, written, rules.draw.min_tokens)
    return scores if rules.answers is None else within(scores, rules.answers, trail.node)


def choose(
    scores: Float[Array, "B V"], rules: Rules, trail: Trail, written: Int[Array, "B"]
) -> tuple[Int[Array, "B"], Float[Array, "B"]]:
    """The next token of rows that have `written` so far, and its log-probability."""
    token = draw_tokens(choosable(scores, rules, trail, written), rules.draw, written)
    log_probability = jnp.take_along_axis(jax.nn.log_softmax(scores, axis=-1), token[:, None], axis=-1)
    return token, log_probability[:, 0]


def advance_trail(trail: Trail, rules: Rules, token: Int[Array, "B"], here: Bool[Array, "B"]) -> Trail:
    """The trail after one more token, of the rows that are `here`."""
    trail = follow(trail, token, here)
    return trail if rules.answers is None else climb(trail, rules.answers, token, here)


def first_trail(opening: Opening, rules: Rules, *, vocabulary: int, spare: int) -> Trail:
    """The trail of the prompts of an opening, one row for each of `rules`."""
    present = opening.segments == 1
    trail = open_trail(opening.sequences, present, rules.draw, vocabulary=vocabulary, spare=spare)
    return trail.replace(node=rules.roots)


def repeat_rows(tree: Any, times: int) -> Any:
    """Rows [B, ...], each so many times."""
    return tree if times == 1 else jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), tree)


def take_rows(cache: DecoderCache, rows: Int[Array, "B"]) -> DecoderCache:
    """A cache with other rows, or the same in another order or several times."""
    later, first = (functools.partial(jnp.take, indices=rows, axis=axis) for axis in (1, 0))
    return DecoderCache(
        jax.tree.map(later, cache.blocks), *jax.tree.map(first, (cache.tail, cache.positions, cache.segments))
    )


def without_prompt(opening: Opening) -> Opening:
    """An opening for going on only: what no written token looks at is left out."""
    return dataclasses.replace(opening, first={})


@functools.partial(jax.jit, static_argnames=("writer", "mesh", "room", "samples"))
def _open(writer: Writer, mesh: Mesh | None, room: int, samples: int, parameters, opening: Opening, rules: Rules):
    with use_mesh(mesh):
        output = begin(writer, parameters, opening, spare=room)
        scores, cache = repeat_rows(output.logits()[:, -1], samples), output.cache
        if samples > 1:
            cache = take_rows(cache, jnp.repeat(jnp.arange(len(opening.tokens)), samples))
        opening = repeat_rows(without_prompt(opening), samples)
        trail = first_trail(opening, rules, vocabulary=scores.shape[-1], spare=room)
        nothing = jnp.zeros((len(scores), room), jnp.int32)
        none = nothing[:, 0]
        start = Writing(opening, cache, trail, none, rules.limits == 0, nothing, nothing.astype(jnp.float32), none)
        return _replicated(_note(start, rules, cache, *choose(scores, rules, trail, none)))


@functools.partial(jax.jit, static_argnames=("writer", "mesh"), donate_argnames="cache")
def _go(writer: Writer, mesh: Mesh | None, parameters, rest: Writing, cache: DecoderCache, rules: Rules, steps):
    def going(state):
        step, writing = state
        return (step < steps) & ~jnp.all(writing.done)

    def step(state):
        step, writing = state
        here = ~writing.done
        # Each row's last token is not in the cache yet.
        before = jnp.maximum(writing.lengths - 1, 0)
        output = go_on(
            writer, parameters, writing.cache, writing.opening, writing.token[:, None], here[:, None], before
        )
        chosen = choose(output.logits()[:, -1], rules, writing.trail, writing.lengths)
        return step + 1, _note(writing, rules, output.cache, *chosen)

    with use_mesh(mesh):
        start = rest.replace(cache=cache, done=rest.done | (rest.lengths >= rules.limits))
        return _replicated(jax.lax.while_loop(going, step, (jnp.int32(0), start))[1])


def _note(writing: Writing, rules: Rules, cache, token, log_probability) -> Writing:
    here, rows = ~writing.done, jnp.arange(len(token))
    place = jnp.where(here, writing.lengths, writing.tokens.shape[1])
    lengths = writing.lengths + here.astype(jnp.int32)
    return writing.replace(
        cache=cache,
        trail=advance_trail(writing.trail, rules, token, here),
        token=token,
        done=writing.done | rules.ends[token] | (lengths >= rules.limits),
        tokens=writing.tokens.at[rows, place].set(token, mode="drop"),
        log_probabilities=writing.log_probabilities.at[rows, place].set(log_probability, mode="drop"),
        lengths=lengths,
    )


def _replicated(writing: Writing) -> Writing:
    """What the host reads lies whole on each device, so that each process has it."""
    names = ("done", "tokens", "log_probabilities", "lengths")
    whole = {name: getattr(writing, name) for name in names}
    return writing.replace(**{name: constrain(x, *(None,) * x.ndim) for name, x in whole.items()})
