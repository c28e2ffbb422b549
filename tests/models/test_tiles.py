"""Which vectors of a picture's tiles stand in the text, and in which order."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mmjax.core.errors import ConfigError
from mmjax.models.connectors.tiles import NEWLINE, TilesConfig, best_resolution, tile_count, tile_order, unpadded

RESOLUTIONS = ((28, 56), (56, 28), (56, 56), (84, 28), (28, 84))
TILE = 28


def test_the_grid_of_the_docstring():
    (order,) = tile_order([(14, 28)], [(14, 28)], tile=14, side=2)
    assert order.tolist() == [0, 1, 2, 3, 4, 5, 8, 9, NEWLINE, 6, 7, 10, 11, NEWLINE]
    assert order.dtype == np.int32


def test_padding_is_cut_and_pictures_follow_one_another():
    """A picture half as high as its resolution: of four rows the outer two are padding."""
    first, second = tile_order([(7, 28), (28, 14)], [(14, 28), (28, 14)], tile=14, side=4)
    assert first[:16].tolist() == list(range(16))
    assert first[16:].reshape(2, 9).tolist() == [
        [20, 21, 22, 23, 36, 37, 38, 39, NEWLINE],
        [24, 25, 26, 27, 40, 41, 42, 43, NEWLINE],
    ]
    assert second.tolist() == [
        *range(48, 64),
        *(number for row in range(8) for number in [*range(64 + 4 * row, 68 + 4 * row), NEWLINE]),
    ]


@pytest.mark.parametrize("side", [1, 2, 5])
def test_what_any_picture_has(side):
    generator = np.random.default_rng(0)
    for size in np.exp(generator.uniform(1, 7, (300, 2))).astype(int).tolist():
        resolution = best_resolution(size, RESOLUTIONS)
        tiles = tile_count(size, RESOLUTIONS, TILE)
        assert tiles == 1 + math.prod(edge // TILE for edge in resolution)
        grid = tuple(edge // TILE * side for edge in resolution)
        covered = [min(edge, size[i] * grid[1 - i] / size[1 - i]) for i, edge in enumerate(grid)]
        for edge, inside, kept in zip(grid, covered, unpadded(size, grid), strict=True):
            # The picture lies in the middle: less than half a vector of it is cut off, and at most one of padding left.
            assert kept.stop == edge - kept.start
            assert -0.5 < (edge - inside) / 2 - kept.start <= 1
        (order,) = tile_order([size], RESOLUTIONS, tile=TILE, side=side)
        height, width = (kept.stop - kept.start for kept in unpadded(size, grid))
        assert len(order) == side**2 + height * (width + 1)
        assert np.sum(order == NEWLINE) == height
        vectors = order[order != NEWLINE]
        assert len(set(vectors.tolist())) == len(vectors)
        assert vectors.max() < tiles * side**2


def test_the_resolution_that_keeps_the_most_and_wastes_the_fewest():
    assert best_resolution((100, 100), RESOLUTIONS) == (56, 56)
    assert best_resolution((10, 300), RESOLUTIONS) == (28, 84)
    assert best_resolution((20, 20), RESOLUTIONS) == (28, 56)  # nothing is lost anywhere; the first of the smallest
    assert best_resolution((80, 28), RESOLUTIONS) == (84, 28)


@pytest.mark.parametrize("resolutions", [(), ((28, 0),)])
def test_resolutions_that_are_none(resolutions):
    with pytest.raises(ConfigError, match="one or more"):
        TilesConfig(resolutions)
