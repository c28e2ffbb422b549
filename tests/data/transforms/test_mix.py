"""Mixup and CutMix: what becomes of pictures and labels."""

import numpy as np
import pytest
from scipy import stats

from mmjax.core.errors import InputError
from mmjax.data.keyed import Dice, fold
from mmjax.data.transforms.mix import cutmix, mixup, soft_labels

LABELS = soft_labels(np.array([0, 1, 2, 3]), 4)


def flat():
    """Pictures of one level each."""
    levels = np.array([0, 60, 120, 240], np.uint8)
    return np.zeros((4, 8, 10, 3), np.uint8) + levels[:, None, None, None]


def test_soft_labels():
    assert np.array_equal(LABELS, np.eye(4, dtype=np.float32))
    smooth = soft_labels(np.array([2]), 5, smoothing=0.1)
    assert np.allclose(smooth, [[0.02, 0.02, 0.92, 0.02, 0.02]])


def test_mixup_mixes_labels_as_it_mixes_pixels():
    levels = flat()[:, 0, 0, 0].astype(float)
    for key in range(50):
        mixed, labels = mixup(flat(), LABELS, Dice(fold(1, key)), alpha=0.4)
        assert mixed.dtype == np.uint8
        assert np.allclose(labels.sum(axis=1), 1, atol=1e-6)
        assert np.allclose(mixed[:, 0, 0, 0], labels @ levels, atol=0.51)
        assert (mixed == mixed[:, :1, :1, :1]).all()


def test_mixup_shares_follow_the_beta_distribution():
    two = np.array([[[[0, 0, 0]]], [[[200, 200, 200]]]], np.uint8)
    shares = []
    for key in range(1500):
        _, labels = mixup(two, soft_labels(np.array([0, 1]), 2), Dice(fold(2, key)), alpha=0.5)
        if labels[0, 0] != 1:  # mixed with the other one
            shares.append(labels[0, 0])
    assert len(shares) > 600
    assert stats.kstest(shares, stats.beta(0.5, 0.5).cdf).pvalue > 0.001


def test_cutmix_takes_a_rectangle_and_that_much_of_the_label():
    levels = flat()[:, 0, 0, 0]
    sizes = set()
    for key in range(100):
        mixed, labels = cutmix(flat(), LABELS, Dice(fold(3, key)))
        assert np.allclose(labels.sum(axis=1), 1, atol=1e-6)
        for row in range(4):
            for other in range(4):
                share = (mixed[row, ..., 0] == levels[other]).mean()
                assert abs(share - labels[row, other]) < 1e-6
            foreign = mixed[row, ..., 0] != levels[row]
            assert foreign.sum() == foreign.any(axis=0).sum() * foreign.any(axis=1).sum()
            sizes.add(int(foreign.sum()))
    assert len(sizes) > 15


def test_arguments_stay_as_they_are_and_keys_repeat():
    images = flat()
    first, second = mixup(images, LABELS, Dice(7)), mixup(images, LABELS, Dice(7))
    assert all(map(np.array_equal, first, second))
    cutmix(images, LABELS, Dice(7))
    assert np.array_equal(images, flat())
    with pytest.raises(InputError, match="alpha must be above 0"):
        mixup(images, LABELS, Dice(0), alpha=0.0)
