"""Real processes write one checkpoint together, read it, fall back together; fewer or more of them read it too."""

import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mmjax.checkpoints.manager import Checkpoints
from tests.cli.program import surroundings

PROGRAM = pathlib.Path(__file__).parent / "saver_process.py"


def run_processes(count, directory, *what):
    """Runs `count` processes to their ends; returns the last line of each."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    running = [
        subprocess.Popen(
            [sys.executable, PROGRAM, str(port), str(index), str(count), directory, *what],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=surroundings(),
        )
        for index in range(count)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0] * count, outputs
    return [output.splitlines()[-1] for output in outputs if output]


def test_two_processes_save_and_fall_back_together(tmp_path):
    lines = run_processes(2, tmp_path / "checkpoints", "save", "damage", "read")
    assert lines == ["restored 2, warnings 1, folders ['2', '3']"] * 2
    like = {"params": {name: jax.ShapeDtypeStruct((32, 1024), jnp.float32) for name in ("rows", "both", "whole")}}
    said = []
    with Checkpoints(tmp_path / "checkpoints", warn=said.append) as checkpoints:
        restored = checkpoints.restore(like=like)
    assert (restored.step, len(said)) == (2, 1)
    expected = np.arange(32 * 1024, dtype=np.float32).reshape(32, 1024) + 2
    for leaf in restored.state["params"].values():
        np.testing.assert_array_equal(leaf, expected)


@pytest.mark.parametrize(
    "writers, readers",
    [
        (2, 4),
        pytest.param(4, 2, marks=pytest.mark.slow),
        pytest.param(4, 1, marks=pytest.mark.slow),
        pytest.param(1, 4, marks=pytest.mark.slow),
    ],
)
def test_other_numbers_of_processes_read_and_verify_what_was_saved(tmp_path, writers, readers):
    run_processes(writers, tmp_path / "checkpoints", "save")
    lines = run_processes(readers, tmp_path / "checkpoints", "read")
    assert lines == ["restored 3, warnings 0, folders ['2', '3']"] * readers
