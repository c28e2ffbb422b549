"""Mixtures: exact shares, evenness, phases and ramps, and rows numbered without a gap."""

import collections
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.core.errors import ConfigError
from mmjax.data.mixture import Mixture, Phase, Slot, Stretch, shares, spelled_out, stretches_of

NAMES = ("bind", "read", "scene")


def make(phases, batch_size=8, first_step=0, before=(0, 0, 0), sizes=(1, 1, 1), temperature=1.0):
    full = spelled_out(phases, dict.fromkeys(NAMES, 1.0))
    begin = [shares([phase.weights.get(name, 0.0) for name in NAMES], sizes, temperature) for phase in full]
    final = [
        begin[number + 1] if phase.reached == "linearly" else begin[number] for number, phase in enumerate(full[1:])
    ]
    final.append(begin[-1])
    return Mixture(stretches_of(full, begin, final, batch_size=batch_size, first_step=first_step), before)


def counted(mixture, first, count):
    found = collections.Counter(NAMES[slot.item] for slot in mixture.rows(first, count))
    return [found[name] for name in NAMES]


@pytest.mark.parametrize(
    ("weights", "temperature", "expected"),
    [
        ((0.7, 0.2, 0.1), 1.0, ("7/10", "1/5", "1/10")),
        ((3, 0, 6), 1.0, ("1/3", "0", "2/3")),
        ((16, 4, 1), 2.0, ("4/7", "2/7", "1/7")),
        ((1e-9, 1, 0), 1.0, ("1/1000000001", "1000000000/1000000001", "0")),
    ],
)
def test_shares_are_exact(weights, temperature, expected):
    assert shares(weights, (1, 1, 1), temperature) == tuple(map(Fraction, expected))


def test_sizes_weigh_too_and_temperature_evens_them_out():
    assert shares((1, 1), (900, 100), 1.0) == (Fraction(9, 10), Fraction(1, 10))
    assert shares((1, 3), (900, 100), 2.0) == pytest.approx((30 / (30 + 300**0.5), 300**0.5 / (30 + 300**0.5)))
    assert shares((1, 1), (900, 100), 1e9) == pytest.approx((0.5, 0.5))


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6).filter(any), st.integers(0, 10**6))
def test_each_is_within_a_row_of_its_share_of_its_time(weights, first):
    """Rows are what is due: of time t each item has had its share to within half a row, so that k rows are due at a t
    within half a row an item of k."""
    found = shares(weights, (1,) * len(weights), 1.0)
    mixture = Mixture([Stretch(0, found, found)], [0] * len(weights))
    for row in range(first, first + 50):
        for share, count in zip(found, mixture.before(row), strict=True):
            assert abs(count - share * row) <= Fraction(1, 2) + share * (len(weights) + 1) / 2


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5), st.integers(0, 10**5))
def test_a_pattern_repeats_exactly(counts, turn):
    """After the least common pattern every item has had just its share."""
    found = shares(counts, (1,) * len(counts), 1.0)
    mixture = Mixture([Stretch(0, found, found)], [0] * len(counts))
    assert mixture.before(sum(counts) * turn) == [count * turn for count in counts]


PHASES = st.lists(
    st.tuples(st.integers(1, 9), st.lists(st.integers(0, 4), min_size=3, max_size=3).filter(any), st.booleans()),
    min_size=1,
    max_size=4,
)


def phases_of(steps):
    phases, start = [], 0
    for length, weights, ramp in steps:
        reached = "linearly" if ramp and start else "at_once"
        phases.append(Phase(start, dict(zip(NAMES, map(float, weights), strict=True)), reached))
        start += length
    return phases, start


@given(PHASES, st.integers(1, 5))
def test_rows_of_each_data_set_are_numbered_without_a_gap(steps, batch_size):
    phases, stop = phases_of(steps)
    mixture = make(phases, batch_size)
    rows = mixture.rows(0, (stop + 10) * batch_size)
    seen = collections.Counter()
    for row, slot in enumerate(rows):
        assert mixture.before(row) == [seen[item] for item in range(3)]
        assert mixture.rows(row, 1) == [slot]
        assert slot.row == seen[slot.item]
        seen[slot.item] += 1
        number = max(number for number, phase in enumerate(phases) if phase.first_step * batch_size <= row)
        following = phases[number + 1 : number + 2]
        allowed = [phases[number], *(phase for phase in following if phase.reached == "linearly")]
        assert any(phase.weights[NAMES[slot.item]] > 0 for phase in allowed)


@given(PHASES, st.integers(0, 40))
def test_a_mixture_that_begins_later_goes_on(steps, first_step):
    """Constant weights need not be at the same place of their pattern; of each item the next row comes."""
    phases, _ = phases_of(steps)
    whole = make(phases, 4)
    before = whole.before(4 * first_step)
    later = make(phases, 4, first_step, before)
    seen = list(before)
    for slot in later.rows(4 * first_step, 40):
        assert slot.row == seen[slot.item]
        seen[slot.item] += 1
    assert max(abs(a - b) for a, b in zip(seen, whole.before(4 * first_step + 40), strict=True)) <= 8


def test_phases_change_the_shares_from_their_step_on():
    mixture = make([Phase(0, {"read": 1.0}), Phase(3, {"read": 1.0, "bind": 3.0})])
    assert [counted(mixture, step * 8, 8) for step in range(5)] == [[0, 8, 0]] * 3 + [[6, 2, 0]] * 2


def test_a_phase_without_weights_keeps_those_before():
    mixture = make([Phase(2, {"read": 1.0}), Phase(4, max_length=9), Phase(6, {"bind": 1.0})], batch_size=6)
    assert [counted(mixture, 6 * step, 6) for step in (0, 2, 4, 6)] == [[2, 2, 2], [0, 6, 0], [0, 6, 0], [6, 0, 0]]


def test_a_ramp_follows_the_line():
    """From read to bind over ten steps of 20 rows: 19 of 20 are read in the first step, 17 in the second."""
    mixture = make([Phase(0, {"read": 1.0}), Phase(10, {"bind": 1.0}, "linearly")], batch_size=20)
    found = [counted(mixture, step * 20, 20) for step in range(12)]
    assert found == [[1 + 2 * step, 19 - 2 * step, 0] for step in range(10)] + [[20, 0, 0]] * 2
    assert mixture.before(200) == [100, 100, 0]


def test_rows_far_out_are_found_at_once():
    mixture = make([Phase(0, {"read": 0.9, "bind": 0.1}), Phase(10**12, {"scene": 1.0}, "linearly")])
    assert mixture.rows(8 * 10**12 + 5, 1) == [Slot(2, 4 * 10**12 + 5)]
    assert mixture.before(8 * 10**12) == [4 * 10**11, 36 * 10**11, 4 * 10**12]


def test_the_first_row_with_enough_of_all():
    mixture = make([Phase(0, {"read": 3.0, "bind": 1.0})])
    row = mixture.first_row_with(lambda counts: counts[0] >= 25 and counts[1] >= 30)
    assert mixture.before(row)[0] == 25 > mixture.before(row - 1)[0]


@pytest.mark.parametrize(
    ("phases", "message"),
    [
        ([Phase(0, {"raed": 1.0})], "did you mean read"),
        ([Phase(0, {"read": -1.0})], "must be zero or more"),
        ([Phase(0, {"read": 0.0})], "all zero"),
        ([Phase(0, {"read": 1.0}), Phase(0, {"bind": 1.0})], "rising steps"),
        ([Phase(0, {"read": 1.0}, "linearly")], "none before it"),
    ],
)
def test_contradictions_are_named(phases, message):
    with pytest.raises(ConfigError, match=message):
        make(phases)


@pytest.mark.parametrize(
    "settings", [{"first_step": -1}, {"max_length": -1}, {"detail": 0.0}, {"detail": 1.5}, {"noise": -0.1}]
)
def test_phases_that_cannot_be_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        Phase(**{"first_step": 0} | settings)


def test_rows_before_the_first_are_refused():
    with pytest.raises(IndexError, match="row 15 is before the first, 16"):
        make([Phase(0, {"read": 1.0})], first_step=2).rows(15, 1)
