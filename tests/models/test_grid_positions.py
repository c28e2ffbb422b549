"""Positions along three axes: the drawn example, several pictures and videos, and what does not fit."""

from __future__ import annotations

import numpy as np
import pytest

from mmjax.core.errors import InputError
from mmjax.models.grid_positions import IMAGE, TEXT, VIDEO, grid_positions

PICTURE = np.array([[1, 4, 6]])


def test_text_and_picture_are_as_drawn():
    kinds = np.array([[TEXT, *[IMAGE] * 6, TEXT]])
    found = grid_positions(kinds, {IMAGE: PICTURE}, merge=2)
    assert found[0].T.tolist() == [[0, 1, 1, 1, 1, 1, 1, 4], [0, 1, 1, 1, 2, 2, 2, 4], [0, 1, 2, 3, 1, 2, 3, 4]]


def test_padding_is_left_out_and_rows_go_on_in_the_list_of_grids():
    kinds = np.array([[TEXT, TEXT, IMAGE, TEXT], [IMAGE, IMAGE, TEXT, TEXT]])
    present = np.array([[0, 1, 1, 1], [1, 1, 1, 0]])
    grids = np.array([[1, 2, 2], [1, 2, 2], [1, 2, 2]])
    found = grid_positions(kinds, {IMAGE: grids}, merge=2, present=present)
    assert found[:, :, 0].tolist() == [[0, 0, 1, 2], [0, 1, 2, 0]]
    assert (found[..., 0] == found[..., 1]).all() and (found[..., 0] == found[..., 2]).all()


def test_frames_of_a_video_are_as_far_apart_as_their_seconds():
    kinds = np.array([[TEXT, *[VIDEO] * 6, TEXT]])
    found = grid_positions(kinds, {VIDEO: np.array([[3, 2, 4]])}, merge=2, tokens_per_second=4, seconds=[0.6])
    assert found[0, :, 0].tolist() == [0, 1, 1, 3, 3, 5, 5, 3]  # 1 + floor of 0, 2.4, 4.8; then behind two columns
    assert found[0, :, 1].tolist() == [0, 1, 1, 1, 1, 1, 1, 3]


@pytest.mark.parametrize(
    ("kinds", "more", "message"),
    [
        ([TEXT, *[IMAGE] * 5, TEXT], {}, "needs 6 image tokens in a row"),
        ([*[IMAGE] * 7], {}, "more image tokens than there are grids"),
        ([TEXT, VIDEO], {}, "more video tokens than there are grids"),
        ([TEXT], {}, "1 of the image grids have no tokens"),
        ([*[IMAGE] * 6], {"seconds": [1.0]}, "each of the 0 videos"),
    ],
)
def test_refuses(kinds, more, message):
    with pytest.raises(InputError, match=message):
        grid_positions(np.array([kinds]), {IMAGE: PICTURE}, merge=2, **more)
