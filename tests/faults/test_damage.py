"""Damage on disk: whatever happens to the newest step, it is named and the older one is used."""

import random
import shutil

import pytest

from mmjax.checkpoints.manager import Checkpoints
from mmjax.core.errors import CheckpointError
from tests.faults.fault_states import assert_is_step, like, save_step


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    directory = tmp_path_factory.mktemp("damage") / "checkpoints"
    with Checkpoints(directory) as checkpoints:
        save_step(checkpoints, 1)
        save_step(checkpoints, 2)
    return directory


@pytest.fixture
def directory(two_steps, tmp_path):
    return shutil.copytree(two_steps, tmp_path / "checkpoints")


def files_of(step_folder):
    return sorted(path for path in step_folder.rglob("*") if path.is_file())


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    path.write_bytes(data)


def assert_named_and_older_used(directory, *words):
    said = []
    with Checkpoints(directory, warn=said.append) as checkpoints:
        assert_is_step(checkpoints.restore(like=like()), 1)
        assert checkpoints.steps() == [1]
    assert len(said) == 1
    assert f"{directory}/2 is damaged: " in said[0]
    assert "\n" not in said[0]
    for word in words:
        assert word in said[0]


def test_the_arrays_lie_in_a_file_that_only_their_checksums_guard(directory):
    sizes = [path.stat().st_size for path in files_of(directory / "2")]
    assert max(sizes) > 1_500_000


@pytest.mark.parametrize("seed", range(12))
def test_one_flipped_bit_of_the_arrays(directory, seed):
    path = max(files_of(directory / "2"), key=lambda path: path.stat().st_size)
    flip(path, random.Random(seed).randrange(path.stat().st_size * 8))
    assert_named_and_older_used(directory, "decoder/")


def test_one_flipped_bit_of_any_other_file(directory):
    random_bit = random.Random(0)
    for path in files_of(directory / "2"):
        whole = path.read_bytes()
        if 0 < len(whole) < 1_000_000:
            flip(path, random_bit.randrange(len(whole) * 8))
            assert_named_and_older_used(directory, path.name)
            path.write_bytes(whole)


def test_any_truncated_file(directory):
    random_length = random.Random(0)
    for path in files_of(directory / "2"):
        whole = path.read_bytes()
        if whole:
            path.write_bytes(whole[: random_length.randrange(len(whole))])
            assert_named_and_older_used(directory, path.name)
            path.write_bytes(whole)


def test_any_removed_file(directory):
    for path in files_of(directory / "2"):
        whole = path.read_bytes()
        path.unlink()
        assert_named_and_older_used(directory, path.name)
        path.write_bytes(whole)


def test_the_default_warning_is_one_line_on_standard_error(directory, capfd):
    (directory / "2" / "manifest.json").unlink()
    with Checkpoints(directory) as checkpoints:
        assert checkpoints.restore(like=like()).step == 1
    output = capfd.readouterr()
    assert output.out == ""
    assert output.err == (
        f"warning: checkpoint {directory}/2 is damaged: manifest.json is missing: "
        "the save was cut short, or the file was removed; it is passed over\n"
    )


def test_a_damaged_step_that_was_asked_for_is_an_error(directory):
    (directory / "2" / "manifest.json").unlink()
    with (
        Checkpoints(directory, warn=pytest.fail) as checkpoints,
        pytest.raises(CheckpointError, match=r"2 is damaged: manifest\.json is missing"),
    ):
        checkpoints.restore(2, like=like())


def test_no_good_step_is_an_error(directory):
    for step in ("1", "2"):
        (directory / step / "manifest.json").write_text("{}")
    said = []
    with (
        Checkpoints(directory, warn=said.append) as checkpoints,
        pytest.raises(CheckpointError, match="no good checkpoint; its steps are: 1, 2"),
    ):
        checkpoints.restore(like=like())
    assert len(said) == 2


def test_a_run_that_fell_back_replaces_the_damaged_step_and_does_not_count_it(directory):
    flip(directory / "2" / "manifest.json", 100)
    with Checkpoints(directory, keep_last=1, warn=lambda message: None) as checkpoints:
        checkpoints.restore(like=like())
        save_step(checkpoints, 2)
        checkpoints.wait()
        assert checkpoints.steps() == [2]
        assert_is_step(checkpoints.restore(like=like()), 2)
