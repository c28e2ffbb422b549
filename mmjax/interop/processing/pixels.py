"""Pictures of any kind -> RGB, and the pixel operations that every picture processor is made of.

Geometry happens on uint8 [h, w, 3] with Pillow's own filters, so that it is exact; numbers come last.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mmjax.core.errors import InputError
from mmjax.data.images import MAX_PIXELS, decode_image, eight_bits

Picture = Image.Image | np.ndarray | str | os.PathLike | bytes


def as_rgb(picture: Picture, *, convert: bool) -> UInt8[np.ndarray, "h w 3"]:
    """A picture as RGB, in the way that transformers takes each kind of picture.

    A path or a file's bytes are decoded, turned as their EXIF data say, lose their alpha channel, and go on as a PIL
    image does. That is not turned; with `convert` its alpha (or its clear colour, which a palette of a file leaves
    behind) is laid over white, and grey, palette and CMYK become RGB. Arrays are uint8 [h, w, 3], with `convert` also
    [h, w], [h, w, 1] or [h, w, 4]. Unlike there, 16-bit pictures are not saturated.

    Raises:
      InputError: a picture that is not RGB where `convert` is off, or an array of another dtype or shape.
      DataError: a file that cannot be decoded, or has too many pixels.
    """
    if isinstance(picture, str | os.PathLike | bytes):
        picture = eight_bits(decode_image(picture)).convert("RGB")
    if isinstance(picture, np.ndarray):
        return _array_as_rgb(picture, convert)
    if not isinstance(picture, Image.Image):
        raise InputError(f"a picture is a path, bytes, a PIL image or a uint8 array, not {type(picture).__name__}")
    if not convert:
        if picture.mode != "RGB":
            raise InputError(
                f"this checkpoint's processor takes RGB pictures as they are, and this one has mode {picture.mode!r}; "
                'give picture.convert("RGB")'
            )
        return np.asarray(picture)
    picture = eight_bits(picture)
    if picture.mode == "F":
        raise InputError("the picture's pixels are floating-point numbers of an unknown range; give uint8")
    if "A" in picture.getbands() or picture.info.get("transparency") is not None:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    return np.asarray(picture.convert("RGB"))


def _array_as_rgb(array, convert):
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4) or not array.size:
        raise InputError(
            f"a picture as an array is uint8 [h, w, 3] (or [h, w], [h, w, 1], [h, w, 4]), not {array.dtype} "
            f"{list(array.shape)}"
        )
    if channels == 3:
        return array
    if not convert:
        raise InputError(
            f"this checkpoint's processor takes RGB pictures as they are, and this array has shape {list(array.shape)};"
            " give [h, w, 3]"
        )
    if channels == 1:
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    alpha = array[..., 3:] / 255
    return np.round(alpha * array[..., :3] + (1 - alpha) * 255).astype(np.uint8)


def resize(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int], resample: int) -> UInt8[np.ndarray, "H W 3"]:
    """Resizes to `size` (height, width) with a filter of Pillow, by its number in `Image.Resampling`.

    Raises:
      InputError: the size has no pixels, or more than `MAX_PIXELS` (a very long picture scaled by its short side).
    """
    height, width = (int(edge) for edge in size)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise InputError(
            f"a picture of {image.shape[1]} x {image.shape[0]} pixels would become {width} x {height} for this "
            f"checkpoint, which is not between 1 and {MAX_PIXELS} pixels; cut it to a less extreme aspect"
        )
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(resample)))


def center_crop(image: UInt8[np.ndarray, "h w 3"], size: tuple[int, int]) -> UInt8[np.ndarray, "H W 3"]:
    """The middle `size` (height, width); where the picture is smaller, black stands around it."""
    target = np.zeros((*size, 3), np.uint8)
    inner, outer = [], []
    for edge, wanted in zip(image.shape[:2], size, strict=True):
        # The odd pixel is cut off before the picture where it is larger, and added before it where it is smaller.
        start = (edge - wanted) // 2 if edge >= wanted else -((wanted - edge + 1) // 2)
        first, last = max(start, 0), min(start + wanted, edge)
        inner.append(slice(first, last))
        outer.append(slice(first - start, last - start))
    target[outer[0], outer[1]] = image[inner[0], inner[1]]
    return target


def pad_to(
    image: UInt8[np.ndarray, "h w 3"],
    size: tuple[int, int],
    *,
    start: tuple[int, int] = (0, 0),
    color: Sequence[int] = (0, 0, 0),
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture on a canvas of `size`, with its top left corner at `start` (row, column)."""
    canvas = np.empty((*size, 3), np.uint8)
    canvas[...] = np.asarray(color, np.uint8)
    canvas[start[0] : start[0] + image.shape[0], start[1] : start[1] + image.shape[1]] = image
    return canvas


def normalize(
    image: UInt8[np.ndarray, "*N h w 3"],
    *,
    factor: float | None,
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
) -> Float[np.ndarray, "*N 3 h w"]:
    """float32 with the channels first: pixels times `factor`, minus `mean`, by `std`; each is left out where None."""
    # The product is rounded once, from double precision, as transformers has it.
    values = image.astype(np.float32) if factor is None else (image * np.float64(factor)).astype(np.float32)
    if mean is not None:
        values = (values - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return np.ascontiguousarray(np.moveaxis(values, -1, -3))
