"""The forward pass in two parts: the prompt once, then what follows it against the keys and values kept."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Bool, Float, Int
from mmjax.decoding.rows import Rows
from mmjax.models.decoders.decoder import DecoderCache, DecoderOutput, Media, empty_cache
from mmjax.parallel.sharding import nested


class Prefilled(NamedTuple):
    """`hidden` of each row's last token, from which its next one is told; the cache holds prompt and pictures."""

    hidden: Float[Array, "B D"]
    output: DecoderOutput


def prefill(model: nn.Module, params: Mapping[str, Array], rows: Rows, media: Media, *, spare: int) -> Prefilled:
    """Reads the prompts into a cache with `spare` more places.

    Places of a row's cache, for prompts of 3 and 4 tokens in rows of 5 and two spare places:

        position  0 1 2 . . | . .      . is empty (segment 0), seen by none, and written next:
                  0 1 2 3 . | . .      row 0 goes on at place 3, row 1 at place 4
    """
    batch, length = rows.tokens.shape
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
    present = places < rows.lengths[:, None]
    cache = empty_cache(
        model.config.decoder,
        model.config.cross,
        batch=batch,
        length=length + spare,
        media_length=media.segments.shape[1],
        dtype=model.dtype,
    )
    output = _decode(model, params, rows.tokens, places, present, media, rows.media_index, cache)
    last = jnp.maximum(rows.lengths - 1, 0)
    return Prefilled(output.hidden[jnp.arange(batch), last], output)


def extend(
    model: nn.Module,
    params: Mapping[str, Array],
    cache: DecoderCache,
    media_segments: Int[Array, "B S"],
    tokens: Int[Array, "B T"],
    present: Bool[Array, "B T"],
    start: Int[Array, "B"],
    media_index: Int[Array, "B"],
) -> DecoderOutput:
    """Reads `tokens` at the places from `start` on, each row at its own; absent ones leave no trace."""
    batch, length = tokens.shape
    places = start[:, None] + jnp.arange(length, dtype=jnp.int32)[None]
    looks_at = jnp.broadcast_to(media_index[:, None], (batch, length))
    return _decode(model, params, tokens, places, present, Media(None, media_segments), looks_at, cache)


def _decode(model, params, tokens, places, present, media, media_index, cache):
    # Absent tokens are at position 0: a table of learned positions need not reach as far as the padding.
    positions = jnp.where(present, places, 0)
    segments = present.astype(jnp.int32)
    return model.apply(nested(params), tokens, positions, segments, media, media_index, cache, places, method="decode")
