"""Which part of a picture is shown: random resized crops."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.data.keyed import Dice

_TRIALS = 10


class Box(NamedTuple):
    """A rectangle of a picture, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h2 w2 3"]:
        """That part of a picture."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]

    def scaled_to(self, height: int, width: int, *, whole: tuple[int, int]) -> Box:
        """The same part of a picture of `whole` (height and width) that is at hand with `height` x `width` pixels."""
        down, across = height / whole[0], width / whole[1]
        top, left = round(self.top * down), round(self.left * across)
        bottom, right = round((self.top + self.height) * down), round((self.left + self.width) * across)
        return Box(top, left, max(1, bottom - top), max(1, right - left))


def crop_box(height: int, width: int, dice: Dice, *, area: tuple[float, float], aspect: tuple[float, float]) -> Box:
    """A box anywhere in the picture, of a random share of its area and a random width over height.

    Where ten draws give none that fits, it is the largest one in the middle whose aspect is allowed (Szegedy et al.
    2015, as torchvision does it).
    """
    for _ in range(_TRIALS):
        high, wide = drawn_box(height, width, dice, area=area, aspect=aspect)
        if 0 < high <= height and 0 < wide <= width:
            return Box(dice.below(height - high + 1), dice.below(width - wide + 1), high, wide)
    high = min(height, round(width / aspect[0]))
    wide = min(width, round(height * aspect[1]))
    return Box((height - high) // 2, (width - wide) // 2, max(1, high), max(1, wide))


def drawn_box(
    height: int, width: int, dice: Dice, *, area: tuple[float, float], aspect: tuple[float, float]
) -> tuple[int, int]:
    """Height and width of a box of a random share of the area and a random aspect, evenly in its logarithm.

    It may be larger than the picture.
    """
    pixels = height * width * (area[0] + (area[1] - area[0]) * dice.uniform())
    low, high = math.log(aspect[0]), math.log(aspect[1])
    ratio = math.exp(low + (high - low) * dice.uniform())
    return round(math.sqrt(pixels / ratio)), round(math.sqrt(pixels * ratio))
