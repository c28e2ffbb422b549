"""Scores from features: against closed forms, and against the formula with a matrix root."""

import numpy as np
import pytest
import scipy.linalg

from mmjax.core.errors import InputError
from mmjax.evaluation.metrics import features

RANDOM = np.random.default_rng(0)


def test_frechet_distance_is_the_formula():
    first, second = RANDOM.normal(size=(200, 6)), 0.5 + RANDOM.normal(size=(150, 6)) @ RANDOM.normal(size=(6, 6))
    one, two = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + np.trace(one + two - 2 * scipy.linalg.sqrtm(one @ two).real)
    assert features.frechet_distance(first, second) == pytest.approx(expected)
    assert features.frechet_distance(first, first) == pytest.approx(0, abs=1e-9)
    assert features.frechet_distance(first, first + 2) == pytest.approx(6 * 4)


def test_frechet_distance_of_fewer_pictures_than_features_is_real():
    few = RANDOM.normal(size=(5, 40)).astype(np.float32)
    assert features.frechet_distance(few, 3 * few) > 0
    with pytest.raises(InputError, match="two sets of at least two features"):
        features.frechet_distance(few[:1], few)


def test_clip_score_by_hand():
    images, texts = np.array([[1.0, 0], [0, 2], [1, 0]]), np.array([[3.0, 4], [0, 1], [-1, 0]])
    assert features.clip_score(images, texts) == pytest.approx(2.5 * (0.6 + 1 + 0) / 3)
    references = [np.array([[3.0, 4], [1, 0]]), np.array([[1.0, 0]]), np.array([[-1.0, 0]])]
    # Harmonic means of 2.5 x cosine with the picture and the best cosine with a reference.
    expected = (2 * 1.5 * 1 / 2.5 + 0 + 0) / 3
    assert features.ref_clip_score(images, texts, references) == pytest.approx(expected)


@pytest.mark.parametrize(("texts", "message"), [(np.eye(2), "one shape"), (np.zeros((3, 2)), "3 pairs of features")])
def test_features_that_have_no_cosine(texts, message):
    with pytest.raises(InputError, match=message):
        features.clip_score(np.ones((3, 2)), texts)
