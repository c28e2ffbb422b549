"""Golden text of every config file: its resolved settings, and where each of its parameters lies on its own mesh.

A change of a default, a size table, a sharding rule or a parameter's name shows here as a difference of text, so that
it is seen when the change is read. Where the difference is meant, write the files anew and look at `git diff`:

    make golden        (or: GOLDEN=write .venv/bin/python -m pytest tests/golden)
"""

import difflib
import functools
import math
import os
import pathlib

import jax
import pytest
from jax.sharding import AbstractMesh

from mmjax.cli.configs import load_config
from mmjax.core.config import to_tree
from mmjax.parallel.mesh import AXES
from mmjax.parallel.sharding import abstract_parameters, audit
from mmjax.training.load import abstract_batch, build_model

ROOT = pathlib.Path(__file__).parents[2]
HERE = pathlib.Path(__file__).parent
CONFIGS = sorted(path for path in (ROOT / "configs").glob("*.py") if path.stem != "common")
# Devices of a run that the config's mesh is meant for, where they are not a host's eight.
DEVICES = {"flamingo_3b": 32, "flamingo_9b": 64, "flamingo_80b": 512}
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


@functools.cache
def plan(path):
    """The audit of a config's parameters on its mesh."""
    config = load_config(str(path), [])
    devices = DEVICES.get(path.stem, 8)
    mesh = AbstractMesh(config.mesh.sizes(devices), AXES)
    model, _ = build_model(config)
    batch = abstract_batch(config.data, config.batch_size)
    shapes, axes = abstract_parameters(model.init, jax.random.key(0), batch)
    return mesh, shapes, audit(shapes, axes, mesh)


@each_config
def test_resolved_settings(path):
    compare(HERE / "settings" / f"{path.stem}.txt", "".join(settings(to_tree(load_config(str(path), [])))))


@each_config
def test_where_parameters_lie(path):
    mesh, shapes, rows = plan(path)
    lines = [f"mesh {dict(mesh.shape)}\n"]
    lines.append(f"{sum(leaf.size for leaf in shapes.values()):,} parameters, ")
    lines.append(f"{sum(row.bytes_per_device for row in rows):,} bytes on each device\n\n")
    for row in rows:
        logical = ", ".join(str(axis) for axis in row.axes)
        spec = ", ".join("+".join(part) if isinstance(part, tuple) else str(part) for part in row.spec)
        lines.append(f"{row.path}  {shapes[row.path].dtype}{list(row.shape)}  ({logical}) -> ({spec})")
        lines.append(f"  {row.bytes_per_device:,} bytes\n")
    compare(HERE / "parameters" / f"{path.stem}.txt", "".join(lines))


@each_config
def test_every_large_parameter_is_split_over_the_mesh(path):
    mesh, shapes, rows = plan(path)
    assert not [row.path for row in rows if row.replicated and row.bytes_per_device >= LARGE]
    everything = sum(leaf.size * leaf.dtype.itemsize for leaf in shapes.values())
    share = everything / math.prod(mesh.shape[axis] for axis in ("fsdp", "tensor", "sequence"))
    assert sum(row.bytes_per_device for row in rows) <= 1.02 * share


def test_every_golden_file_belongs_to_a_config():
    names = {path.stem for path in CONFIGS}
    assert {path.stem for path in HERE.glob("*/*.txt")} == names
    assert len(list(HERE.glob("*/*.txt"))) == 2 * len(names)
