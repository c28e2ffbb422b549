"""Patches of pictures of any size in one row: the drawn grids, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.models.encoders.patch_grids import frame_segments, patch_positions, window_segments


def drawn(grid, values, merge=2):
    """Values of one picture's patches as a picture."""
    picture = np.empty(grid[1:], int)
    picture[tuple(patch_positions(np.array([grid]), merge).T)] = values
    return picture.tolist()


def test_order_and_windows_are_as_drawn():
    assert drawn((1, 2, 4), np.arange(8)) == [[0, 1, 4, 5], [2, 3, 6, 7]]
    windows = window_segments(np.array([[1, 4, 6]]), 2, 2)
    assert drawn((1, 4, 6), windows) == [[1, 1, 2, 2, 3, 3]] * 2 + [[4, 4, 5, 5, 6, 6]] * 2
    cut_off = window_segments(np.array([[1, 6, 6]]), 2, 4)
    assert drawn((1, 6, 6), cut_off) == [[1, 1, 1, 1, 2, 2]] * 4 + [[3, 3, 3, 3, 4, 4]] * 2


def test_every_picture_and_frame_has_windows_of_its_own():
    grids = np.array([[1, 2, 2], [3, 2, 4], [1, 4, 2]])
    frames, windows = frame_segments(grids), window_segments(grids, 2, 2)
    assert np.bincount(frames).tolist() == [0, 4, 8, 8, 8, 8]
    assert np.bincount(windows).tolist() == [0] + [4] * 9
    assert all(len(set(frames[windows == window])) == 1 for window in range(1, 10))


@pytest.mark.parametrize(
    ("grids", "message"),
    [([[1, 2, 3]], "sides that divide by 2"), ([[0, 2, 2]], "at least one frame"), ([1, 2, 2], r"must be \[N,3\]")],
)
def test_refuses(grids, message):
    with pytest.raises(InputError, match=message):
        window_segments(np.array(grids), 2, 4)
