"""The order of a batch's rows: every even split among devices gets about as many images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.data.balance import even_order
from mmjax.data.packing import PackedRows
from mmjax.data.source import Lengths


def imbalance(images, devices):
    """By how much the device of the most images exceeds the mean."""
    sums = np.reshape(images, (devices, -1)).sum(axis=1)
    return sums.max() / sums.mean() - 1


@given(st.lists(st.integers(0, 40), min_size=1, max_size=100))
def test_it_is_an_order(images):
    order = even_order(images)
    assert sorted(order) == list(range(len(images)))
    assert order == even_order(tuple(images))


@pytest.mark.parametrize(
    ("images", "order"),
    [
        ([6, 1, 2, 5], [0, 1, 3, 2]),
        ([3, 3, 3], [0, 1, 2]),
        ([1, 2, 3, 4, 5, 6], [4, 3, 1, 5, 2, 0]),  # two blocks of three: 5 4 2 and 6 3 1
        ([0, 9], [1, 0]),
    ],
)
def test_small_batches_by_hand(images, order):
    assert even_order(images) == order


@given(st.lists(st.integers(1, 6), min_size=64, max_size=64))
def test_halves_differ_by_less_than_their_largest_row(images):
    ordered = [images[row] for row in even_order(images)]
    assert abs(sum(ordered[:32]) - sum(ordered[32:])) <= 6


@pytest.mark.parametrize("rows", [256, 192])
def test_pages_of_one_to_six_images_are_even_to_a_twentieth(rows):
    """Packed pages on 2 to 64 devices (of at least four rows each)."""
    random = np.random.default_rng(0)
    count = 12_000
    tokens = np.exp(random.uniform(np.log(10), np.log(2000), count)).astype(np.int32)
    lengths = Lengths(tokens, random.integers(1, 7, count).astype(np.int32))
    packed = PackedRows(lengths, name="d", seed=0, length=2048, images=32, window=1024)
    per_row = packed.find(np.arange(packed.rows // rows * rows)).images
    batches = per_row.reshape(-1, rows).tolist()
    assert len(batches) >= 8
    for devices in (2, 4, 8, 16, 32, 64)[: 5 + (rows == 256)]:
        before = [imbalance(images, devices) for images in batches]
        after = [imbalance([images[row] for row in even_order(images)], devices) for images in batches]
        assert max(after) <= 0.05
        assert np.mean(after) < np.mean(before) / 2
