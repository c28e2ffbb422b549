"""Folders that appear whole or not at all."""

import pytest

from mmjax.core.errors import InputError
from mmjax.core.folders import new_folder


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
