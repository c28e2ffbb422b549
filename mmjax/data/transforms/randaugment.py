"""RandAugment (Cubuk et al. 2020): a number of operations, drawn from fourteen, all of one magnitude.

The range of each operation is that of torchvision's implementation; at magnitude 0 all but autocontrast and equalize,
which have none, leave the picture as it is. What comes in from outside the picture is mid-grey.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from mmjax.core.arrays import UInt8
from mmjax.data.keyed import Dice

MAX_MAGNITUDE = 10.0


def rand_augment(
    picture: UInt8[np.ndarray, "h w 3"], dice: Dice, *, layers: int, magnitude: float
) -> UInt8[np.ndarray, "h w 3"]:
    """`layers` operations, one after another; each has the strength `magnitude`, from 0 to 10, in either direction."""
    names = list(OPERATIONS)
    for _ in range(layers):
        name = dice.choice(names)
        strength = magnitude / MAX_MAGNITUDE * (1 if dice.below(2) else -1)
        picture = OPERATIONS[name](picture, strength)
    return picture


Operation = Callable[[UInt8[np.ndarray, "h w 3"], float], UInt8[np.ndarray, "h w 3"]]


def _moved(matrix: Callable[[float, int, int], list[list[float]]]) -> Operation:
    def move(picture, strength):
        height, width = picture.shape[:2]
        where = np.array(matrix(strength, height, width), np.float64)
        return cv2.warpAffine(
            picture, where, (width, height), borderMode=cv2.BORDER_CONSTANT, borderValue=(128, 128, 128)
        )

    return move


def _rotation(strength, height, width):
    return cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 30 * strength, 1.0).tolist()


def _enhanced(kind: type[ImageEnhance._Enhance]) -> Operation:
    return lambda picture, strength: np.array(kind(Image.fromarray(picture)).enhance(1 + 0.9 * strength))


def _posterized(picture, strength):
    return picture & np.uint8(256 - (1 << round(4 * abs(strength))))


def _solarized(picture, strength):
    threshold = 256 - 256 * abs(strength)
    return np.where(picture >= threshold, 255 - picture, picture)


# strength: from -1 to 1. Lengths of a translation are shares of the side, angles of a rotation up to 30 degrees.
OPERATIONS: Mapping[str, Operation] = {
    "identity": lambda picture, strength: picture,
    "autocontrast": lambda picture, strength: np.array(ImageOps.autocontrast(Image.fromarray(picture))),
    "equalize": lambda picture, strength: np.array(ImageOps.equalize(Image.fromarray(picture))),
    "rotate": _moved(_rotation),
    "shear_x": _moved(lambda strength, h, w: [[1, 0.3 * strength, -0.3 * strength * (h - 1) / 2], [0, 1, 0]]),
    "shear_y": _moved(lambda strength, h, w: [[1, 0, 0], [0.3 * strength, 1, -0.3 * strength * (w - 1) / 2]]),
    "translate_x": _moved(lambda strength, h, w: [[1, 0, round(0.45 * strength * w)], [0, 1, 0]]),
    "translate_y": _moved(lambda strength, h, w: [[1, 0, 0], [0, 1, round(0.45 * strength * h)]]),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "colour": _enhanced(ImageEnhance.Color),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "posterize": _posterized,
    "solarize": _solarized,
}
