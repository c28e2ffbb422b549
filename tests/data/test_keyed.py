"""Keyed random numbers: the same everywhere and for ever, and random enough."""

import collections

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.data.keyed import Dice, KeyedPermutation, fold, key_of, shuffled


@given(st.integers(1, 3000), st.integers(0, 2**64 - 1))
def test_a_keyed_permutation_takes_every_number_once(count, key):
    permutation = KeyedPermutation(key, count)
    assert sorted(permutation(number) for number in range(count)) == list(range(count))


def test_a_keyed_permutation_of_a_trillion_is_walked_in_place():
    permutation = KeyedPermutation(7, 10**12)
    images = {permutation(number) for number in range(2000)}
    assert len(images) == 2000
    assert 0 <= min(images) < 10**10
    assert 9.9e11 < max(images) < 10**12
    with pytest.raises(IndexError):
        permutation(10**12)


def test_permutations_of_other_keys_are_other_permutations():
    orders = {tuple(KeyedPermutation(key, 50)(n) for n in range(50)) for key in range(200)}
    assert len(orders) == 200
    first = collections.Counter(KeyedPermutation(key, 5)(0) for key in range(5000))
    assert max(first.values()) - min(first.values()) < 200


def test_the_numbers_never_change():
    """A stream that is resumed on another machine or a later version must be the same stream."""
    assert key_of(3, "digits") == 0xE42C8EF6376C7570
    assert fold(3, 1, 2) == 0xFAFD264B7F370DF3
    dice = Dice(11)
    assert [dice.below(100) for _ in range(6)] == [31, 26, 63, 50, 16, 55]
    assert shuffled(5, 8).tolist() == [3, 4, 2, 5, 0, 7, 1, 6]
    assert [KeyedPermutation(5, 10)(n) for n in range(10)] == [6, 1, 8, 3, 2, 7, 4, 5, 0, 9]


def test_keys_tell_their_parts_apart():
    assert len({key_of(1, "a"), key_of("1", "a"), key_of("1a"), key_of(1, "a", 0), key_of("a", 1)}) == 5
    assert len({fold(9, a, b) for a in range(100) for b in range(100)}) == 10_000
    assert fold(9, np.int64(4)) == fold(9, 4)


def test_draws_are_even():
    dice = Dice(key_of("even"))
    counts = np.bincount([dice.below(10) for _ in range(20_000)], minlength=10)
    assert (np.abs(counts - 2000) < 5 * np.sqrt(2000)).all()
    mean = np.mean([dice.uniform() for _ in range(20_000)])
    assert abs(mean - 0.5) < 5 / np.sqrt(12 * 20_000)


def test_samples_and_shuffles_are_even():
    dice = Dice(key_of("orders"))
    orders = collections.Counter()
    for _ in range(6000):
        items = [0, 1, 2]
        dice.shuffle(items)
        orders[tuple(items)] += 1
        orders["sampled", *dice.sample((0, 1, 2), 2)] += 1
    assert len(orders) == 12
    assert all(abs(count - 1000) < 160 for count in orders.values())


@pytest.mark.parametrize("count", [1, 2, 5, 64, 1000, 10**9 + 7])
def test_many_places_of_a_permutation_at_once(count):
    permutation = KeyedPermutation(key_of("many"), count)
    numbers = np.unique(np.linspace(0, count - 1, 500).astype(np.int64))
    assert permutation.many(numbers).tolist() == [permutation(number) for number in numbers.tolist()]
