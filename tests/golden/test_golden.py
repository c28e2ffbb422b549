"""Golden text of every config file: its resolved settings, and where each of its parameters lies on its own mesh.

A change of a default, a size table, a sharding rule or a parameter's name shows here as a difference of text, so that
it is seen when the change is read. Where the difference is meant, write the files anew and look at `git diff`:

    make golden        (or: GOLDEN=write .venv/bin/python -m pytest tests/golden)
"""

import difflib
import math
import os
import pathlib

import pytest

from mmjax.cli.configs import config_chips, load_config
from mmjax.core.config import to_tree
from mmjax.parallel.mesh import AXES
from mmjax.planning.audit import audit_run, audit_text
from mmjax.planning.topology import parse_topology

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "common")
# The mesh axes over which a strategy spreads parameters.
SPREAD = {
    "hybrid": ("fsdp", "tensor"),
    "full": ("data", "fsdp", "tensor", "sequence"),
    "global": ("slice", "data", "fsdp", "tensor", "sequence"),
}
# A parameter of so many bytes that lies whole on every device is a mistake.
LARGE = 16 * 2**20

each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def compare(file, text):
    """Compares with the golden file, or writes it."""
    if os.environ.get("GOLDEN") == "write":
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return
    name = str(file.relative_to(ROOT))
    golden = file.read_text() if file.exists() else ""
    change = "".join(
        difflib.unified_diff(golden.splitlines(True), text.splitlines(True), f"{name} (golden)", f"{name} (now)", n=1)
    )
    if change:
        pytest.fail(f"{change}\nIf this is meant, run `make golden` and commit {name}.", pytrace=False)


def settings(tree, path="config"):
    """One `path = value` a line, in the order of the dataclasses; the paths are those of --config.KEY=VALUE."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in items:
        groups = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        if (groups and isinstance(value, dict)) or any(isinstance(item, dict) for item in groups):
            yield from settings(value, f"{path}.{key}")
        else:
            yield f"{path}.{key} = {value!r}\n"


def places():
    """(config, chips, golden file's name) of each slice that a config is meant for; one of 8 devices where of none."""
    for path in CONFIGS:
        for number, chips in enumerate(config_chips(str(path)) or ("",)):
            yield path, chips, f"{path.stem}-{chips}" if number else path.stem


each_place = pytest.mark.parametrize(
    ("path", "chips", "name"), [pytest.param(*place, id=place[2]) for place in places()]
)


def on(path, chips):
    """The config as it is on the chips, and how many devices those are."""
    reference = f"{path}:{chips}" if chips else str(path)
    return load_config(reference, []), parse_topology(chips).device_count if chips else 8


@each_config
def test_resolved_settings(path):
    compare(HERE / "settings" / f"{path.stem}.txt", "".join(settings(to_tree(load_config(str(path), [])))))


@each_place
def test_where_parameters_lie(path, chips, name):
    """What `mmjax plan --audit` says."""
    compare(HERE / "parameters" / f"{name}.txt", audit_text(*on(path, chips)))


@each_place
def test_every_large_parameter_is_split_over_the_mesh(path, chips, name):
    config, devices = on(path, chips)
    rows = audit_run(config, devices)
    ways = math.prod(
        dict(zip(AXES, config.mesh.sizes(devices), strict=True))[axis] for axis in SPREAD[config.mesh.strategy]
    )
    assert not [row.path for row in rows if row.replicated and row.bytes >= LARGE]
    assert sum(row.bytes_per_device for row in rows) <= 1.02 * sum(row.bytes for row in rows) / ways


def test_every_golden_file_belongs_to_a_config():
    assert {path.stem for path in HERE.glob("settings/*.txt")} == {path.stem for path in CONFIGS}
    assert {path.stem for path in HERE.glob("parameters/*.txt")} == {name for _, _, name in places()}


def test_a_flamingo_reads_videos_where_it_is_told_to():
    data = {name: load_config(f"configs/flamingo_9b.py{name}", []).data for name in ("", ":video")}
    assert data[":video"].frames == 8 and data[""].frames == 1
    assert data[":video"].sources["vtp"].loss_weight == 0.03
    assert sorted({*data[":video"].sources} - {*data[""].sources}) == ["vtp"]
