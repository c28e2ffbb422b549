"""Building dataclasses from mappings: what is wrong is one error that names its path and what would be right."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import pytest

from mmjax.core.config import build, nearest, to_tree
from mmjax.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Wheel:
    spokes: int
    radius: float = 0.5

    def __post_init__(self):
        if self.spokes < 1:
            raise ConfigError(f"spokes must be positive, not {self.spokes}")


@dataclasses.dataclass(frozen=True)
class Cart:
    name: str
    front: Wheel
    back: Wheel | None = None
    covered: bool = False
    drive: Literal["horse", "ox"] = "horse"
    turn: Literal[0, 1] = 0
    size: tuple[float, float] = (1.0, 2.0)
    loads: tuple[int, ...] = ()
    spare: tuple[Wheel, ...] = ()
    by_name: Mapping[str, Wheel] = dataclasses.field(default_factory=dict)
    owner: int | str | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    anything: Any = None
    length: float = dataclasses.field(init=False, default=3.0)


LEAST = {"name": "hay", "front": {"spokes": 8}}


def test_a_whole_tree_is_built_with_its_defaults():
    cart = build(
        Cart,
        {
            "name": "hay",
            "front": {"spokes": 8, "radius": 1},
            "back": {"spokes": 12},
            "covered": True,
            "drive": "ox",
            "size": [2, 3.5],
            "loads": [1, 2],
            "spare": [{"spokes": 1}, Wheel(2)],
            "by_name": {"left": {"spokes": 3}},
            "owner": "ann",
            "notes": ("a", "b"),
            "anything": {"free": [1]},
        },
    )
    assert cart == Cart(
        name="hay",
        front=Wheel(8, 1.0),
        back=Wheel(12),
        covered=True,
        drive="ox",
        size=(2.0, 3.5),
        loads=(1, 2),
        spare=(Wheel(1), Wheel(2)),
        by_name={"left": Wheel(3)},
        owner="ann",
        notes=["a", "b"],
        anything={"free": [1]},
    )
    assert isinstance(cart.front.radius, float) and isinstance(cart.size[0], float)  # an int is taken for a float
    assert build(Cart, LEAST) == Cart("hay", Wheel(8))
    assert build(Cart, {**LEAST, "owner": None, "back": None}) == Cart("hay", Wheel(8))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"covred": True}, "config.covred is not a setting; did you mean covered?"),
        ({"length": 1.0}, "config.length is not a setting; valid are: "),  # it follows from the others
        ({"front": {"spoke": 8}}, "config.front.spoke is not a setting; did you mean spokes?"),
        ({"spare": [{"spokes": 1}, {"zzz": 1}]}, "config.spare[1].zzz is not a setting; valid are: radius, spokes"),
        ({"by_name": {"left": {"radii": 1}}}, "config.by_name.left.radii is not a setting; did you mean radius?"),
        ({"name": 3}, "config.name must be text, not 3 (int)"),
        ({"front": {"spokes": "8"}}, "config.front.spokes must be a whole number, not '8' (str)"),
        ({"front": {"spokes": 8.0}}, "config.front.spokes must be a whole number, not 8.0 (float)"),
        ({"front": {"spokes": True}}, "config.front.spokes must be a whole number, not True (bool)"),
        ({"front": {"spokes": 8, "radius": True}}, "config.front.radius must be a number, not True (bool)"),
        ({"front": {"spokes": 8, "radius": "wide"}}, "config.front.radius must be a number, not 'wide' (str)"),
        ({"front": 8}, "config.front must be a group of settings (Wheel), not 8 (int)"),
        ({"front": None}, "config.front must be a group of settings (Wheel), not None (NoneType)"),
        ({"covered": 1}, "config.covered must be True or False, not 1 (int)"),
        ({"drive": "cow"}, "config.drive must be one of 'horse', 'ox', not 'cow' (str)"),
        ({"drive": ["ox"]}, "config.drive must be one of 'horse', 'ox', not ['ox'] (list)"),
        ({"size": [1.0]}, "config.size must have 2 values, not 1"),
        ({"size": [1.0, "b"]}, "config.size[1] must be a number, not 'b' (str)"),
        ({"loads": 3}, "config.loads must be a list (each a whole number), not 3 (int)"),
        ({"loads": "12"}, "config.loads must be a list (each a whole number), not '12' (str)"),
        ({"loads": [1, 2.5]}, "config.loads[1] must be a whole number, not 2.5 (float)"),
        ({"by_name": [1]}, "config.by_name must be a group of settings, not [1] (list)"),
        ({"by_name": {"left": 1}}, "config.by_name.left must be a group of settings (Wheel), not 1 (int)"),
        ({"owner": 1.5}, "config.owner must be a whole number or text or None, not 1.5 (float)"),
        ({"back": {"spokes": 0}}, "config.back: spokes must be positive, not 0"),
        ({"back": {}}, "config.back.spokes is missing; it must be set (a whole number)"),
        ({3: 1}, "config.3 is not a setting; valid are: "),
        ({"turn": True}, "config.turn must be one of 0, 1, not True (bool)"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(change, message):
    with pytest.raises(ConfigError) as caught:
        build(Cart, {**LEAST, **change})
    text = str(caught.value)
    assert text.startswith(message) if message.endswith((" ", "mean")) else text == message
    assert caught.value.exit_code == 2


def test_a_missing_value_says_what_it_must_be():
    with pytest.raises(ConfigError, match=r"^config\.name is missing; it must be set \(text\)$"):
        build(Cart, {"front": {"spokes": 8}})
    with pytest.raises(ConfigError, match=r"^config\.front is missing; it must be set \(a group"):
        build(Cart, {"name": "hay"})


def test_the_path_starts_where_the_caller_says():
    with pytest.raises(ConfigError, match=r"^cart\.front\.spokes must be a whole number"):
        build(Cart, {"name": "hay", "front": {"spokes": None}}, "cart")
    with pytest.raises(ConfigError, match=r"^cart must be a group of settings \(Cart\), not 5 \(int\)$"):
        build(Cart, 5, "cart")


def test_long_values_are_shortened_in_messages():
    with pytest.raises(ConfigError) as caught:
        build(Cart, {**LEAST, "covered": "x" * 1000})
    assert len(str(caught.value)) < 150 and "..." in str(caught.value)


def test_nearest_names_one_or_lists_all():
    assert nearest("warmup_step", ["warmup_steps", "kind"]) == "; did you mean warmup_steps?"
    assert nearest("qqqq", ["b", "a"]) == "; valid are: a, b"
    assert nearest("qqqq", []) == ""


def test_to_tree_is_plain_and_builds_the_same_again():
    cart = Cart("hay", Wheel(8), spare=(Wheel(1), Wheel(2)), by_name={"left": Wheel(3)}, owner=4)
    tree = to_tree(cart)
    assert tree["spare"] == [{"spokes": 1, "radius": 0.5}, {"spokes": 2, "radius": 0.5}]
    assert tree["by_name"] == {"left": {"spokes": 3, "radius": 0.5}} and tree["back"] is None
    del tree["length"]  # no setting: it follows from the others
    assert build(Cart, tree) == cart


@dataclasses.dataclass(frozen=True)
class Sail:
    area: float
    kind: Literal["sail"] = "sail"


@dataclasses.dataclass(frozen=True)
class Oars:
    count: int = 2
    kind: Literal["oars"] = "oars"


@dataclasses.dataclass(frozen=True)
class Barge:
    drive: Sail | Oars
    part: Wheel | Cart | None = None


def test_one_of_several_groups_is_meant_by_its_kind_or_its_settings():
    assert build(Barge, {"drive": {"kind": "oars"}}).drive == Oars()
    assert build(Barge, {"drive": {"area": 3}}).drive == Sail(3.0)
    assert build(Barge, {"drive": {"count": 4}, "part": {"name": "x", "front": {"spokes": 1}}}).part.name == "x"
    whole = build(Barge, {"drive": {"kind": "sail", "area": 1.0}, "part": {"spokes": 3}})
    assert build(Barge, to_tree(whole)) == whole


@pytest.mark.parametrize(
    ("drive", "message"),
    [
        ({"kind": "oar"}, "config.drive.kind 'oar' is not one; did you mean oars?"),
        ({"kind": "oars", "area": 1.0}, "config.drive.area is not a setting"),
        ({"count": "two"}, "config.drive.count must be a whole number, not 'two'"),
        (3, "config.drive must be a group of settings (Sail), not 3"),
    ],
)
def test_what_is_wrong_in_one_of_several_groups(drive, message):
    with pytest.raises(ConfigError) as error:
        build(Barge, {"drive": drive})
    assert message in str(error.value)
