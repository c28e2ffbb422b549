"""Pictures and videos of any size as one row of patches: where each patch lies, and which patches belong together.

The row holds one picture or frame after the other, each of them square by square of merge x merge patches, so that the
patches that are joined later stand together. A grid is (frames, rows, columns) in patches.
"""

from __future__ import annotations

import math

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.errors import InputError


def check_grids(grids: Int[np.ndarray, "N 3"], merge: int) -> None:
    """Refuses what are not grids whose sides divide by `merge`.

    Raises:
      InputError: names the first such grid.
    """
    grids = np.asarray(grids)
    if grids.ndim != 2 or grids.shape[1] != 3:
        raise InputError(f"grids must be [N,3] (frames, rows and columns of patches), not {list(grids.shape)}")
    for grid in grids.tolist():
        if min(grid) < 1 or grid[1] % merge or grid[2] % merge:
            raise InputError(
                f"a grid of {grid} (frames, rows, columns of patches) must have at least one frame, and sides that "
                f"divide by {merge}; resize the picture"
            )


def patch_positions(grids: Int[np.ndarray, "N 3"], merge: int) -> Int[np.ndarray, "S 2"]:
    """Row and column of every patch in its own picture or frame.

    A grid of 1 frame, 2 rows and 4 columns, where 2x2 patches are merged, is this order of patches:

        0 1 4 5
        2 3 6 7

    Raises:
      InputError: as `check_grids`.
    """
    check_grids(grids, merge)
    places = []
    for frames, rows, columns in np.asarray(grids).tolist():
        cells = np.indices((rows, columns)).reshape(2, rows // merge, merge, columns // merge, merge)
        places.append(np.tile(cells.transpose(1, 3, 2, 4, 0).reshape(-1, 2), (frames, 1)))
    return np.concatenate(places).astype(np.int32)


def frame_segments(grids: Int[np.ndarray, "N 3"]) -> Int[np.ndarray, "S"]:
    """The number of each patch's picture, or frame of a video, counted from 1."""
    frames, rows, columns = np.asarray(grids).T
    sizes = np.repeat(rows * columns, frames)
    return np.repeat(np.arange(1, len(sizes) + 1), sizes).astype(np.int32)


def window_segments(grids: Int[np.ndarray, "N 3"], merge: int, window: int) -> Int[np.ndarray, "S"]:
    """The number of each patch's window, counted from 1 over all pictures, frame by frame and row by row.

    Windows are squares of `window` patches a side, cut off at the right and the bottom edge; a window of 2 in a picture
    of 4x6 patches:

        1 1 2 2 3 3
        1 1 2 2 3 3
        4 4 5 5 6 6
        4 4 5 5 6 6

    Raises:
      InputError: as `check_grids`.
    """
    places = patch_positions(grids, merge)
    frames = frame_segments(grids)
    numbers, first, start = np.empty_like(frames), 1, 0
    for count, rows, columns in np.asarray(grids).tolist():
        high, wide = math.ceil(rows / window), math.ceil(columns / window)
        own = slice(start, start + count * rows * columns)
        row, column = (places[own] // window).T
        numbers[own] = first + (frames[own] - frames[start]) * high * wide + row * wide + column
        first, start = first + count * high * wide, own.stop
    return numbers
