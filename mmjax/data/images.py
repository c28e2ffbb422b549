"""Picture files -> uint8 arrays, strictly: a limit on pixels before decoding, and nothing broken is let through."""

from __future__ import annotations

import io
import os
from typing import Literal

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mmjax.core.arrays import UInt8
from mmjax.core.errors import DataError

# Formats that Pillow reads by itself; others would start outside programs (EPS) or are not pictures (PDF, video).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 64_000_000

Fit = Literal["crop", "stretch", "pad"]


def load_image(
    source: str | os.PathLike | bytes, *, size: int, fit: Fit = "crop", max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "size size 3"]:
    """Decodes a picture (a path or the file's bytes) to `size` x `size` pixels, bicubic.

    fit: "crop" scales the short side and cuts the middle, "stretch" ignores the aspect, "pad" scales the long side and
    fills with black. The EXIF rotation is applied; alpha is laid over white; grey, palette, CMYK and 16-bit pictures
    become RGB; of an animation the first frame counts. JPEGs are decoded at the nearest larger scale (Pillow `draft`).

    Raises:
      DataError: of kind "missing", "not_an_image", "too_large" (more than `max_pixels`, found before decoding),
        "truncated" or "corrupt".
    """
    what = _name(source)
    with _open(source, what, max_pixels) as image:
        try:
            image.draft("RGB", (size, size) if fit != "pad" else _inside(image.size, size))
            image = _to_rgb(ImageOps.exif_transpose(image))
        except _UNDECODABLE as error:
            raise _broken(what, error) from None
        return np.array(_fit(image, size, fit))


def decode_image(source: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a picture at its full size and in its own mode (grey, palette, ...); the EXIF rotation is applied.

    Raises:
      DataError: as `load_image`.
    """
    what = _name(source)
    with _open(source, what, max_pixels) as image:
        try:
            return ImageOps.exif_transpose(image)
        except _UNDECODABLE as error:
            raise _broken(what, error) from None


def eight_bits(image: Image.Image) -> Image.Image:
    """A picture of 16 bits a pixel (or of 32 that hold 16) by its high bytes; any other as it is."""
    if not image.mode.startswith("I"):
        return image
    levels = np.clip(np.asarray(image, np.int64), 0, 65535) >> 8
    return Image.fromarray(levels.astype(np.uint8))


_UNDECODABLE = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError)


def _name(source):
    return "a picture" if isinstance(source, bytes) else os.fspath(source)


def _open(source, what, max_pixels):
    image = _open_any_size(source, what)
    if image.width * image.height > max_pixels:
        image.close()
        raise DataError(
            f"{what} has {image.width} x {image.height} pixels, more than the limit of {max_pixels}", kind="too_large"
        )
    return image


def _open_any_size(source, what):
    try:
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{what} is too large: {error}", kind="too_large") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{what} is not a picture in a known format ({', '.join(FORMATS)})", kind="not_an_image"
        ) from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if getattr(error, "errno", None):
            raise DataError(f"{what} cannot be read: {error.strerror}", kind="missing") from None
        raise _broken(what, error) from None


def _broken(what, error):
    kind = "truncated" if isinstance(error, EOFError) or "truncated" in str(error).lower() else "corrupt"
    return DataError(f"{what} cannot be decoded, the file is {kind}: {error}", kind=kind)


def _to_rgb(image):
    image.load()
    image = eight_bits(image)
    if image.mode == "F":
        raise ValueError("pixels are floating-point numbers of an unknown range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")


def _fit(image, size, fit):
    if fit == "stretch":
        return image.resize((size, size), Image.Resampling.BICUBIC)
    if fit == "pad":
        return ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color="black")
    return ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC)


def _inside(box, size):
    """The largest box of the same aspect in a square of `size`."""
    scale = size / max(box)
    return max(1, round(box[0] * scale)), max(1, round(box[1] * scale))
