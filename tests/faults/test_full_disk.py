"""A disk that is really full: the error names the path, the steps before it stay, and the room comes back."""

import os
import shutil
import subprocess
import time

import pytest

from mmjax.checkpoints.manager import Checkpoints
from mmjax.core.errors import CheckpointError
from tests.faults.fault_states import assert_is_step, like, save_step


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 5 MB, which is room for two steps of 1.6 MB while the third is written."""
    mount, unmount = shutil.which("mount"), shutil.which("umount")
    if os.geteuid() != 0 or mount is None:
        pytest.skip("only root can mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run([mount, "-t", "tmpfs", "-o", "size=5m", "tmpfs", place], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    yield place
    subprocess.run([unmount, place], check=True)


def test_a_save_that_finds_the_disk_full_says_so_and_spoils_nothing(small_disk):
    directory = small_disk / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        save_step(checkpoints, 1)
        checkpoints.wait()
        (small_disk / "filling").write_bytes(bytes(2_600_000))
        save_step(checkpoints, 2)
        with pytest.raises(
            CheckpointError, match=rf"saving {directory}/2 failed: .*(No space|RESOURCE_EXHAUSTED)"
        ) as error:
            checkpoints.wait()
        assert "\n" not in str(error.value)
        assert [path.name for path in directory.iterdir()] == ["1"]
        assert_is_step(checkpoints.restore(like=like()), 1)
        (small_disk / "filling").unlink()
        save_step(checkpoints, 2)
        checkpoints.wait()
        assert_is_step(checkpoints.restore(like=like()), 2)


def test_the_training_loop_hears_of_it_without_waiting(small_disk):
    (small_disk / "filling").write_bytes(bytes(4_500_000))
    checkpoints = Checkpoints(small_disk / "checkpoints")
    save_step(checkpoints, 1)
    with pytest.raises(CheckpointError, match="failed"):
        check_until(checkpoints, time.monotonic() + 60)
    save_step(checkpoints, 2)
    with pytest.raises(CheckpointError, match="failed"):
        checkpoints.close()


def check_until(checkpoints, deadline):
    while time.monotonic() < deadline:
        checkpoints.check()
        time.sleep(0.01)
