"""Pictures of the page: as data addresses, and with the attention of a token laid over them."""

from __future__ import annotations

import base64
import mimetypes
import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mmjax.core.arrays import Float, UInt8

_SHOWN_SIDE = 256  # pixels that a small picture is enlarged to, so that the heat is smooth over it
# From no attention to the most: value, red, green, blue, and how much of the picture it covers.
_RAMP = np.array(
    [
        [0.00, 20, 12, 60, 0.45],
        [0.25, 95, 25, 125, 0.50],
        [0.50, 200, 50, 100, 0.55],
        [0.75, 250, 135, 40, 0.62],
        [1.00, 255, 235, 110, 0.70],
    ]
)


def stored_picture(folder: pathlib.Path, address: str | None) -> str | None:
    """A data address as it is, a path inside `folder` as a data address; None for what is not there."""
    if not address or address.startswith("data:image/"):
        return address or None
    path = (folder / address).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        return None
    kind = mimetypes.guess_type(path.name)[0] or ""
    if not kind.startswith("image/"):
        return None
    return f"data:{kind};base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def enlarged(picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
    """`picture` by a whole factor to about the size at which the page shows it, every pixel a square."""
    factor = max(1, _SHOWN_SIDE // picture.shape[0])
    return picture.repeat(factor, axis=0).repeat(factor, axis=1)


def heat_range(heats: Sequence[Float[np.ndarray, "h w"]]) -> tuple[float, float]:
    """One scale for all maps of a page, so that they can be compared: the medians of their least and greatest heat.

    At least from 0.8 to 1.25 times an even look, so that what is nearly even is drawn as such.
    """
    low, high = (float(np.median([end(heat) for heat in heats])) for end in (np.min, np.max))
    return min(low, 0.8), max(high, 1.25)


def overlay(
    picture: UInt8[np.ndarray, "h w 3"], heat: Float[np.ndarray, "h w"], limits: tuple[float, float]
) -> UInt8[np.ndarray, "H W 3"]:
    """`heat` in colour over the greyed picture: darkest at the first of the limits, brightest at the second."""
    base = enlarged(picture)
    size = (base.shape[1], base.shape[0])
    smooth = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    low, high = limits
    level = np.clip((smooth - low) / (high - low), 0, 1)
    red, green, blue, cover = (np.interp(level, _RAMP[:, 0], _RAMP[:, column]) for column in range(1, 5))
    grey = base.mean(axis=-1, keepdims=True)
    colour, cover = np.stack([red, green, blue], axis=-1), cover[..., None]
    return np.clip(cover * colour + (1 - cover) * grey, 0, 255).astype(np.uint8)


def ramp_css() -> str:
    """The colours of the heat from least to most, as a CSS gradient."""
    stops = ", ".join(f"rgb({r:.0f} {g:.0f} {b:.0f}) {100 * at:.0f}%" for at, r, g, b, _ in _RAMP)
    return f"linear-gradient(to right, {stops})"
