"""The cached path against the whole one: half of a row is read into the cache, the rest follows a token a step."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.core.arrays import Array, Bool, Float, Int, Shaped
from mmjax.core.errors import InputError
from mmjax.decoding.writer import Opening, Writer, begin
from mmjax.interop.calls.caller import Caller
from mmjax.interop.calls.kinds import find_adapter
from mmjax.interop.engine import Pretrained

# Of the arguments of `decode`, those with a place for each token: [B, T, ...]; the last are of what is read at once.
_OF_TOKENS = ("media_allowed", "media_index", "rope_positions", "blocks")


def generates(pretrained: Pretrained) -> bool:
    """Whether there is a cached path."""
    adapter = find_adapter(pretrained.config)
    return adapter is not None and adapter.prompt is not None


def cached_logits(
    caller: Caller, arguments: Mapping[str, Shaped[np.ndarray, "..."]], kw: Mapping[str, Any]
) -> tuple[Float[np.ndarray, "B S V"], Int[np.ndarray, "B S"]]:
    """The logits of the later tokens of a call, and their places in their rows; a place behind the row is of no token.

    A row is cut in the middle, or behind its last block of tokens that see each other, since these are read at once.

    Raises:
      InputError: the tokens of every row see each other throughout, so that there is no place to cut.
    """
    opening, writer = caller.open(arguments, kw)
    cuts, length = _cuts(opening), opening.tokens.shape[1]
    if (cuts == length).all():
        raise InputError("all tokens see each other, so none can follow through the cache; take a call with an answer")
    places = cuts[:, None] + np.arange(length - cuts.min(), dtype=np.int32)[None]
    run = jax.jit(_follow, static_argnames=("writer", "head"))
    return np.asarray(run(caller.pretrained.parameters, opening, places, writer=writer, head=int(cuts.max()))), places


def _cuts(opening: Opening) -> Int[np.ndarray, "B"]:
    batch, length = opening.tokens.shape
    cuts = np.full(batch, length // 2, np.int32)
    blocks = opening.first.get("blocks")
    if blocks is not None:
        behind = np.arange(1, length + 1, dtype=np.int32)[None] * (np.asarray(blocks) > 0)
        cuts = np.maximum(cuts, behind.max(axis=1).astype(np.int32))
    return cuts


def _follow(
    parameters: dict[str, Array], opening: Opening, places: Int[Array, "B S"], *, writer: Writer, head: int
) -> Float[Array, "B S V"]:
    length = opening.tokens.shape[1]
    media = {name: value for name, value in opening.first.items() if name == "media"}
    columns = jnp.broadcast_to(jnp.arange(head, dtype=jnp.int32)[None], (len(places), head))
    begun = _taken(opening, columns, columns < places[:, :1])
    begun = dataclasses.replace(begun, first={**begun.first, **media})
    output = begin(writer, parameters, begun, spare=length - head)

    def step(cache, place: Int[Array, "B"]):
        token = _taken(opening, place[:, None], place[:, None] < length)
        output = writer.decode(
            parameters,
            token.tokens,
            token.positions,
            token.segments,
            cache=cache,
            write_index=jnp.minimum(place, length - 1)[:, None],
            **{name: value for name, value in token.first.items() if name != "blocks"},
            **{name: value.replace(features=None) for name, value in media.items()},
        )
        return output.cache, output.logits()[:, 0]

    _, logits = jax.lax.scan(step, output.cache, jnp.asarray(places).T)
    return jnp.moveaxis(logits, 0, 1)


def _taken(opening: Opening, places: Int[Array, "B S"], there: Bool[Array, "B S"]) -> Opening:
    """The tokens of an opening at these places, absent but `there`, and what `decode`'s arguments say of them."""
    rows = jnp.arange(len(places))[:, None]
    inside = jnp.minimum(places, opening.tokens.shape[1] - 1)

    def take(x):
        return None if x is None else x[rows, inside]

    first = {name: take(x) if name in _OF_TOKENS else x for name, x in opening.first.items() if name != "media"}
    inline = first.get("inline")
    if inline is not None:
        first["inline"] = inline.replace(index=take(inline.index))
    segments = jnp.where(there, take(opening.segments), 0)
    return dataclasses.replace(
        opening, tokens=take(opening.tokens), positions=take(opening.positions), segments=segments, first=first
    )
