"""Rearrangements: what each pattern of the module's docstring means, spelt out in numpy, and back without loss."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmjax.interop.transforms import SAME, Rearrange

D, H, K = 5, 3, 4


def numbers(*shape, start=0):
    return np.arange(start, start + np.prod(shape)).reshape(shape)


QUERY, KEY, VALUE = (numbers(D, H, K, start=1000 * part) for part in range(3))
FEWER = numbers(D, 1, K, start=5000)  # grouped keys
CASES = [
    ("D H K -> (H K) D", [QUERY], QUERY.reshape(D, -1).T),
    ("H K D -> D (H K)", [numbers(H, K, D)], numbers(H, K, D).reshape(-1, D).T),
    ("D H K -> D (+H K)", [QUERY, KEY, VALUE], np.concatenate([x.reshape(D, -1) for x in (QUERY, KEY, VALUE)], 1)),
    ("D H K -> (+H K) D", [QUERY, FEWER], np.concatenate([x.reshape(D, -1).T for x in (QUERY, FEWER)])),
    ("D H K -> (H +1 K) D", [QUERY, KEY], np.stack([QUERY, KEY], 2).reshape(D, -1).T),
    ("H K -> (H +1 K)", [QUERY[0], KEY[0]], np.stack([QUERY[0], KEY[0]], 1).reshape(-1)),
    ("D H (2 K) -> (H K 2) D", [QUERY], QUERY.reshape(D, H, 2, 2).transpose(1, 3, 2, 0).reshape(-1, D)),
    ("p q C D -> D C p q", [numbers(2, 2, 3, D)], numbers(2, 2, 3, D).transpose(3, 2, 0, 1)),
    ("1 D -> 1 1 D", [numbers(1, D)], numbers(1, 1, D)),
    ("1 D -> D", [numbers(1, D)], numbers(D)),
    ("P D -> 1 +P D", [numbers(1, D), numbers(6, D)], np.concatenate([numbers(1, D), numbers(6, D)])[None]),
    ("D M -> (+M) D", [numbers(D, 2), numbers(D, 3)], np.concatenate([numbers(D, 2).T, numbers(D, 3).T])),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "parts", "expected"), CASES, ids=[case[0] for case in CASES])
def test_both_directions(pattern, parts, expected):
    transform, shapes = Rearrange(pattern), [part.shape for part in parts]
    assert transform.outside_shape(shapes) == expected.shape
    assert np.array_equal(transform.to_outside(parts), expected)
    back = transform.to_inside(expected, shapes)
    assert all(np.array_equal(part, again) for part, again in zip(parts, back, strict=True))


@pytest.mark.parametrize("rank", range(5))
def test_same(rank):
    x = numbers(*range(2, 2 + rank))
    assert np.array_equal(SAME[rank].to_outside([x]), x)
    assert np.array_equal(SAME[rank].to_inside(x, [x.shape])[0], x)


@settings(deadline=None, max_examples=60)
@given(
    st.permutations("ABCD"),
    st.lists(st.integers(1, 4), min_size=4, max_size=4),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.data(),
)
def test_random_patterns_come_back(order, sizes, joined_sizes, data):
    """Any order, any brackets, joined along any dimension: nothing is lost or mixed up."""
    joined = data.draw(st.sampled_from("ABCD"))
    cuts = data.draw(st.lists(st.booleans(), min_size=3, max_size=3))
    groups = [[order[0]]]
    for letter, cut in zip(order[1:], cuts, strict=True):
        groups.append([letter]) if cut else groups[-1].append(letter)
    mark = {letter: "+" + letter if letter == joined else letter for letter in order}
    pattern = "A B C D -> " + " ".join("(" + " ".join(mark[letter] for letter in group) + ")" for group in groups)
    shapes = []
    for size in joined_sizes:
        shape = list(sizes)
        shape["ABCD".index(joined)] = size
        shapes.append(tuple(shape))
    parts = [np.random.default_rng(i).random(shape) for i, shape in enumerate(shapes)]
    transform = Rearrange(pattern)
    outside = transform.to_outside(parts)
    assert outside.shape == transform.outside_shape(shapes)
    assert sorted(outside.ravel()) == sorted(np.concatenate([part.ravel() for part in parts]))
    back = transform.to_inside(outside, shapes)
    assert all(np.array_equal(part, again) for part, again in zip(parts, back, strict=True))


@pytest.mark.parametrize("pattern", ["A B", "A B -> A C", "A A -> A A", "A B -> +A +B", "A B -> A", "A -> A B"])
def test_patterns_that_mean_nothing(pattern):
    with pytest.raises(ValueError, match="'A"):
        Rearrange(pattern)


def test_parameters_that_do_not_fit():
    with pytest.raises(ValueError, match="does not fit"):
        Rearrange("D H K -> (H K) D").outside_shape([(2, 3)])
    with pytest.raises(ValueError, match="does not fit"):
        Rearrange("D (2 K) -> (K 2) D").outside_shape([(4, 5)])
    with pytest.raises(ValueError, match="of one parameter"):
        Rearrange("A B -> B A").to_outside([np.zeros((1, 2)), np.zeros((1, 2))])
    with pytest.raises(ValueError, match="cannot be joined"):
        Rearrange("A B -> +A B").outside_shape([(1, 2), (1, 3)])
