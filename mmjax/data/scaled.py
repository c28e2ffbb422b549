"""Pictures decoded no larger than needed, whole and in their own aspect."""

from __future__ import annotations

from mmjax.data.images import MAX_PIXELS, Decoded, least_size, open_jpeg, read_other


def decode_scaled(file: bytes, side: int, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> Decoded:
    """A picture whose shorter side has `side` pixels or more, or all that there are.

    Raises:
      DataError: as `mmjax.data.images.load_image`.
    """
    jpeg = open_jpeg(file, max_pixels=max_pixels, min_side=min_side)
    if jpeg is None:
        return read_other(file, max_pixels=max_pixels, min_side=min_side)
    return jpeg.decoded(*least_size(jpeg.height, jpeg.width, side, side, "crop"))
