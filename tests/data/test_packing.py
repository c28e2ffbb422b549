"""Packing keeps its bounds, loses and doubles nothing, and fills rows well."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.core.errors import InputError
from mmjax.data.packing import PackedRows, best_fit_decreasing
from mmjax.data.source import Lengths

LENGTH, IMAGES = 100, 8
sizes = st.lists(st.tuples(st.integers(1, LENGTH), st.integers(0, IMAGES)), min_size=1, max_size=120)


def make_lengths(pairs):
    tokens, images = np.array(pairs, np.int32).T
    return Lengths(tokens, images)


def packed(lengths, **changes):
    settings = {"name": "d", "seed": 0, "length": LENGTH, "images": IMAGES, "window": 50} | changes
    return PackedRows(lengths, **settings)


@given(sizes)
def test_rows_keep_their_bounds_and_hold_every_example_once(pairs):
    lengths = make_lengths(pairs)
    rows = best_fit_decreasing(np.arange(len(pairs)), lengths, LENGTH, IMAGES)
    assert sorted(index for row in rows for index in row) == list(range(len(pairs)))
    for row in rows:
        assert lengths.tokens[row].sum() <= LENGTH
        assert lengths.images[row].sum() <= IMAGES


@given(st.lists(st.integers(1, LENGTH), min_size=1, max_size=60))
def test_best_fit_decreasing_does_what_its_name_says(tokens):
    """Against the plain algorithm: every example in turn, into the fullest row that still has room."""
    lengths = make_lengths([(count, 0) for count in tokens])
    rows = best_fit_decreasing(np.arange(len(tokens)), lengths, LENGTH, IMAGES)
    used = []
    for count in sorted(tokens, reverse=True):
        room = [row for row in range(len(used)) if used[row] + count <= LENGTH]
        if room:
            used[max(room, key=lambda row: used[row])] += count
        else:
            used.append(count)
    assert sorted(sum(tokens[index] for index in row) for row in rows) == sorted(used)


@given(sizes, st.integers(0, 3))
def test_an_epoch_holds_every_example_once_in_an_order_of_its_own(pairs, seed):
    rows = packed(make_lengths(pairs), seed=seed)
    for epoch in range(3):
        read = [rows[epoch * rows.rows + place] for place in range(rows.rows)]
        assert {number for number, _ in read} == {epoch}
        assert sorted(index for _, row in read for index in row) == list(range(len(pairs)))


def test_epochs_share_their_rows_and_differ_in_order():
    random = np.random.default_rng(0)
    rows = packed(make_lengths(list(zip(random.integers(5, 60, 500), random.integers(1, 4, 500), strict=True))))
    first, second = ([tuple(rows[epoch * rows.rows + place][1]) for place in range(rows.rows)] for epoch in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)


def test_rows_mix_the_data_set_and_depend_on_the_seed():
    lengths = make_lengths([(25, 1)] * 400)
    first = [packed(lengths, seed=0)[place][1] for place in range(100)]
    assert np.mean([max(row) - min(row) for row in first]) > 100
    assert first != [packed(lengths, seed=1)[place][1] for place in range(100)]


def test_rows_are_full():
    random = np.random.default_rng(0)
    lengths = make_lengths([(int(count), 1) for count in random.integers(5, 50, 4000)])
    rows = packed(lengths, window=1000)
    assert lengths.tokens.sum() / (rows.rows * LENGTH) > 0.97


def test_without_packing_each_example_is_a_row():
    rows = packed(make_lengths([(5, 1)] * 30), pack=False)
    assert rows.rows == 30
    assert sorted(rows[place][1][0] for place in range(30)) == list(range(30))


@pytest.mark.parametrize("pack", [True, False])
def test_what_fits_no_row_is_left_out_and_counted(pack):
    rows = packed(make_lengths([(5, 1), (LENGTH + 1, 1), (5, IMAGES + 1), (LENGTH, IMAGES)]), pack=pack)
    assert rows.too_long.tolist() == [1, 2]
    assert sorted(index for place in range(rows.rows) for index in rows[place][1]) == [0, 3]


def test_rows_too_short_for_everything_are_refused():
    with pytest.raises(InputError, match=r"no example of d fits a row of 100 tokens.*shortest has 101"):
        packed(make_lengths([(101, 1), (102, 1)]))
