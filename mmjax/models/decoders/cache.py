"""A decoder's cache: one for each kind of layer, and how the tokens of a call meet it.

Kinds are "full", and "window_W" for layers that look W tokens back: these keep a ring of W + `SLACK` places, of which a
token at position p has the place p mod (W + SLACK). A window that is no shorter than the cache is of the kind "full".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import flax.struct
import jax.numpy as jnp

from mmjax.core.arrays import Array, Int
from mmjax.layers.cache import Meeting, merge
from mmjax.ops.masks import AttentionMask

# Tokens that a ring has room for beyond its window: so many may be written before they are attended to, and as many
# of the last ones may be taken back (by a draft that is refused).
SLACK = 16

FULL = "full"


@flax.struct.dataclass
class DecoderCache:
    """Keys and values of all layers, and what stands at each place (segment 0: nothing yet), by kind of layer.

    blocks: of the scanned superblocks, whose second axis counts rows; of all else it is the first. Both have "text"
    and "media", keys and values by the name of the block.
    positions: at most one token of a row is at each position, and where layers have windows none is left out.
    """

    blocks: dict[str, Any]
    tail: dict[str, Any]
    positions: dict[str, Int[Array, "B S"]]
    segments: dict[str, Int[Array, "B S"]]


@flax.struct.dataclass
class SharedPrefix:
    """What all rows of a batch begin with: the cache of the one row that read it, which is not written any more.

    media_segments: which picture each of the media places is of; None: nothing is looked at from outside.
    """

    cache: DecoderCache
    media_segments: Int[Array, "1 S"] | None = None


def kind_of(window: int | None, kinds: Iterable[str]) -> str:
    """The kind of the layers with this window, in a cache of these kinds."""
    name = f"window_{window}"
    return name if name in kinds else FULL


def places_by_kind(windows: Iterable[int | None], length: int) -> dict[str, int]:
    """How many places a row of at most `length` tokens needs in each kind of layer."""
    places = {}
    for window in windows:
        ring = window is not None and window + SLACK < length
        places[f"window_{window}" if ring else FULL] = window + SLACK if ring else length
    return places


def meet(
    cache: DecoderCache,
    mask: AttentionMask,
    positions: Int[Array, "B T"],
    segments: Int[Array, "B T"],
    write_index: Int[Array, "B T"] | None,
    ordered: bool,
) -> tuple[dict[str, Meeting], dict[str, Int[Array, "B S"]], dict[str, Int[Array, "B S"]]]:
    """How the tokens of a call meet each kind of the cache; and its positions and segments afterwards.

    mask: of the tokens among themselves. write_index: their places in a cache of the kind "full"; None: they are the
    first, at 0, 1, .... ordered: the order of places alone says all that the layers ask of the positions.
    """
    met, new_positions, new_segments = {}, {}, {}
    for kind, held in cache.positions.items():
        if write_index is None:
            own = mask if ordered else dataclasses.replace(mask, query_positions=positions, key_positions=positions)
            meeting = Meeting(own, sources=None if kind == FULL else _latest(positions, segments, held.shape[1]))
        elif kind == FULL:
            meeting = _written(cache, kind, mask, positions, segments, write_index)
        elif positions.shape[1] <= SLACK:
            places = jnp.where(segments != 0, positions % held.shape[1], held.shape[1])
            meeting = _written(cache, kind, mask, positions, segments, places)
        else:
            meeting = _beside(cache, kind, mask, positions, segments)
        met[kind] = meeting
        new_positions[kind] = _placed(meeting, held, positions)
        new_segments[kind] = _placed(meeting, cache.segments[kind], segments)
    return met, new_positions, new_segments


def see_shared(
    shared: SharedPrefix, query_segments: Int[Array, "B T"], positions: Int[Array, "B T"]
) -> dict[str, AttentionMask]:
    """Who sees what of a prefix, which is before all of the tokens, by its kinds of layers."""
    return {
        kind: AttentionMask(
            query_segments=query_segments,
            key_segments=shared.cache.segments[kind],
            query_positions=positions,
            key_positions=held,
            causal=True,
        )
        for kind, held in shared.cache.positions.items()
    }


def _written(cache, kind, mask, positions, segments, places) -> Meeting:
    """Of tokens that are written to `places` and then attend to the whole cache."""
    rows = jnp.arange(len(positions))[:, None]

    def in_cache(rule):
        nothing = None if rule is None else jnp.zeros(cache.segments[kind].shape, rule.dtype)
        return None if rule is None else nothing.at[rows, places].set(rule, mode="drop")

    mask = dataclasses.replace(
        mask,
        key_segments=cache.segments[kind].at[rows, places].set(segments, mode="drop"),
        query_positions=positions,
        key_positions=cache.positions[kind].at[rows, places].set(positions, mode="drop"),
        prefix=in_cache(mask.prefix),
        key_blocks=in_cache(mask.key_blocks),
    )
    return Meeting(mask, places=places, attends="cache")


def _beside(cache, kind, mask, positions, segments) -> Meeting:
    """Of tokens that attend to what a ring held before, and to themselves: more of them than it has room for."""
    held = cache.positions[kind]

    def behind(before, rule):
        return None if rule is None else jnp.concatenate([before.astype(rule.dtype), rule], axis=1)

    nothing = jnp.zeros_like(held)
    mask = dataclasses.replace(
        mask,
        key_segments=behind(cache.segments[kind], segments),
        query_positions=positions,
        key_positions=behind(held, positions),
        prefix=behind(nothing, mask.prefix),
        key_blocks=behind(nothing, mask.key_blocks),
    )
    return Meeting(mask, sources=_latest(positions, segments, held.shape[1]), attends="both")


def _latest(positions, segments, places) -> Int[Array, "B S"]:
    """Which of the tokens of a row comes to each place of its ring: the last that belongs there; -1: none.

    Five tokens, the first of them padding, and a ring of 3:

        positions  0 0 1 2 3        sources  4 2 3
        segments   0 1 1 1 1
    """
    there = segments != 0
    last = jnp.max(jnp.where(there, positions, -1), axis=1, keepdims=True)
    place = jnp.where(there & (positions > last - places), positions % places, places)
    rows = jnp.arange(len(positions))[:, None]
    order = jnp.broadcast_to(jnp.arange(positions.shape[1], dtype=jnp.int32)[None], positions.shape)
    return jnp.full((len(positions), places), -1, jnp.int32).at[rows, place].set(order, mode="drop")


def _placed(meeting: Meeting, held, new):
    """What is told of each place, once the tokens are there."""
    if meeting.places is not None:
        return held.at[jnp.arange(len(new))[:, None], meeting.places].set(new, mode="drop")
    if meeting.sources is not None:
        return merge(held, new, meeting.sources)
    return jnp.concatenate([new, held[:, new.shape[1] :]], axis=1)
