"""The rows of a scheduler on the device: one big cache, into which requests are read and in which all are written on.

Shapes never change: a prompt is read in a bucket of lengths into a row of its own, which then takes a slot, whatever
stood there; a step writes one token in each slot. Programs: one a bucket, and two for the steps.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.core.errors import InputError
from mmjax.decoding.loop import Rules, Writing, open_writing, write_on
from mmjax.decoding.sampling import Draw, Sampling, make_draw
from mmjax.decoding.writer import Opening, Writer
from mmjax.parallel.sharding import constrain, use_mesh


@flax.struct.dataclass
class Slots:
    """Rows that are being written, and what each of them asked for. A slot that is free is done."""

    writing: Writing
    limits: Int[Array, "B"]
    draw: Draw


@flax.struct.dataclass
class Latest:
    """The last token of each row, and its log-probability under the model itself."""

    token: Int[Array, "B"]
    log_probability: Float[Array, "B"]


@dataclasses.dataclass(frozen=True)
class Allowed:
    """Which tokens may be written at all, and those that end a text."""

    writable: Bool[Array, "V"]
    ends: Bool[Array, "V"]


def check_fits(opening: Opening, slots: Slots | None) -> None:
    """Whether a row may be put into slots.

    Raises:
      InputError: it has other arguments than the rows before, or larger ones.
    """
    if slots is None:
        return
    own, held = opening.later, slots.writing.opening.later
    if jax.tree.structure(own) != jax.tree.structure(held):
        raise InputError(
            "the first prompt had no pictures and this one does, or the other way round: slots hold one kind of prompts"
        )
    for (path, mine), there in zip(jax.tree_util.tree_leaves_with_path(own), jax.tree.leaves(held), strict=True):
        if any(size > most for size, most in zip(mine.shape[1:], there.shape[1:], strict=True)):
            raise InputError(
                f"a prompt's {jax.tree_util.keystr(path)} is of shape {mine.shape[1:]}, and slots hold "
                f"{there.shape[1:]}: it has more pictures than the first prompt had room for"
            )


def read_in(
    writer: Writer,
    parameters: Mapping[str, Array],
    slots: Slots | None,
    opening: Opening,
    sampling: Sampling,
    allowed: Allowed,
    *,
    count: int,
    length: int,
    slot: int,
    limit: int,
    mesh: Mesh | None,
) -> tuple[Slots, Latest]:
    """Reads one prompt (an opening of one row) into a slot, and chooses its first token; `slots` are used up.

    Without `slots`, `count` new ones are made, with `length` places each. limit: tokens to be written. Returns the
    slots, and the latest of the one row.
    """
    room = length - opening.tokens.shape[1]
    # What a row has had is kept whether or not it asks for it: the next one in its slot may.
    draw = make_draw(sampling, 1).replace(sampled=True, filtered=True, penalized=True, blocked=True)
    arguments = (parameters, opening, np.array([limit], np.int32), draw, allowed.writable, allowed.ends)
    if slots is None:
        return _make(writer, mesh, room, length, count, *arguments, np.int32(slot))
    return _read_in(writer, mesh, room, slots, *arguments, np.int32(slot))


def step(
    writer: Writer,
    parameters: Mapping[str, Array],
    slots: Slots,
    allowed: Allowed,
    alive: Bool[np.ndarray, "B"],
    *,
    plain: bool,
    mesh: Mesh | None,
) -> tuple[Slots, Latest]:
    """One more token in each slot that is `alive` and not done; `slots` are used up.

    parameters: best as `at_hand` gives them. plain: no slot asks for anything but the most probable token.
    """
    return _step(writer, mesh, plain, parameters, slots, allowed.writable, allowed.ends, alive)


@functools.partial(jax.jit, static_argnames=("writer", "mesh", "room"), donate_argnames="slots")
def _read_in(writer, mesh, room, slots: Slots, parameters, opening, limit, draw: Draw, writable, ends, slot):
    with use_mesh(mesh):
        row, latest = _read(writer, room, parameters, opening, limit, draw, writable, ends)
        return _laid_out(_insert(slots, row, slot)), latest


@functools.partial(jax.jit, static_argnames=("writer", "mesh", "room", "length", "count"))
def _make(writer, mesh, room, length, count, parameters, opening, limit, draw: Draw, writable, ends, slot):
    """Slots in which nothing is written yet have the shapes of the row that is put into one of them."""
    with use_mesh(mesh):
        row, latest = _read(writer, room, parameters, opening, limit, draw, writable, ends)
        tokens = jnp.zeros((count, length), jnp.int32)

        def spread(leaf, axis):
            return jnp.repeat(leaf, count, axis=axis)

        slots = jax.tree.map(spread, row, _batch_axes(row))
        writing = slots.writing.replace(
            done=jnp.ones(count, bool), tokens=tokens, log_probabilities=tokens.astype(jnp.float32)
        )
        return _laid_out(_insert(slots.replace(writing=writing), row, slot)), latest


@functools.partial(jax.jit, static_argnames=("writer", "mesh", "plain"), donate_argnames="slots")
def _step(writer, mesh, plain, parameters, slots: Slots, writable, ends, alive):
    with use_mesh(mesh):
        draw = slots.draw
        if plain:
            draw = draw.replace(sampled=False, filtered=False, penalized=False, blocked=False)
        writing = slots.writing.replace(done=slots.writing.done | ~alive)
        rules = Rules(writable, ends, slots.limits, draw)
        writing = write_on(writer, parameters, writing, rules, steps=1)
        return _laid_out(slots.replace(writing=writing)), _latest(writing)


def _read(writer, room, parameters, opening, limit, draw, writable, ends) -> tuple[Slots, Latest]:
    writing = open_writing(writer, parameters, opening, Rules(writable, ends, limit, draw), room=room)
    latest = _latest(writing)
    nothing = jnp.zeros((1, 0), jnp.int32)
    # Of the prompt, only what written tokens ask for.
    prompt = dataclasses.replace(
        writing.opening, tokens=nothing, positions=nothing, segments=nothing, sequences=nothing
    )
    return Slots(writing.replace(opening=prompt), limit, draw), latest


def _latest(writing: Writing) -> Latest:
    rows, last = jnp.arange(len(writing.token)), jnp.maximum(writing.lengths - 1, 0)
    return Latest(writing.token, writing.log_probabilities[rows, last])


def _batch_axes(slots: Slots) -> Any:
    """Which axis of each leaf counts the rows: the second where layers are stacked, else the first."""
    first = jax.tree.map(lambda leaf: 0, slots)
    stacked = jax.tree.map(lambda leaf: 1, slots.writing.cache.blocks)
    cache = first.writing.cache.replace(blocks=stacked)
    return first.replace(writing=first.writing.replace(cache=cache))


def _insert(slots: Slots, row: Slots, slot: Int[Array, ""]) -> Slots:
    """The slots with one row in the place of what stood there; where a slot has more room, that is empty."""

    def put(into, leaf, axis):
        shape = (*into.shape[:axis], 1, *into.shape[axis + 1 :])
        gaps = [(0, most - own) for most, own in zip(shape, leaf.shape, strict=True)]
        if any(gap for _, gap in gaps):
            leaf = jnp.pad(leaf, gaps)
        return jax.lax.dynamic_update_slice_in_dim(into, leaf, slot, axis)

    return jax.tree.map(put, slots, row, _batch_axes(slots))


def _laid_out(slots: Slots) -> Slots:
    """The cache by rows and heads over the mesh, all else whole on each device, before and after every program."""

    def lie(leaf, axis):
        heads = leaf.ndim - 2 if leaf.ndim == axis + 4 else None
        return constrain(
            leaf, *("batch" if place == axis else "kv_heads" if place == heads else None for place in range(leaf.ndim))
        )

    writing, axes = slots.writing, _batch_axes(slots).writing.cache
    whole = jax.tree.map(lambda leaf: constrain(leaf, *(None,) * leaf.ndim), slots)
    cache = jax.tree.map(lie, writing.cache, axes)
    return whole.replace(writing=whole.writing.replace(cache=cache))
