"""Packing keeps its bounds, loses and doubles nothing, and fills rows well."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.core.errors import InputError
from mmjax.data import packing
from mmjax.data.packing import PackedRows, best_fit_decreasing, pack_window
from mmjax.data.source import Lengths

LENGTH, IMAGES = 100, 8
sizes = st.lists(st.tuples(st.integers(1, LENGTH), st.integers(0, IMAGES)), min_size=1, max_size=120)


def make_lengths(pairs):
    tokens, images = np.array(pairs, np.int32).T
    return Lengths(tokens, images)


def packed(lengths, **changes):
    settings = {"name": "d", "seed": 0, "length": LENGTH, "images": IMAGES, "window": 50} | changes
    return PackedRows(lengths, **settings)


@pytest.mark.parametrize("pack", [best_fit_decreasing, pack_window])
@given(pairs=sizes)
def test_rows_keep_their_bounds_and_hold_every_example_once(pack, pairs):
    lengths = make_lengths(pairs)
    rows = pack(np.arange(len(pairs)), lengths, LENGTH, IMAGES)
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
    lengths = make_lengths(pairs)
    rows = packed(lengths, seed=seed)
    for epoch in range(3):
        read = [rows[epoch * rows.rows + place] for place in range(rows.rows)]
        assert {row.epoch for row in read} == {epoch}
        assert sorted(index for row in read for index in row.indices) == list(range(len(pairs)))
        numbers = np.arange(epoch * rows.rows // 2, (epoch + 1) * rows.rows)
        images = [lengths.images[rows[number].indices].sum() for number in numbers.tolist()]
        assert rows.find(numbers).images.tolist() == images


def test_epochs_share_their_rows_and_differ_in_order():
    random = np.random.default_rng(0)
    rows = packed(make_lengths(list(zip(random.integers(5, 60, 500), random.integers(1, 4, 500), strict=True))))
    first, second = ([tuple(rows[epoch * rows.rows + place].indices) for place in range(rows.rows)] for epoch in (0, 1))
    assert first != second
    assert sorted(first) == sorted(second)


def test_rows_mix_the_data_set_and_depend_on_the_seed():
    lengths = make_lengths([(25, 1)] * 400)
    one, other = packed(lengths, seed=0), packed(lengths, seed=1)
    first = [one[place].indices for place in range(100)]
    assert np.mean([max(row) - min(row) for row in first]) > 100
    assert first != [other[place].indices for place in range(100)]


@given(sizes)
def test_a_window_takes_no_more_rows_than_best_fit(pairs):
    lengths, every = make_lengths(pairs), np.arange(len(pairs))
    assert len(pack_window(every, lengths, LENGTH, IMAGES)) <= len(best_fit_decreasing(every, lengths, LENGTH, IMAGES))


@pytest.mark.parametrize(
    ("images", "bound"),
    [
        ("1 to 6 of any length", 24),
        ("one in 300 tokens", 16),
        ("one each", 16),
        ("one each", 8),
        ("none", 8),
    ],
)
def test_examples_of_10_to_2000_tokens_fill_their_rows(images, bound):
    """At least 95% of the places are used, also where short examples alone would have too many images for a row."""
    random = np.random.default_rng(0)
    tokens = np.exp(random.uniform(np.log(10), np.log(2000), 6 * 1024)).astype(np.int32)
    media = {
        "1 to 6 of any length": random.integers(1, 7, len(tokens)),
        "one in 300 tokens": np.clip(-(-tokens // 300), 1, 6),
        "one each": np.ones(len(tokens)),
        "none": np.zeros(len(tokens)),
    }[images].astype(np.int32)
    rows = packed(Lengths(tokens, media), length=2048, images=bound, window=1024)
    assert tokens.sum() / (rows.rows * 2048) >= 0.95
    for place, images in enumerate(rows.find(np.arange(rows.rows)).images):
        row = rows[place].indices
        assert images == media[row].sum() <= bound
        assert tokens[row].sum() <= 2048


def test_longer_examples_are_left_out_where_they_are_to_be():
    lengths = make_lengths([(10, 1), (40, 1), (41, 1), (LENGTH + 1, 1)])
    rows = packed(lengths, longest=40)
    assert sorted(index for row in range(rows.rows) for index in rows[row].indices) == [0, 1]
    assert rows.too_long == 1
    with pytest.raises(InputError, match="8 images with a phase's max_length of 9: the shortest has 10"):
        packed(lengths, longest=9)


def test_rows_are_full():
    random = np.random.default_rng(0)
    lengths = make_lengths([(int(count), 1) for count in random.integers(5, 50, 4000)])
    rows = packed(lengths, window=1000)
    assert lengths.tokens.sum() / (rows.rows * LENGTH) > 0.97


def test_without_packing_each_example_is_a_row():
    rows = packed(make_lengths([(5, 1)] * 30), pack=False)
    assert rows.rows == 30
    assert sorted(rows[place].indices[0] for place in range(30)) == list(range(30))


@pytest.mark.parametrize("pack", [True, False])
def test_what_fits_no_row_is_left_out_and_counted(pack):
    rows = packed(make_lengths([(5, 1), (LENGTH + 1, 1), (5, IMAGES + 1), (LENGTH, IMAGES)]), pack=pack)
    assert rows.too_long == 2
    assert sorted(index for place in range(rows.rows) for index in rows[place].indices) == [0, 3]


def test_rows_too_short_for_everything_are_refused():
    with pytest.raises(InputError, match=r"no example of d fits a row of 100 tokens.*shortest has 101"):
        packed(make_lengths([(101, 1), (102, 1)]))


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Lengths on disk that count as many; some are left out, some too long."""
    monkeypatch.setattr(packing, "_HELD_WHOLE", 100)
    monkeypatch.setattr(packing, "_WINDOWS_AT_ONCE", 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    random = np.random.default_rng(0)
    table = np.stack([random.integers(1, LENGTH + 5, 3000), random.integers(0, 4, 3000)]).astype(np.int32)
    table[0, ::7] = -2
    np.save(tmp_path / "lengths.npy", table)
    return tmp_path / "lengths.npy", table


def read_all(rows):
    return [rows[place].indices for place in range(rows.rows)]


@pytest.mark.parametrize("pack", [True, False])
def test_the_plan_of_a_large_data_set_is_kept(large, pack, monkeypatch):
    path, table = large
    lengths = Lengths(*np.load(path, mmap_mode="r"))
    first = packed(lengths, kept=path, pack=pack)
    usable = (table[0] > 0) & (table[0] <= LENGTH)
    rows = read_all(first)
    assert sorted(index for row in rows for index in row) == np.flatnonzero(usable).tolist()
    assert first.too_long == int((table[0] > LENGTH).sum())
    for row in rows:
        assert table[0, row].sum() <= LENGTH
        assert table[1, row].sum() <= IMAGES
    assert pack == (len(rows) < usable.sum())
    monkeypatch.setattr(packing, "_write_plan", lambda *settings: pytest.fail("the plan was made again"))
    again = packed(lengths, kept=path, pack=pack)
    assert read_all(again) == rows
    assert isinstance(again._examples.base, np.memmap)
    assert again.too_long == first.too_long
    assert rows == read_all(packed(lengths, pack=pack))  # made whole, in memory


def test_another_plan_is_another_file_and_a_damaged_one_is_made_again(large):
    path, _ = large
    lengths = Lengths(*np.load(path, mmap_mode="r"))
    rows = read_all(packed(lengths, kept=path))
    assert read_all(packed(lengths, kept=path, seed=1)) != rows
    for kept in path.parent.glob("rows-*.examples"):
        kept.write_bytes(b"")
    assert read_all(packed(lengths, kept=path)) == rows
    with pytest.raises(InputError, match="no example of d fits a row of 0 tokens"):
        packed(lengths, kept=path, length=0)
    assert not list(path.parent.glob("*.partial"))
