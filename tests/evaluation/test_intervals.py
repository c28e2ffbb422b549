"""Intervals against scipy, and that they hold what they promise."""

import numpy as np
import pytest
import scipy.stats

from mmjax.evaluation.intervals import bootstrap, interval, wilson


@pytest.mark.parametrize("successes, trials", [(0, 1), (1, 1), (0, 30), (30, 30), (7, 20), (353, 359), (1, 1000)])
def test_wilson_is_that_of_scipy(successes, trials):
    expected = scipy.stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    found = wilson(successes, trials)
    assert found.score == successes / trials
    np.testing.assert_allclose((found.low, found.high), (expected.low, expected.high), atol=1e-12)


def test_bootstrap_of_one_seed_is_that_of_scipy():
    values = np.random.default_rng(0).random((1, 200)) < 0.8
    expected = scipy.stats.bootstrap(
        (values[0],), np.mean, n_resamples=9999, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    found = bootstrap(values, resamples=9999)
    assert found.score == values.mean()
    np.testing.assert_allclose((found.low, found.high), (expected.low, expected.high), atol=0.006)


def test_answers_that_go_together_are_not_counted_twice():
    row = np.random.default_rng(0).random((1, 300)) < 0.7
    alone, thrice = bootstrap(row), bootstrap(np.repeat(row, 3, axis=0))
    np.testing.assert_allclose(thrice, alone, atol=0.01)
    spread = bootstrap(np.random.default_rng(0).random((3, 300)) < 0.7)
    assert 0.5 < (spread.high - spread.low) / (alone.high - alone.low) < 0.66  # one over the root of three


def test_the_bootstrap_interval_holds_the_truth():
    random = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        chances = random.choice([0.4, 0.9], p=(0.4, 0.6), size=(1, 150))  # some queries are harder than others
        found = bootstrap(random.random((3, 150)) < chances, resamples=400, seed=trial)
        inside += found.low <= 0.7 <= found.high
    assert 180 <= inside <= 198


def test_the_same_values_have_the_same_interval():
    values = np.random.default_rng(3).random((3, 50)) < 0.5
    assert interval(values) == interval(values)


def test_an_interval_has_width_even_where_all_are_right():
    one = np.ones((1, 100))
    assert interval(one) == wilson(100, 100)
    found = interval(np.ones((3, 100)))
    assert (found.score, found.high) == (1.0, 1.0) and 0.98 < found.low < 0.99
    almost = np.ones((3, 100))
    almost[0, 0] = 0
    assert interval(almost).low <= wilson(299, 300).low and interval(almost).high > almost.mean()
