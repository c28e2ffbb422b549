"""A run that is killed again and again ends where an undisturbed one does, bit for bit."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from mmjax.checkpoints.folder import list_complete_steps
from mmjax.checkpoints.inspect import inspect

COMMAND = [sys.executable, "-m", "mmjax", "train", "--config", "configs/flamingo_digits.py:tiny"]
SETTINGS = ["compute_dtype=float32", "total_steps=200", "checkpoint.every_steps=3", "log_every_steps=10"]


def start(workdir):
    settings = [f"--config.{setting}" for setting in SETTINGS]
    return subprocess.Popen(
        [*COMMAND, "--workdir", str(workdir), *settings], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def finish(workdir):
    process = start(workdir)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return inspect(workdir, warn=pytest.fail)


def kill_somewhere(workdir, number, dice):
    """Kills a run when it has gone on by a few steps; every other time in the middle of a save."""
    process = start(workdir)
    checkpoints = workdir / "checkpoints"
    done = max(list_complete_steps(checkpoints), default=0) if checkpoints.exists() else 0
    goal = done + dice.randrange(3, 16)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        names = os.listdir(checkpoints) if checkpoints.exists() else []
        complete = list_complete_steps(checkpoints) if names else []
        saving = len(names) > len(complete)
        if max(complete, default=0) >= goal and (saving or number % 2 == 0):
            break
        time.sleep(0.0005)
    time.sleep(dice.random() * 0.05 if number % 2 == 0 else 0.0)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return process.returncode == -signal.SIGKILL


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("undisturbed")
    return workdir, finish(workdir)


def check_killed_run(workdir, kills, undisturbed):
    dice = random.Random(kills)
    killed = sum(kill_somewhere(workdir, number, dice) for number in range(kills))
    assert killed == kills, "the run ended before it could be killed"
    expected_workdir, expected = undisturbed
    found = finish(workdir)
    assert found["step"] == expected["step"] == 200
    assert found["sha256"] == expected["sha256"]  # parameters, optimizer state and data position

    def losses(folder):
        return {line["step"]: line["loss"] for line in map(json.loads, (folder / "metrics.jsonl").open())}

    assert losses(workdir) == losses(expected_workdir)


@pytest.mark.slow
def test_three_kills_change_nothing(tmp_path, undisturbed):
    check_killed_run(tmp_path, 3, undisturbed)


@pytest.mark.slow
def test_ten_kills_change_nothing(tmp_path, undisturbed):
    check_killed_run(tmp_path, 10, undisturbed)
