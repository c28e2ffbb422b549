"""Parameter paths: flat and nested, and the patterns that choose among them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmjax.core.errors import ConfigError
from mmjax.core.paths import first_match, flatten, part_of, unflatten

NAMES = st.text("abc_0", min_size=1, max_size=3)
TREES = st.recursive(
    st.dictionaries(NAMES, st.integers(), min_size=1, max_size=4),
    lambda inner: st.dictionaries(NAMES, st.integers() | inner, min_size=1, max_size=4),
    max_leaves=12,
)


def test_paths_are_joined_in_the_order_of_the_tree():
    tree = {"decoder": {"layers": {"scale": 1, "bias": 2}, "embed": 3}, "a": 4}
    flat = flatten(tree)
    assert list(flat.items()) == [
        ("decoder/layers/scale", 1),
        ("decoder/layers/bias", 2),
        ("decoder/embed", 3),
        ("a", 4),
    ]
    assert flatten({"x": 1}, "top/part") == {"top/part/x": 1}


@given(TREES)
def test_unflatten_undoes_flatten(tree):
    assert unflatten(flatten(tree)) == tree


def test_the_first_pattern_that_matches_the_whole_path_counts():
    patterns = [r"decoder/.*bias", r"decoder", r"decoder/.*", r".*"]
    assert first_match(patterns, "decoder/mlp/bias") == 0
    assert first_match(patterns, "decoder/mlp/bias_scale") == 2  # not by its beginning
    assert first_match(patterns, "decoder") == 1
    assert first_match(patterns, "vision/x") == 3
    assert first_match(patterns[:3], "my_decoder/x") == -1  # nor by its end
    assert first_match([], "x") == -1


def test_a_pattern_that_is_no_regular_expression_is_named():
    with pytest.raises(ConfigError, match=r"pattern 'decoder/\(' is not a valid regular expression: "):
        first_match(["decoder/("], "decoder/x")


def test_parts_are_the_first_that_match_or_the_first_component():
    parts = {"cross": r"decoder/cross_\d+/.*", "language": r"decoder/.*"}
    assert part_of("decoder/cross_3/gate", parts) == "cross"
    assert part_of("decoder/layer_3/scale", parts) == "language"
    assert part_of("vision/layer_3/scale", parts) == "vision"
