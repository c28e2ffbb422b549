"""Several processes share an evaluation, each with a model of its own: the file is that of one."""

import pathlib
import socket
import subprocess
import sys

import pytest

from tests.cli.program import surroundings
from tests.evaluation.made import write_files

ROOT = pathlib.Path(__file__).parents[2]


def share(data, out, processes):
    """How many prompts each process was asked."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    command = [
        sys.executable,
        "-m",
        "tests.faults.evaluating_process",
        str(data),
        str(out),
        coordinator,
        str(processes),
    ]
    running = [
        subprocess.Popen(
            [*command, str(index)],
            env=surroundings(JAX_PLATFORMS="cpu"),
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for index in range(processes)
    ]
    try:
        said = [process.communicate(timeout=500) for process in running]
        assert [process.returncode for process in running] == [0] * processes, said
        return [int(out.splitlines()[-1]) for out, _ in said]
    finally:
        for process in running:
            process.kill()
            process.wait()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_and_four_processes_predict_the_same(tmp_path):
    data = write_files(tmp_path / "data")
    assert share(data, tmp_path / "one", 1) == [84]
    shares = share(data, tmp_path / "four", 4)
    assert sum(shares) == 84 and min(shares) >= 15
    one, four = ((tmp_path / name / "predictions.jsonl").read_bytes() for name in ("one", "four"))
    assert one == four and one.count(b"\n") == 84
