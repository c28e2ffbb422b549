"""Parameter groups: each parameter has one, by the order of the list; none is forgotten and none is idle."""

import jax
import jax.numpy as jnp
import pytest

from mmjax.core.errors import ConfigError
from mmjax.optim.groups import ParameterGroup, assign_groups, group_table

PATHS = ["vision/embed", "vision/norm/scale", "decoder/embed", "decoder/norm/scale"]
NO_DECAY = ParameterGroup(r".*scale", weight_decay=0.0)
VISION = ParameterGroup(r"vision/.*", frozen=True)
REST = ParameterGroup(r".*", learning_rate=0.5)


def test_the_first_group_that_matches_takes_a_parameter():
    assert assign_groups([NO_DECAY, VISION, REST], PATHS) == {
        "vision/embed": VISION,
        "vision/norm/scale": NO_DECAY,
        "decoder/embed": REST,
        "decoder/norm/scale": NO_DECAY,
    }
    assert assign_groups([VISION, NO_DECAY, REST], PATHS)["vision/norm/scale"] is VISION


def test_a_parameter_that_no_group_covers_is_named():
    with pytest.raises(
        ConfigError, match=r"^no group of optim.groups matches decoder/embed; add one, or end the list with"
    ):
        assign_groups([NO_DECAY, VISION], PATHS)
    many = [f"decoder/layer_{i}" for i in range(9)]
    with pytest.raises(ConfigError, match=r"matches decoder/layer_0, .*decoder/layer_4, and 4 more; add"):
        assign_groups([VISION], many)
    with pytest.raises(ConfigError, match="matches vision/embed, vision/norm/scale, "):
        assign_groups([], PATHS)


def test_a_group_that_takes_nothing_is_named():
    with pytest.raises(ConfigError, match=r"^optim.groups\[1\] \('visoin/\.\*'\) takes no parameter"):
        assign_groups([NO_DECAY, ParameterGroup("visoin/.*", frozen=True), REST], PATHS)
    with pytest.raises(ConfigError, match=r"^optim.groups\[1\] "):  # an earlier group has all of it
        assign_groups([REST, VISION], PATHS)


def test_something_must_be_left_to_train():
    with pytest.raises(ConfigError, match=r"^optim\.groups freezes every parameter"):
        assign_groups([VISION, ParameterGroup(".*", frozen=True)], PATHS)


def test_a_pattern_that_is_no_regular_expression_is_named():
    with pytest.raises(ConfigError, match=r"'vision/\(' is not a valid regular expression"):
        assign_groups([ParameterGroup("vision/("), REST], PATHS)


def test_the_table_counts_what_each_group_covers():
    shapes = dict(zip(PATHS, [(1000, 3), (5,), (2, 2), ()], strict=True))
    shapes = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in shapes.items()}
    groups = [NO_DECAY, VISION, REST]
    lines = group_table(groups, assign_groups(groups, PATHS), shapes).splitlines()
    assert [line.split() for line in lines] == [
        ["pattern", "parameters", "learning", "rate", "weight", "decay"],
        [".*scale", "6", "x1", "x0"],
        ["vision/.*", "3,000", "-", "-", "frozen"],
        [".*", "4", "x0.5", "x1"],
    ]
    assert len({line.rindex(" x") for line in (lines[1], lines[3])}) == 1  # columns stand under each other
