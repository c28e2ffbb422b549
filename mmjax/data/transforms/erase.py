"""Parts of pictures taken away: random erasing, cutout, masked patches."""

from __future__ import annotations

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.data.keyed import Dice
from mmjax.data.transforms.view import drawn_box

GREY = 128
_TRIALS = 10


def erased(
    picture: UInt8[np.ndarray, "h w 3"], dice: Dice, *, area: tuple[float, float], aspect: tuple[float, float]
) -> UInt8[np.ndarray, "h w 3"]:
    """A rectangle becomes noise: of a share of the picture, and a width over height, between those given."""
    height, width = picture.shape[:2]
    for _ in range(_TRIALS):
        high, wide = drawn_box(height, width, dice, area=area, aspect=aspect)
        if 0 < high <= height and 0 < wide <= width:
            top, left = dice.below(height - high + 1), dice.below(width - wide + 1)
            noise = np.random.PCG64(dice.below(1 << 62)).random_raw(high * wide * 3 // 8 + 1)  # raw bits never change
            picture = picture.copy()
            picture[top : top + high, left : left + wide] = noise.view(np.uint8)[: high * wide * 3].reshape(
                high, wide, 3
            )
            break
    return picture


def cut_out(picture: UInt8[np.ndarray, "h w 3"], dice: Dice, *, share: float) -> UInt8[np.ndarray, "h w 3"]:
    """A square becomes mid-grey, its side a share of the short side, its middle anywhere; what is outside is lost."""
    height, width = picture.shape[:2]
    side = round(share * min(height, width))
    top, left = dice.below(height) - side // 2, dice.below(width) - side // 2
    picture = picture.copy()
    picture[max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = GREY
    return picture


def patches_masked(
    picture: UInt8[np.ndarray, "h w 3"], dice: Dice, *, share: float, patch: int
) -> UInt8[np.ndarray, "h w 3"]:
    """A share of the patches, rounded to a whole number of them, becomes mid-grey (He et al. 2022)."""
    rows, columns = -(-picture.shape[0] // patch), -(-picture.shape[1] // patch)
    picture = picture.copy()
    for place in dice.sample(range(rows * columns), round(share * rows * columns)):
        top, left = place // columns * patch, place % columns * patch
        picture[top : top + patch, left : left + patch] = GREY
    return picture
