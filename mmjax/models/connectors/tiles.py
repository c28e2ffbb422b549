"""Pictures that are read in tiles of the encoder's size, the whole picture before them (LLaVA-NeXT, Liu et al. 2024).

How many vectors a picture has, and in which order, depends on its size alone, so it is worked out in whole numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.errors import ConfigError

Size = tuple[int, int]
NEWLINE = -1


@dataclasses.dataclass(frozen=True)
class TilesConfig:
    """resolutions: (height, width) in pixels, whole tiles each way; a picture is fitted into the one that suits it best
    and cut into tiles there.
    """

    resolutions: tuple[Size, ...]

    def __post_init__(self):
        if not self.resolutions or not all(edge > 0 for size in self.resolutions for edge in size):
            raise ConfigError(f"resolutions must be one or more (height, width) in pixels, not {self.resolutions}")


def best_resolution(size: Size, resolutions: Sequence[Size]) -> Size:
    """The resolution that keeps the most of the picture's pixels, and of several the one that wastes the fewest."""

    def worth(resolution: Size) -> tuple[int, int]:
        height, width = resolution
        scale = min(width / size[1], height / size[0])
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return kept, kept - height * width

    return max(resolutions, key=worth)


def tile_count(size: Size, resolutions: Sequence[Size], tile: int) -> int:
    """How many pictures of `tile` pixels a side the encoder sees of a picture: the whole of it, and its tiles."""
    height, width = best_resolution(size, resolutions)
    return 1 + (height // tile) * (width // tile)


def unpadded(size: Size, grid: Size) -> tuple[slice, slice]:
    """The rows and columns of `grid` that a picture of `size` covers, once what is only padding is cut off."""
    rows, columns = grid
    if size[1] / size[0] > columns / rows:
        border = (rows - int(round(size[0] * (columns / size[1]), 7))) // 2
        return slice(border, rows - border), slice(0, columns)
    border = (columns - int(round(size[1] * (rows / size[0]), 7))) // 2
    return slice(0, rows), slice(border, columns - border)


def tile_order(
    sizes: Sequence[Size], resolutions: Sequence[Size], *, tile: int, side: int
) -> list[Int[np.ndarray, "Q"]]:
    """For each picture, the numbers of its vectors as they stand in the text.

    The `side` x `side` vectors of each tile are numbered row by row, through all tiles of all pictures. Those of the
    whole picture come first; those of its tiles form one grid, without rows and columns of padding, and each row of it
    ends with `NEWLINE`. A picture of one tile beside another, of 2 x 2 vectors each:

        0  1
        2  3

        4  5  8  9  -1
        6  7 10 11  -1

    sizes, tile: in pixels.
    """
    orders, first = [], 0
    for size in sizes:
        rows, columns = (edge // tile for edge in best_resolution(size, resolutions))
        whole = first + np.arange(side * side)
        numbers = whole[-1] + 1 + np.arange(rows * columns * side * side)
        grid = numbers.reshape(rows, columns, side, side).swapaxes(1, 2).reshape(rows * side, columns * side)
        lines = np.pad(grid[unpadded(size, grid.shape)], ((0, 0), (0, 1)), constant_values=NEWLINE)
        orders.append(np.concatenate([whole, lines.reshape(-1)]).astype(np.int32))
        first = int(numbers[-1]) + 1
    return orders
