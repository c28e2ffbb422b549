"""Pictures of any shape as a grid of square tiles (any resolution: LLaVA-NeXT, Liu et al. 2024; IDEFICS-2)."""

from __future__ import annotations

import functools

import numpy as np

from mmjax.core.arrays import UInt8


@functools.lru_cache(maxsize=4096)
def best_grid(height: int, width: int, size: int, tiles: int) -> tuple[int, int]:
    """Rows and columns of a picture's grid, of at most `tiles` tiles of `size` x `size` pixels.

    The rule of LLaVA-NeXT over all such grids: the one that shows the most of the picture's pixels when the picture is
    scaled to lie within it, and of equals the one that leaves the least of its own unused.
    """
    best, grid = None, (1, 1)
    for rows in range(1, max(1, tiles) + 1):
        for columns in range(1, max(1, tiles) // rows + 1):
            high, wide = rows * size, columns * size
            scale = min(high / height, wide / width)
            shown = min(int(height * scale) * int(width * scale), height * width)
            rank = (shown, shown - high * wide)
            if best is None or rank > best:
                best, grid = rank, (rows, columns)
    return grid


def cut(picture: UInt8[np.ndarray, "h w 3"], size: int) -> UInt8[np.ndarray, "F size size 3"]:
    """The tiles of a picture whose sides are multiples of `size`, row by row."""
    rows, columns = picture.shape[0] // size, picture.shape[1] // size
    return picture.reshape(rows, size, columns, size, 3).swapaxes(1, 2).reshape(-1, size, size, 3)
