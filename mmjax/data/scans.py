"""The handwritten-digit scans that come with scikit-learn, as pictures: 1,797 scans of 8x8 grey levels 0..16.

The last fifth of the file is probably by other writers (the UCI set's test writers), hence two ways to hold out.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from PIL import Image

from mmjax.core.arrays import Int, UInt8
from mmjax.core.errors import ConfigError
from mmjax.data.keyed import Dice, fold, key_of, shuffled

SIDE = 8
_CACHE_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True)
class ScansConfig:
    """Which scans, and how they become pictures.

    holdout: "random" holds a fifth out at random (by `split_seed`), "tail" the last fifth of the file.
    classes: the digits that may appear. rotation: degrees counter-clockwise, a multiple of 90.
    sizes: the digit's sides as shares of the picture's side, one drawn for each picture.
    shift: the largest shift, in pixels of the 8x8 scan. Pictures of the test split are not shifted.
    """

    split: Literal["train", "test"] = "train"
    holdout: Literal["random", "tail"] = "random"
    split_seed: int = 0
    classes: tuple[int, ...] = tuple(range(10))
    rotation: Literal[0, 90, 180, 270] = 0
    sizes: tuple[float, ...] = (0.8, 0.9, 1.0)
    shift: float = 1.0

    def __post_init__(self):
        if not self.classes or any(not 0 <= digit <= 9 for digit in self.classes):
            raise ConfigError(f"classes must be digits from 0 to 9, not {self.classes}")
        if len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"classes names a digit twice: {self.classes}")
        if not self.sizes or any(not 0.0 < size <= 1.0 for size in self.sizes):
            raise ConfigError(f"sizes must be shares of the picture between 0 and 1, not {self.sizes}")
        if not 0.0 <= self.shift <= SIDE / 2:
            raise ConfigError(f"shift must be between 0 and {SIDE / 2}, not {self.shift}")


class Scans:
    """The scans of one split and choice of classes. Each is upscaled once to each size, if memory allows."""

    def __init__(self, config: ScansConfig, image_size: int):
        self._config = config
        self._size = image_size
        levels, labels = _load()
        chosen = _split(len(labels), config)
        chosen = chosen[np.isin(labels[chosen], config.classes)]
        self.labels: Int[np.ndarray, " S"] = labels[chosen]
        self.of_class = {digit: np.flatnonzero(self.labels == digit).tolist() for digit in config.classes}
        self._levels = levels[chosen]
        self._digit = functools.lru_cache(maxsize=max(64, _CACHE_BYTES // (3 * image_size**2)))(self._upscaled)
        self._shift = config.shift if config.split == "train" else 0.0

    def __len__(self) -> int:
        return len(self.labels)

    def picture(self, scan: int, key: Sequence[int]) -> UInt8[np.ndarray, "h w 3"]:
        """Scan `scan` on a black canvas; `key` decides its size and shift."""
        canvas = np.zeros((self._size, self._size, 3), np.uint8)
        dice = Dice(fold(*key))
        self._draw(canvas, scan, dice)
        return canvas

    def scene(self, placed: Sequence[tuple[int, int, int]], key: Sequence[int]) -> UInt8[np.ndarray, "h w 3"]:
        """A canvas of 2x2 cells with scans in some of them: `placed` holds (scan, row, column)."""
        canvas = np.zeros((self._size, self._size, 3), np.uint8)
        dice = Dice(fold(*key))
        cell = self._size // 2
        for scan, row, column in placed:
            self._draw(canvas[row * cell : (row + 1) * cell, column * cell : (column + 1) * cell], scan, dice)
        return canvas

    def _draw(self, canvas, scan, dice):
        room = len(canvas)
        side = max(1, round(dice.choice(self._config.sizes) * room))
        _paste(canvas, self._digit(scan, side), *self._offset(dice, side, room))

    def _offset(self, dice, side, room):
        reach = round(self._shift * side / SIDE)
        middle = (room - side) // 2
        if not reach:
            return middle, middle
        return middle + dice.below(2 * reach + 1) - reach, middle + dice.below(2 * reach + 1) - reach

    def _upscaled(self, scan, side):
        grey = (self._levels[scan] * (255.0 / 16.0)).round().astype(np.uint8)
        picture = np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.BICUBIC))
        turned = np.rot90(picture, self._config.rotation // 90)
        return np.ascontiguousarray(np.broadcast_to(turned[:, :, None], (side, side, 3)))  # grey, ready to be copied


def _paste(canvas, digit, top, left):
    """Draws a digit with its corner at (top, left); what lies outside the canvas is cut off."""
    height, width = canvas.shape[:2]
    rows, columns = digit.shape[:2]
    up, down = max(0, -top), min(rows, height - top)
    start, stop = max(0, -left), min(columns, width - left)
    canvas[top + up : top + down, left + start : left + stop] = digit[up:down, start:stop]


@functools.lru_cache(maxsize=1)
def _load():
    from sklearn.datasets import load_digits  # here: it costs a second that runs on other data need not pay

    digits = load_digits()
    return digits.images, digits.target.astype(np.int64)


def _split(count, config):
    """The numbers of the split's scans, mixed, so that its first n are a fair sample of it."""
    mixed = shuffled(key_of("digits", config.split_seed), count)
    held_out = count // 5
    last = mixed >= count - held_out if config.holdout == "tail" else np.arange(count) >= count - held_out
    return mixed[last] if config.split == "test" else mixed[~last]
