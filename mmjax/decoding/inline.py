"""Prompts of a model whose pictures stand in the text, as what is read before it writes."""

from __future__ import annotations

import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.decoding.rows import Rows
from mmjax.decoding.writer import Opening
from mmjax.models.decoders.decoder import Inline
from mmjax.models.inline import InlineModel, places_of_features


def open_rows(model: InlineModel, rows: Rows, features: Float[Array, "S R D"]) -> Opening:
    """The opening of `rows`, whose images are gathered from `features` by their slots.

    A prompt is prefix throughout: where the model's tokens see the prefix both ways, they see all of the prompt.
    """
    config = model.config
    batch, length = rows.tokens.shape
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
    present = places < rows.lengths[:, None]
    there = (rows.tokens == config.image_token) & present
    seen = jnp.take(features, jnp.maximum(rows.slots, 0), axis=0).reshape(batch, -1, features.shape[-1])
    index = places_of_features(there, rows.media_index, features.shape[1])
    blocks = None
    if config.sees == "prefix":
        blocks = present.astype(jnp.int32)
    elif config.sees == "image":
        blocks = jnp.where(there, rows.media_index, 0)
    return Opening(
        tokens=rows.tokens,
        # Absent tokens are at position 0: a table of learned positions need not reach as far as the padding.
        positions=jnp.where(present, places, 0),
        segments=present.astype(jnp.int32),
        first={"inline": Inline(seen, index), "blocks": blocks},
        later={},
        next_position=rows.lengths,
        next_place=rows.lengths,
        sequences=rows.tokens,
    )
