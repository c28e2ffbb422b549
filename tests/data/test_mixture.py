"""Mixtures: shares, evenness, phases, and rows numbered without a gap."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.core.errors import ConfigError
from mmjax.data.mixture import MAX_PATTERN, Mixture, Phase, pattern_counts, smooth_round_robin

NAMES = ("bind", "read", "scene")


@pytest.mark.parametrize(
    ("weights", "counts"),
    [((1, 1), [1, 1]), ((0.7, 0.2, 0.1), [7, 2, 1]), ((1 / 3, 2 / 3), [1, 2]), ((5, 0, 5), [1, 0, 1]), ((3,), [1])],
)
def test_weights_become_the_shortest_exact_pattern(weights, counts):
    assert pattern_counts(weights) == counts


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6))
def test_shares_are_within_half_a_thousandth(weights):
    counts = pattern_counts(weights)
    assert sum(counts) <= MAX_PATTERN
    assert all(counts)
    for weight, count in zip(weights, counts, strict=True):
        assert abs(weight / sum(weights) - count / sum(counts)) < 0.001


def test_a_weight_below_the_pattern_is_refused():
    with pytest.raises(ConfigError, match="at least 1/1000"):
        pattern_counts([1.0, 1e-5])


@given(st.lists(st.integers(0, 7), min_size=1, max_size=5).filter(any))
def test_the_round_robin_is_even_everywhere(counts):
    """After any number of rows, no data set is more than one row and a bit from its share."""
    order = smooth_round_robin(counts)
    assert [order.count(item) for item in range(len(counts))] == list(counts)
    for stop in range(len(order) + 1):
        for item, count in enumerate(counts):
            assert abs(order[:stop].count(item) - stop * count / sum(counts)) < len(counts)


PHASES = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any)),
    min_size=1,
    max_size=4,
)


@given(PHASES, st.integers(1, 5))
def test_rows_of_each_data_set_are_numbered_without_a_gap(steps, batch_size):
    phases, start = [], 0
    for length, weights in steps:
        phases.append(Phase(start, dict(zip(NAMES, weights, strict=True))))
        start += length
    mixture = Mixture(NAMES, phases, batch_size=batch_size)
    seen = collections.Counter()
    for row in range((start + 10) * batch_size):
        dataset, number = mixture[row]
        assert number == seen[dataset]
        seen[dataset] += 1
        current = [phase for phase in phases if phase.first_step * batch_size <= row][-1]
        assert current.weights[NAMES[dataset]] > 0


def test_phases_change_the_shares_from_their_step_on():
    mixture = Mixture(NAMES, [Phase(0, {"read": 1.0}), Phase(3, {"read": 1.0, "bind": 3.0})], batch_size=8)
    drawn = [[NAMES[mixture[step * 8 + place].dataset] for place in range(8)] for step in range(6)]
    assert all(set(rows) == {"read"} for rows in drawn[:3])
    assert all(sorted(rows) == ["bind"] * 6 + ["read"] * 2 for rows in drawn[3:])


def test_rows_far_out_are_found_at_once():
    mixture = Mixture(NAMES, [Phase(0, {"read": 0.9, "bind": 0.1})], batch_size=8)
    assert mixture[10**15].row in (10**14, 9 * 10**14)


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([Phase(5, {"read": 1.0})], "must start at step 0"),
        ([Phase(0, {"raed": 1.0})], "did you mean read"),
        ([Phase(0, {"read": -1.0})], "must be zero or more"),
        ([Phase(0, {"read": 0.0})], "all zero"),
        ([Phase(0, {"read": 1.0}), Phase(0, {"bind": 1.0})], "rising steps"),
    ],
)
def test_contradictions_are_named(phases, message):
    with pytest.raises(ConfigError, match=message):
        Mixture(NAMES, phases, batch_size=8)
