"""Inspection: counts, and a digest that follows the parameters, the optimizer and the data position only."""

import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from mmjax.checkpoints.inspect import inspect, locate, summarise
from mmjax.checkpoints.manager import Checkpoints
from mmjax.core.errors import CheckpointError, InputError
from tests.checkpoints.train_states import CONFIG, make_state, mesh, save


@pytest.fixture
def workdir(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        save(checkpoints, 1, make_state(1, mesh(4, 2)))
        save(checkpoints, 2, make_state(2, mesh(4, 2)), loss=0.5)
    return tmp_path


def test_a_workdir_its_checkpoints_and_a_step_can_be_named(workdir):
    newest = inspect(workdir, warn=pytest.fail)
    assert newest == inspect(workdir / "checkpoints", warn=pytest.fail)
    assert newest == inspect(workdir / "checkpoints" / "2", warn=pytest.fail)
    assert json.loads(json.dumps(newest)) == newest
    assert (newest["step"], newest["position"], newest["metrics"]) == (2, {"slot": 16}, {"loss": 0.5})
    assert inspect(workdir / "checkpoints" / "1", warn=pytest.fail)["step"] == 1
    with pytest.raises(InputError, match="holds no checkpoint"):
        locate(workdir / "elsewhere")


def test_parameters_are_counted_by_part(workdir):
    found = inspect(workdir, warn=pytest.fail)
    assert found["parts"] == {
        "vision": {"count": 16 * 8 + 8, "bytes": 16 * 8 * 4 + 8},
        "decoder": {"count": 2 * 16 * 24 + 24, "bytes": (2 * 16 * 24 + 24) * 4},
        "resampler": {"count": 8 * 16, "bytes": 8 * 16 * 2},
    }
    assert found["parameters"] == 16 * 8 + 8 + 2 * 16 * 24 + 24 + 8 * 16


def test_huge_parameters_are_counted_without_overflow():
    table = summarise({"decoder/w": jax.ShapeDtypeStruct((2**20, 2**13), jnp.bfloat16)}, {})
    assert table == {"parameters": 2**33, "parts": {"decoder": {"count": 2**33, "bytes": 2**34}}}


@pytest.mark.parametrize(
    "part, counts", [("params", True), ("frozen", True), ("optimizer", True), ("position", True), ("guard", False)]
)
def test_the_digest_follows_what_it_is_of(tmp_path, part, counts):
    digests = []
    for name, seed in (("same", 1), ("again", 1), ("other", 2)):
        state, position = make_state(1, mesh(4, 2)), {"slot": 8}
        if part == "position":
            position = {"slot": 8 * seed}
        else:
            state[part] = jax.tree.map(lambda leaf: leaf, make_state(seed, mesh(2, 4))[part])
            if part == "guard":
                state[part]["skipped"] += seed
        with Checkpoints(tmp_path / name) as checkpoints:
            checkpoints.save(1, state, position=position, config=CONFIG)
        digests.append(inspect(tmp_path / name, warn=pytest.fail)["sha256"])
    assert digests[0] == digests[1]
    assert (digests[0] != digests[2]) == counts


def test_it_starts_no_backend(workdir):
    script = (
        "import sys\n"
        "from mmjax.checkpoints.inspect import inspect\n"
        "print(inspect(sys.argv[1], warn=print)['step'])\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(workdir)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")


def test_a_damaged_step_is_passed_over_unless_it_is_the_one_that_was_named(workdir):
    (workdir / "checkpoints" / "2" / "state" / "manifest.ocdbt").unlink()
    said = []
    assert inspect(workdir, warn=said.append)["step"] == 1
    assert len(said) == 1
    assert "checkpoints/2 is damaged: file state/manifest.ocdbt is missing; it is passed over" in said[0]
    with pytest.raises(CheckpointError, match=r"2 is damaged: file state/manifest\.ocdbt is missing"):
        inspect(workdir / "checkpoints" / "2", warn=pytest.fail)
