"""`kill -9` at any moment of a save, of its completion and of the removal of old steps loses no complete step."""

import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from mmjax.checkpoints.manager import Checkpoints
from tests.faults.fault_states import assert_is_step, like, save_step

ROOT = pathlib.Path(__file__).parents[2]


def run_and_kill(directory, seconds):
    """Runs the saver, kills it some seconds after its first save, and returns the last step that it called complete."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.faults.endless_saver", directory],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as saver:
        lines = [saver.stdout.readline()]
        time.sleep(seconds)
        assert saver.poll() is None, saver.stderr.read()
        saver.send_signal(signal.SIGKILL)
        lines += saver.stdout.readlines()
        errors = saver.stderr.read()
    assert "Traceback" not in errors, errors
    return max([int(line.split()[1]) for line in lines if line.startswith("complete")], default=0)


def kill_often(directory, times, seed):
    moment = random.Random(seed)
    reached = 0
    for _ in range(times):
        reached = max(reached, run_and_kill(directory, moment.uniform(0.0, 1.5)))
        with Checkpoints(directory, warn=lambda message: None) as checkpoints:
            restored = checkpoints.restore(like=like())
        assert restored.step >= reached
        assert_is_step(restored, restored.step)
    assert reached > times  # the saver did get on between the kills


def test_a_process_killed_while_saving_loses_no_complete_step(tmp_path):
    kill_often(tmp_path / "checkpoints", times=3, seed=0)


@pytest.mark.slow
def test_a_process_killed_thirty_times_loses_no_complete_step(tmp_path):
    kill_often(tmp_path / "checkpoints", times=30, seed=1)


class Snapshots:
    """Copies of a directory as a kill would leave it, before each change that Python makes in there."""

    EVENTS = frozenset({"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "open", "os.truncate"})

    def __init__(self, directory, target):
        self.directory, self.target = directory, target
        self.taken = []
        self.lock = threading.Lock()
        self.busy = threading.local()

    def __call__(self, event, arguments):
        if self.directory is None or event not in self.EVENTS or getattr(self.busy, "copying", False):
            return
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
            return
        if not str(arguments[0]).startswith(str(self.directory)) or not self.directory.exists():
            return
        with self.lock:
            self.busy.copying = True
            try:
                copy = self.target / str(len(self.taken))
                while not self._copied(copy):
                    shutil.rmtree(copy)
                self.taken.append((f"{event} {arguments[0]}", copy))
            finally:
                self.busy.copying = False

    def _copied(self, copy):
        """Whether the copy is whole: tensorstore's threads rename files meanwhile, which no audit hook can hold up."""
        try:
            shutil.copytree(self.directory, copy)
        except shutil.Error:
            return False
        return True

    def end(self):
        self.directory = None  # an audit hook cannot be taken away


def test_every_state_that_the_directory_goes_through_can_be_restored(tmp_path):
    directory = tmp_path / "checkpoints"
    with Checkpoints(directory, keep_last=2) as checkpoints:
        for step in (1, 2, 3):
            save_step(checkpoints, step)
    (directory / "7.orbax-checkpoint-tmp").mkdir()  # of a save that was killed earlier
    snapshots = Snapshots(directory, tmp_path / "snapshots")
    sys.addaudithook(snapshots)
    try:
        with Checkpoints(directory, keep_last=2) as checkpoints:
            checkpoints.restore(like=like())
            save_step(checkpoints, 4)
            checkpoints.wait()
            assert checkpoints.steps() == [3, 4]
    finally:
        snapshots.end()
    assert not (directory / "7.orbax-checkpoint-tmp").exists()
    seen = set()
    for what, copy in snapshots.taken:
        with Checkpoints(copy, keep_last=2, warn=lambda message: None) as checkpoints:
            restored = checkpoints.restore(like=like())
            assert restored.step >= 3, what
            assert_is_step(restored, restored.step)
            seen.add((restored.step, (copy / "2" / "manifest.json").exists(), (copy / "4").exists()))
            save_step(checkpoints, 4)
            checkpoints.wait()
            save_step(checkpoints, 5)
        assert sorted(path.name for path in copy.iterdir()) == ["4", "5"], what
    # Arrays without a manifest, complete but nothing removed yet, and a removal that had begun were among them.
    assert {(3, True, False), (3, True, True), (4, True, True), (4, False, True)} <= seen
