"""Prompts of a Flamingo as what is read before it writes."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from mmjax.core.arrays import Array, Float
from mmjax.decoding.pictures import gather
from mmjax.decoding.rows import Rows
from mmjax.decoding.writer import Decode, Opening, Writer
from mmjax.models.decoders.decoder import Media


def make_writer(model: nn.Module, media: Media) -> Writer:
    """What generation needs of a Flamingo whose rows look at `media`."""
    config = model.config
    return Writer(config.decoder, config.cross, media.segments.shape[1], Decode(model), dtype=model.dtype)


def open_rows(rows: Rows, media: Media) -> Opening:
    """The opening of `rows`, whose images are `media`; what is written looks at the last image of its row."""
    batch, length = rows.tokens.shape
    places = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None], (batch, length))
    present = places < rows.lengths[:, None]
    return Opening(
        tokens=rows.tokens,
        # Absent tokens are at position 0: a table of learned positions need not reach as far as the padding.
        positions=jnp.where(present, places, 0),
        segments=present.astype(jnp.int32),
        first={"media": media, "media_index": rows.media_index},
        later={"media": media.replace(features=None), "media_index": rows.last_media[:, None]},
        next_position=rows.lengths,
        next_place=rows.lengths,
        sequences=rows.tokens,
    )


def open_pictures(model: nn.Module, rows: Rows, features: Float[Array, "S R D"]) -> Opening:
    """The opening of `rows`, whose images are gathered from `features` by their slots."""
    return open_rows(rows, gather(features, rows.slots))
