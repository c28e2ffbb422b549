"""Picture files -> uint8 arrays, strictly: a limit on pixels before decoding, and nothing broken is let through.

JPEGs are decoded by libjpeg-turbo (simplejpeg) at the nearest larger of the scales 1, 1/2, 1/4 and 1/8, which it has
quick code for; all other formats, and the JPEGs that it does not take, by Pillow. OpenCV brings them to size.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import struct
import zlib
from typing import Literal, NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from mmjax.core.arrays import UInt8
from mmjax.core.errors import DataError
from mmjax.data.sources.files import open_patiently, patiently

# Formats that Pillow reads by itself; others would start outside programs (EPS) or are not pictures (PDF, video).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
MAX_PIXELS = 64_000_000
# What decides pixels besides options: another decoder gives other ones. The number rises with what this file changes.
DECODER = "simplejpeg, opencv 1"
# Shrinking by less than this, four neighbours give as good a picture as the average over the area, ten times sooner.
_LINEAR_BELOW = 4 / 3
# What follows from sizes alone is kept for so many of them: between decodings, which sweep the caches that the
# interpreter lives from, each line of it costs several times its usual time.
_SIZES = 4096

Fit = Literal["crop", "stretch", "pad"]

cv2.setNumThreads(1)  # pictures are shared out among the threads of the stream; OpenCV's own would only wait


class Decoded(NamedTuple):
    """A picture, upright, perhaps decoded smaller than it is: `height` and `width` are those of the file."""

    pixels: UInt8[np.ndarray, "h w 3"]
    height: int
    width: int


class Jpeg(NamedTuple):
    """The file of a JPEG whose header was read. `height` and `width` are of the picture upright, `turn` the EXIF code.

    what: names it in errors.
    """

    data: bytes
    height: int
    width: int
    turn: int
    what: str

    def decoded(self, least_height: int, least_width: int) -> Decoded:
        """The picture in RGB, at the smallest scale that gives at least so many pixels. Raises as `open_jpeg`."""
        least, whole = _scaled(self.height, self.width, self.turn, least_height, least_width)
        try:
            pixels = simplejpeg.decode_jpeg(self.data, "RGB", min_height=least[0], min_width=least[1])
        except ValueError as error:
            read_other(self.data, what=self.what)  # it says what kind of damage; some it passes over
            raise _broken(self.what, error) from None
        return Decoded(_turned(pixels[whole], self.turn), self.height, self.width)

    def fitted(
        self, height: int, width: int, fit: Fit, out: UInt8[np.ndarray, "h w 3"] | None = None
    ) -> UInt8[np.ndarray, "h w 3"]:
        """The picture brought to `height` x `width` pixels, as `fitted` does. Raises as `open_jpeg`."""
        read = self.decoded(*least_size(self.height, self.width, height, width, fit))
        return fitted(read.pixels, height, width, fit, aspect=self.width / self.height, out=out)


@functools.lru_cache(_SIZES)
def _scaled(height, width, turn, least_height, least_width):
    """What is asked of the decoder for a JPEG of this size upright: least sides as it lies, and what of them counts."""
    scale = next((s for s in (8, 4, 2) if height >= s * least_height and width >= s * least_width), 1)
    if turn >= 5:
        height, width = width, height
    # The last row and column may lie half outside the picture.
    whole = (slice(round(height / scale)), slice(round(width / scale)))
    return (-(-height // scale), -(-width // scale)), whole


def load_image(
    source: str | os.PathLike | bytes, *, size: int, fit: Fit = "crop", max_pixels: int = MAX_PIXELS, min_side: int = 1
) -> UInt8[np.ndarray, "size size 3"]:
    """Decodes a picture (a path or the file's bytes) to `size` x `size` pixels.

    fit: "crop" scales the short side and cuts the middle, "stretch" ignores the aspect, "pad" scales the long side and
    fills with black. The EXIF rotation is applied; alpha is laid over white; grey, palette, CMYK and 16-bit pictures
    become RGB; of an animation the first frame counts.

    Raises:
      DataError: as `open_jpeg` and `read_other`.
    """
    jpeg = open_jpeg(source, max_pixels=max_pixels, min_side=min_side)
    if jpeg is not None:
        return jpeg.fitted(size, size, fit)
    return fitted(read_other(source, max_pixels=max_pixels, min_side=min_side).pixels, size, size, fit)


def open_jpeg(source: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = 1) -> Jpeg | None:
    """The file and the header of a JPEG, or None for what `read_other` must read.

    Raises:
      DataError: of kind "missing", "too_large" (more than `max_pixels`) or "too_small" (a side below `min_side`);
        decoding it, of kind "truncated" or "corrupt".
    """
    what = _name(source)
    data = _jpeg_bytes(source, what)
    facts = _jpeg_facts(data) if data else None
    if facts is None:
        return None
    height, width, turn = facts
    _check_size(width, height, what, max_pixels, min_side)
    return Jpeg(data, width, height, turn, what) if turn >= 5 else Jpeg(data, height, width, turn, what)


def read_other(
    source: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS, min_side: int = 1, what: str = ""
) -> Decoded:
    """Decodes a picture of any format to RGB, by Pillow. `what` names it in errors, if its path should not.

    Raises:
      DataError: of kind "missing", "not_an_image", "too_large" (more than `max_pixels`) or "too_small" (a side below
        `min_side`), all found before decoding, "truncated" or "corrupt".
    """
    what = what or _name(source)
    with _open(source, what, max_pixels, min_side) as image:
        try:
            pixels = np.array(_to_rgb(ImageOps.exif_transpose(image)))
        except _UNDECODABLE as error:
            raise _broken(what, error) from None
    return Decoded(pixels, *pixels.shape[:2])


def picture_size(source: str | os.PathLike | bytes) -> tuple[int, int]:
    """Height and width of a picture, upright, from the head of its file; its pixels are not decoded.

    Raises:
      DataError: as `load_image`, for a head that cannot be read.
    """
    what = _name(source)
    with _open(source, what, max_pixels=1 << 62) as image:
        width, height = image.size
        try:
            # Of a PNG without EXIF data before its pixels, Pillow would decode these to look for some after them.
            told = image.format != "PNG" or "exif" in image.info
            turn = image.getexif().get(ExifTags.Base.Orientation, 1) if told else 1
        except _UNDECODABLE as error:
            raise _broken(what, error) from None
    return (width, height) if turn in range(5, 9) else (height, width)


@functools.lru_cache(_SIZES)
def least_size(height: int, width: int, wanted_height: int, wanted_width: int, fit: Fit) -> tuple[int, int]:
    """The size of a picture of `height` x `width` from which `fitted` makes the wanted one without enlarging it."""
    if fit == "stretch":
        return wanted_height, wanted_width
    scale = (max if fit == "crop" else min)(wanted_height / height, wanted_width / width)
    return min(height, round(height * scale)), min(width, round(width * scale))


def fitted(
    picture: UInt8[np.ndarray, "h w 3"],
    height: int,
    width: int,
    fit: Fit,
    *,
    aspect: float | None = None,
    out: UInt8[np.ndarray, "h2 w2 3"] | None = None,
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A picture brought to `height` x `width` pixels; see `load_image` for `fit`.

    aspect: width over height where that is known better than by the pixels, which may be scaled. out: where the result
    is written, a contiguous array; a new one without it.
    """
    h, w = picture.shape[:2]
    if fit == "pad":
        aspect = aspect or w / h
        wide, high = min(width, height * aspect), min(height, width / aspect)
        inner = resized(picture, max(1, round(high)), max(1, round(wide)))
        top, left = (height - inner.shape[0]) // 2, (width - inner.shape[1]) // 2
        bottom, right = height - inner.shape[0] - top, width - inner.shape[1] - left
        return cv2.copyMakeBorder(inner, top, bottom, left, right, cv2.BORDER_CONSTANT, out, value=(0, 0, 0))
    return resized(picture[_middle(h, w, height, width)] if fit == "crop" else picture, height, width, out=out)


@functools.lru_cache(_SIZES)
def _middle(h, w, height, width):
    """Of a picture of `h` x `w`, the largest part in the middle with the aspect of `height` x `width`."""
    high, wide = min(h, max(1, round(w * height / width))), min(w, max(1, round(h * width / height)))
    top, left = (h - high) // 2, (w - wide) // 2
    return slice(top, top + high), slice(left, left + wide)


def resized(
    picture: UInt8[np.ndarray, "h w 3"], height: int, width: int, *, out: UInt8[np.ndarray, "h2 w2 3"] | None = None
) -> UInt8[np.ndarray, "h2 w2 3"]:
    """A picture of `height` x `width` pixels: the average over each one's area where it shrinks, bicubic where not.

    It is written to `out`, a contiguous array, if that is given.
    """
    h, w = picture.shape[:2]
    if (h, w) == (height, width):
        if out is None:
            return np.ascontiguousarray(picture)
        out[:] = picture
        return out
    grows = h < height or w < width
    if h > height or w > width:
        how = cv2.INTER_LINEAR if max(h / height, w / width) < _LINEAR_BELOW else cv2.INTER_AREA
        small = (min(w, width), min(h, height))
        picture = cv2.resize(picture, small, None if grows else out, interpolation=how)
    return cv2.resize(picture, (width, height), out, interpolation=cv2.INTER_CUBIC) if grows else picture


def decode_image(source: str | os.PathLike | bytes, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decodes a picture at its full size and in its own mode (grey, palette, ...); the EXIF rotation is applied.

    Raises:
      DataError: as `load_image`, but for "too_small".
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


# What Pillow's readers raise on damaged files, by trying many.
_UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RuntimeError,
    struct.error,
    zlib.error,
)


_JPEG = b"\xff\xd8\xff"
_APP1 = 0xE1
_PICTURE_BEGINS = (0xDA, 0xD9)  # a scan, or the end
_MAX_JPEG = 1 << 29  # bytes; larger files are left to Pillow, which reads no more of them than it must


def _name(source):
    return "a picture" if isinstance(source, bytes) else os.fspath(source)


def _jpeg_bytes(source, what):
    """The bytes of a JPEG file, or None where it is no JPEG."""
    if isinstance(source, bytes):
        return source if source.startswith(_JPEG) else None
    try:
        return patiently(os.fspath(source), functools.partial(_read_jpeg, source))
    except OSError as error:
        raise DataError(f"{what} cannot be read: {error.strerror}", kind="missing") from None


def _read_jpeg(path):
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(len(_JPEG)) != _JPEG or size > _MAX_JPEG:
            return None
        file.seek(0)
        data = file.read()
        if len(data) < size:
            raise OSError(errno.EIO, "fewer bytes came than the file has")
        return data


def _jpeg_facts(data):
    """Height, width and EXIF orientation (1 to 8) of a JPEG, or None for one that is left to Pillow."""
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # damaged, or of a kind that libjpeg-turbo does not know
        return None
    if colours in ("CMYK", "YCCK"):
        return None
    return height, width, _orientation(data)


def _orientation(data):
    """How a camera was held, where the segments before the picture say so."""
    place, end = 2, len(data) - 4
    while place < end and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        if marker in _PICTURE_BEGINS:
            break
        if marker == _APP1 and data.startswith((b"Exif\0", b"http://ns.adobe.com/xap/"), place + 4):
            return _exif_orientation(data)
        length = data[place + 2] << 8 | data[place + 3]
        place += 2 + (length if length > 2 else 2)
    return 1


def _exif_orientation(data):
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            turn = image.getexif().get(ExifTags.Base.Orientation, 1)
    except (*_UNDECODABLE, Image.DecompressionBombError, Image.DecompressionBombWarning):
        return 1
    return turn if turn in range(1, 9) else 1


def _turned(pixels, turn):
    """The picture upright. Orientations 5 to 8 lie on their side; 2, 4, 5 and 7 are mirrored (Exif 2.3)."""
    if turn == 1:
        return pixels
    if turn >= 5:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if turn in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if turn in (2, 3, 6, 7) else 1)
    return np.ascontiguousarray(pixels[rows, columns])


@contextlib.contextmanager
def _open(source, what, max_pixels, min_side=1):
    with contextlib.ExitStack() as opened:
        image = opened.enter_context(_open_any_size(source, what, opened))
        _check_size(*image.size, what, max_pixels, min_side)
        yield image


def _check_size(width, height, what, max_pixels, min_side):
    if width * height > max_pixels:
        raise DataError(f"{what} has {width} x {height} pixels, more than the limit of {max_pixels}", kind="too_large")
    if min(width, height) < min_side:
        raise DataError(f"{what} has {width} x {height} pixels, a side has at least {min_side}", kind="too_small")


def _open_any_size(source, what, opened):
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open_patiently(os.fspath(source))
        return Image.open(opened.enter_context(file), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{what} is too large: {error}", kind="too_large") from None
    except UnidentifiedImageError:
        raise DataError(
            f"{what} is not a picture in a known format ({', '.join(FORMATS)})", kind="not_an_image"
        ) from None
    except _UNDECODABLE as error:
        if getattr(error, "errno", None):
            raise DataError(f"{what} cannot be read: {error.strerror}", kind="missing") from None
        raise _broken(what, error) from None


def _broken(what, error):
    cut = isinstance(error, EOFError) or any(word in str(error).lower() for word in ("truncated", "premature end"))
    kind = "truncated" if cut else "corrupt"
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
