"""Buckets and padded rows."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.core.errors import InputError
from mmjax.core.example import Text
from mmjax.decoding.prompt import Prompt
from mmjax.decoding.rows import bucket, check_lengths, pad_rows, plan_buckets, tokenize_prompt
from tests.decoding.tiny_models import LetterTokenizer, picture


def test_bucket_sizes():
    assert sorted({bucket(number) for number in range(1, 50)}) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64]
    assert sorted({bucket(number, 32) for number in range(0, 130)}) == [32, 48, 64, 96, 128, 192]


@given(st.integers(0, 10**6), st.integers(1, 64))
def test_a_bucket_holds_its_number_and_wastes_at_most_half(number, smallest):
    size = bucket(number, smallest)
    assert size >= number
    assert size == smallest or size < 2 * number


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(0, 300))
def test_planned_buckets_cost_least(lengths, program_cost):
    def cost(stops):
        padded = (min(stop for stop in stops if stop >= length) for length in lengths)
        return len(stops) * program_cost + sum(padded)

    stops = plan_buckets(lengths, program_cost=program_cost)
    assert list(stops) == sorted(set(stops)) and all(stop % 8 == 0 for stop in stops)
    possible = range(8, max(stops), 8)
    chosen = itertools.chain(*(itertools.combinations(possible, count) for count in range(len(possible) + 1)))
    assert cost(stops) == min(cost((*others, max(stops))) for others in chosen)


def test_no_lengths_need_no_buckets():
    assert plan_buckets([], program_cost=1) == ()


def test_rows_are_those_of_the_docstring():
    tokenizer = LetterTokenizer()
    prompts = [Prompt((picture(0), Text("a"))), Prompt((picture(1), Text("b"), picture(0)))]
    rows = pad_rows(
        [tokenize_prompt(prompt, tokenizer) for prompt in prompts], [[7], [4, 7]], rows=3, length=5, images=2, pad=0
    )
    s, image, a, b = 1, 3, *tokenizer.encode("ab")
    np.testing.assert_array_equal(rows.tokens, [[s, image, a, 0, 0], [s, image, b, image, 0], [0] * 5])
    np.testing.assert_array_equal(rows.media_index, [[0, 1, 1, 0, 0], [0, 1, 1, 2, 0], [0] * 5])
    np.testing.assert_array_equal(rows.slots, [[7, -1], [4, 7], [-1, -1]])
    np.testing.assert_array_equal(rows.lengths, [3, 4, 0])
    np.testing.assert_array_equal(rows.last_media, [1, 2, 0])


def test_too_many_positions():
    check_lengths([5, 9], 9)
    check_lengths([10**6], 0)
    with pytest.raises(InputError, match="10 tokens, but the model has 9 positions"):
        check_lengths([5, 10], 9)
