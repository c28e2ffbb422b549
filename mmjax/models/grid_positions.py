"""Positions of text and pictures in one sequence along three axes: time, row, column (Qwen2-VL; Wang et al. 2024)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.errors import InputError
from mmjax.models.encoders.patch_grids import check_grids

TEXT, IMAGE, VIDEO = 0, 1, 2
_NAMES = {IMAGE: "image", VIDEO: "video"}


def grid_positions(
    kinds: Int[np.ndarray, "B T"],
    grids: dict[Literal[1, 2], Int[np.ndarray, "N 3"]],
    *,
    merge: int,
    present: Int[np.ndarray, "B T"] | None = None,
    tokens_per_second: float = 1,
    seconds: Sequence[float] | None = None,
) -> Int[np.ndarray, "B T 3"]:
    """Where every token is turned to by rotary embeddings with three sections.

    Text counts along all axes alike. A picture of 2 rows and 3 columns of tokens between two tokens of text:

        text   picture              text
        time    0  1  1  1  1  1  1   4
        row     0  1  1  1  2  2  2   4
        column  0  1  2  3  1  2  3   4

    What follows a picture or a video goes on behind the longer side of its frames. That is behind all of its positions
    unless the frames of a video are far apart in time; the reference (transformers 5) leaves no room for these.

    Args:
      kinds: TEXT, or what a token stands for: IMAGE or VIDEO.
      grids: of all pictures and of all videos of the batch in order, as (frames, rows, columns) in patches.
      merge: patches along a side of the square that is one token.
      present: 0 for padding, which has position 0.
      tokens_per_second, seconds: positions that a second of video takes, and the seconds between frames of each video
        (1 where they are not given).

    Raises:
      InputError: the tokens and the grids do not fit each other.
    """
    kinds = np.asarray(kinds)
    there = np.ones_like(kinds) if present is None else np.asarray(present)
    for own in grids.values():
        check_grids(own, merge)
    videos = len(grids.get(VIDEO, ()))
    seconds = np.ones(videos, np.float32) if seconds is None else np.asarray(seconds, np.float32)
    if len(seconds) != videos:
        raise InputError(f"seconds must be one number for each of the {videos} videos, not {len(seconds)}")
    steps = {IMAGE: iter([1] * len(grids.get(IMAGE, ()))), VIDEO: iter(np.float32(tokens_per_second) * seconds)}
    waiting = {kind: zip(np.asarray(own).tolist(), steps[kind], strict=True) for kind, own in grids.items()}
    positions = np.zeros((*kinds.shape, 3), np.int32)
    for row, mask in enumerate(there.astype(bool)):
        positions[row, mask] = _row(kinds[row, mask], waiting, merge)
    for kind, left in waiting.items():
        over = len(list(left))
        if over:
            raise InputError(f"{over} of the {_NAMES[kind]} grids have no tokens in the text")
    return positions


def _row(kinds: np.ndarray, waiting: dict[int, Iterator], merge: int) -> np.ndarray:
    """Positions of one row without its padding; takes the grids that it uses from those that are `waiting`."""
    positions = np.zeros((len(kinds), 3), np.int32)
    place = start = 0
    while place < len(kinds):
        kind = int(kinds[place])
        if kind == TEXT:
            positions[place] = start
            place, start = place + 1, start + 1
            continue
        grid, step = next(waiting.get(kind, iter(())), (None, None))
        if grid is None:
            raise InputError(f"the text has more {_NAMES.get(kind, kind)} tokens than there are grids for")
        frames, rows, columns = grid[0], grid[1] // merge, grid[2] // merge
        stop = place + frames * rows * columns
        if stop > len(kinds) or (kinds[place:stop] != kind).any():
            raise InputError(
                f"a grid of {grid} patches (frames, rows, columns) needs {stop - place} {_NAMES[kind]} tokens in a "
                "row; the text has fewer there"
            )
        cells = np.indices((frames, rows, columns)).reshape(3, -1).T
        cells[:, 0] = np.floor(cells[:, 0].astype(np.float32) * step)
        positions[place:stop] = start + cells
        place, start = stop, start + max(rows, columns)
    return positions
