"""A run that is killed or stopped again and again ends where an undisturbed one does, bit for bit."""

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
from tests.cli.program import quick_surroundings

COMMAND = [sys.executable, "-m", "mmjax", "train", "--config", "configs/flamingo_digits.py:tiny"]
SETTINGS = ["compute_dtype=float32", "checkpoint.every_steps=3", "log_every_steps=10"]


def start(workdir, steps):
    settings = [f"--config.{setting}" for setting in [*SETTINGS, f"total_steps={steps}"]]
    return subprocess.Popen(
        [*COMMAND, "--workdir", str(workdir), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=quick_surroundings(workdir.parent / "cache"),
    )


def finish(workdir, steps):
    process = start(workdir, steps)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return inspect(workdir, warn=pytest.fail)


def interrupt_somewhere(workdir, steps, number, dice, sent):
    """Sends a signal to a run that has gone on by a few steps, every other time in the middle of a save."""
    process = start(workdir, steps)
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
    process.send_signal(sent)
    out, err = process.communicate(timeout=120)
    assert process.returncode == (0 if sent == signal.SIGTERM else -sent), err
    if sent == signal.SIGTERM:
        assert f"stopped by SIGTERM at step {max(list_complete_steps(checkpoints))}, which is saved" in out


def losses(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return {line["step"]: line["loss"] for line in map(json.loads, lines)}


@pytest.mark.parametrize(
    "steps, signals",
    [
        pytest.param(40, [signal.SIGTERM, signal.SIGKILL], id="each"),
        pytest.param(200, [signal.SIGKILL] * 10, id="ten-kills", marks=pytest.mark.slow),
        pytest.param(200, [signal.SIGTERM] * 5, id="five-stops", marks=pytest.mark.slow),
    ],
)
def test_interruptions_change_nothing(tmp_path, steps, signals):
    undisturbed, disturbed = tmp_path / "undisturbed", tmp_path / "disturbed"
    expected = finish(undisturbed, steps)
    disturbed.mkdir()
    dice = random.Random(len(signals))
    for number, sent in enumerate(signals):
        interrupt_somewhere(disturbed, steps, number, dice, sent)
    found = finish(disturbed, steps)
    assert found["step"] == expected["step"] == steps
    assert found["sha256"] == expected["sha256"]  # parameters, optimizer state and data position
    assert losses(disturbed) == losses(undisturbed)
