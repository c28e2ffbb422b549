"""Two real processes write one checkpoint, read it, fall back together; a single process reads it too."""

import pathlib
import socket
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.checkpoints.manager import Checkpoints


def test_two_processes_save_and_fall_back_together(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = pathlib.Path(__file__).parent / "saver_process.py"
    running = [
        subprocess.Popen(
            [sys.executable, program, str(port), str(index), "2", tmp_path / "checkpoints"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    for output in outputs:
        assert output.splitlines()[-1] == "restored 2, warnings 1, folders ['2', '3']"
    like = {"params": {name: jax.ShapeDtypeStruct((32, 1024), jnp.float32) for name in ("rows", "both", "whole")}}
    said = []
    with Checkpoints(tmp_path / "checkpoints", warn=said.append) as checkpoints:
        restored = checkpoints.restore(like=like)
    assert (restored.step, len(said)) == (2, 1)
    expected = np.arange(32 * 1024, dtype=np.float32).reshape(32, 1024) + 2
    for leaf in restored.state["params"].values():
        np.testing.assert_array_equal(leaf, expected)
