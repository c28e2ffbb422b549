"""Learned positions brought to the size of every picture in a batch: as torch's bilinear method with antialiasing."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.models.encoders.positions import bilinear_positions

SIZES = [(4, 4), (1, 1), (2, 9), (7, 3), (9, 8), (3, 4)]


def tables(side):
    return np.random.default_rng(side).normal(size=(side * side, 5)).astype(np.float32)


def present(sizes, rows, columns):
    grid = np.zeros((len(sizes), rows, columns), bool)
    for picture, (height, width) in enumerate(sizes):
        grid[picture, :height, :width] = True
    return grid


@pytest.mark.parametrize("side", [1, 4, 16])
def test_equals_torch(side, torch):
    """Smaller and larger pictures than the table is for, each with padding; the padding has the first position."""
    table, grid = tables(side), present(SIZES, 10, 9)
    found = np.asarray(bilinear_positions(jnp.asarray(table), jnp.asarray(grid))).reshape(len(SIZES), 10, 9, 5)
    channels = torch.tensor(table).reshape(1, side, side, 5).permute(0, 3, 1, 2)
    for ours, own, size in zip(found, grid, SIZES, strict=True):
        theirs = torch.nn.functional.interpolate(
            channels, size=size, mode="bilinear", align_corners=False, antialias=True
        )
        theirs = theirs[0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(ours[: size[0], : size[1]], theirs, atol=2e-6)
        assert (ours[~own] == ours[0, 0]).all()


def test_own_grid_is_untouched():
    table = tables(4)
    found = bilinear_positions(jnp.asarray(table), jnp.ones((1, 4, 4), bool))
    assert np.array_equal(found[0], table)


def test_half_the_size_by_hand():
    """At half the size a triangle reaches over four places: 1/8, 3/8, 3/8, 1/8; at the edge over three, normalised."""
    table = np.broadcast_to(np.eye(8, dtype=np.float32)[:, None], (8, 8, 8)).reshape(64, 8)
    found = np.asarray(bilinear_positions(jnp.asarray(table), jnp.ones((1, 4, 1), bool)))[0]
    expected = np.zeros((4, 8))
    expected[0, :3] = np.array([3, 3, 1]) / 7
    expected[1, 1:5] = expected[2, 3:7] = np.array([1, 3, 3, 1]) / 8
    expected[3, 5:] = np.array([1, 3, 3]) / 7
    np.testing.assert_allclose(found, expected, atol=1e-6)
