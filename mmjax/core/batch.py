"""The one batch type: packed rows of interleaved images and text, in fixed shapes."""

from __future__ import annotations

import flax.struct

from mmjax.core.arrays import Array, Bool, Float, Int, UInt8


@flax.struct.dataclass
class Batch:
    """Packed rows. Every leaf has the batch as its first dimension.

    `targets[t]` is the token that position t is to predict: the next token of the same packed
    example, or 0 where there is none. `loss_weights[t]` weighs that prediction. `media_index[t]` is
    the 1-based number of the row's image that position t looks at, 0 for none: it is at once the
    query's segment id of the cross-attention. Images are uint8 and normalised on the device; a
    video is an image with a frame axis. `dataset_ids` says which data set a row came from.
    """

    tokens: Int[Array, "B T"]
    positions: Int[Array, "B T"]
    segment_ids: Int[Array, "B T"]
    targets: Int[Array, "B T"]
    loss_weights: Float[Array, "B T"]
    media_index: Int[Array, "B T"]
    images: UInt8[Array, "B N *F h w 3"]
    image_mask: Bool[Array, "B N *F"]
    dataset_ids: Int[Array, B]
