"""Paths that users give, and folders that appear whole or not at all."""

from pathlib import Path

import pytest

from mmjax.core.errors import InputError
from mmjax.core.folders import check_new, local_path, new_folder


def test_it_appears_when_all_is_written(tmp_path):
    (tmp_path / "out").mkdir()  # an empty one may be there
    with new_folder(tmp_path / "out") as made:
        (made / "a").write_text("1")
        assert not (tmp_path / "out" / "a").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"] and (tmp_path / "out" / "a").read_text() == "1"


def test_an_error_leaves_nothing_and_a_killed_try_is_swept(tmp_path):
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "deep" / "out") as made:
        (made / "a").write_text("1")
        _ = 1 / 0
    assert list((tmp_path / "deep").iterdir()) == []
    (tmp_path / "deep" / "out.partial").mkdir()
    (tmp_path / "deep" / "out.partial" / "old").write_text("killed")
    with new_folder(tmp_path / "deep" / "out") as made:
        assert list(made.iterdir()) == []
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_there_is_left_alone(tmp_path, kind):
    there = tmp_path / "out" / "mine" if kind == "folder" else tmp_path / "out"
    there.parent.mkdir(exist_ok=True)
    there.write_text("kept")
    with pytest.raises(InputError, match="is there already, and not empty"), new_folder(tmp_path / "out"):
        raise AssertionError
    assert there.read_text() == "kept"


@pytest.mark.parametrize("address", ["gs://bucket/run", "gs://bucket", "s3://bucket/a/b"])
def test_an_address_is_refused_with_the_way_to_mount_it(address):
    for read in (local_path, check_new):
        with pytest.raises(InputError, match=f"{address} is an address.*mount the bucket"):
            read(address)


def test_a_home_folder_is_spelled_out_and_other_paths_stay_as_they_are():
    assert local_path("~/runs") == Path.home() / "runs"
    assert local_path("runs/a:b") == Path("runs/a:b")
