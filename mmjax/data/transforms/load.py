"""Picture files -> the frames of a medium: decoded, cropped, transformed, and cut into tiles."""

from __future__ import annotations

import dataclasses
import os
from typing import NamedTuple

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.data.images import MAX_PIXELS, Fit, fitted, least_size, open_jpeg, read_other, resized
from mmjax.data.keyed import Dice, fold
from mmjax.data.transforms.augment import Augment, transformed
from mmjax.data.transforms.tiles import best_grid, cut
from mmjax.data.transforms.view import Box, crop_box

Frames = UInt8[np.ndarray, "size size 3"] | UInt8[np.ndarray, "F size size 3"]

_CROP = 101


@dataclasses.dataclass(frozen=True)
class PictureLoader:
    """Loads pictures as one data set wants them.

    size: pixels each way of a frame. fit: as in `mmjax.data.images.load_image`. tiles: a picture is cut into up to so
    many, of a grid that suits it, after one frame that shows all of it; below 2 there is that frame alone.
    augment: what is done with draws of the key; without a key nothing is.
    """

    size: int
    fit: Fit = "crop"
    tiles: int = 0
    augment: Augment = dataclasses.field(default_factory=Augment)
    max_pixels: int = MAX_PIXELS
    min_side: int = 1

    def __call__(
        self,
        source: str | os.PathLike | bytes,
        key: int | None = None,
        out: UInt8[np.ndarray, "size size 3"] | None = None,
    ) -> Frames:
        """One frame, or with tiles all frames of a picture.

        out: a contiguous array where the frame may come to lie; what is returned says where it does.

        Raises:
          DataError: as `mmjax.data.images.open_jpeg` and `read_other`.
        """
        if self.tiles > 1 or (out is not None and out.shape != (self.size, self.size, 3)):
            out = None
        jpeg = open_jpeg(source, max_pixels=self.max_pixels, min_side=self.min_side)
        if jpeg is None:
            read = read_other(source, max_pixels=self.max_pixels, min_side=self.min_side)
            view = self._view(read.height, read.width, key)
            return self._shown(view.box.of(read.pixels), view, key, out)
        if key is None and self.tiles < 2:
            return jpeg.fitted(self.size, self.size, self.fit, out)
        view = self._view(jpeg.height, jpeg.width, key)
        box = view.box
        high, wide = least_size(box.height, box.width, view.height, view.width, view.fit)
        read = jpeg.decoded(-(-high * jpeg.height // box.height), -(-wide * jpeg.width // box.width))
        pixels = read.pixels
        if (box.height, box.width) != (jpeg.height, jpeg.width):
            pixels = box.scaled_to(*pixels.shape[:2], whole=(read.height, read.width)).of(pixels)
        return self._shown(pixels, view, key, out)

    def of_pixels(self, pixels: UInt8[np.ndarray, "h w 3"], key: int | None = None) -> Frames:
        """The same of a picture that is decoded already. Frames of a video share a key, and so all that is drawn."""
        view = self._view(*pixels.shape[:2], key)
        return self._shown(view.box.of(pixels), view, key, None)

    def _view(self, height, width, key):
        if key is None or self.augment.crop is None:
            box, fit = Box(0, 0, height, width), self.fit
        else:
            dice = Dice(fold(key, _CROP))
            box = crop_box(height, width, dice, area=self.augment.crop, aspect=self.augment.crop_aspect)
            fit = "stretch"
        rows, columns = best_grid(box.height, box.width, self.size, self.tiles) if self.tiles > 1 else (1, 1)
        return _View(box, fit, rows * self.size, columns * self.size)

    def _shown(self, pixels, view, key, out):
        picture = fitted(pixels, view.height, view.width, view.fit, aspect=view.box.width / view.box.height, out=out)
        if key is not None:
            picture = transformed(picture, self.augment, key)
        if self.tiles < 2:
            return picture
        whole = resized(picture, self.size, self.size)
        return whole[None] if picture.shape == whole.shape else np.concatenate([whole[None], cut(picture, self.size)])


class _View(NamedTuple):
    """The part of a picture that is shown, and how it fills a canvas of `height` x `width` pixels."""

    box: Box
    fit: Fit
    height: int
    width: int
