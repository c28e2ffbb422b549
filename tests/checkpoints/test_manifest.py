"""The manifest: what is written is read back, and any changed byte is noticed."""

import pytest
from etils import epath

from mmjax.checkpoints import manifest
from mmjax.checkpoints.manifest import FileRecord, LeafRecord, Manifest
from mmjax.core.errors import CheckpointError, InputError


def example():
    return Manifest(
        step=3,
        leaves={"params/w": LeafRecord((2, 3), "float32", "0123456789abcdef")},
        files={"state/d/1": FileRecord(10, None)},
        position={"slot": 24},
        config={"sizes": [1, 2], "rate": 1e-3, "unlimited": float("inf")},
        metrics={"loss": 0.1},
        versions=manifest.current_versions(),
    )


def test_it_comes_back_as_it_was(tmp_path):
    example().write(epath.Path(tmp_path))
    assert manifest.read_manifest(epath.Path(tmp_path)) == example()


def test_any_changed_byte_is_noticed(tmp_path):
    folder = epath.Path(tmp_path)
    example().write(folder)
    path = tmp_path / manifest.FILE_NAME
    whole = path.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1 << (position % 7)
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"manifest.json is damaged"):
            manifest.read_manifest(folder)


def test_missing_cut_and_foreign_manifests_are_told_apart(tmp_path):
    folder = epath.Path(tmp_path)
    with pytest.raises(CheckpointError, match="is missing"):
        manifest.read_manifest(folder)
    example().write(folder)
    path = tmp_path / manifest.FILE_NAME
    whole = path.read_bytes()
    for text in (whole[:-9], b"", b"[]", b"null", b"\xff\xfe"):
        path.write_bytes(text)
        with pytest.raises(CheckpointError, match="is damaged"):
            manifest.read_manifest(folder)


def test_an_intact_manifest_of_another_format_is_not_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(manifest, "_FORMAT", 2)
    example().write(epath.Path(tmp_path))
    monkeypatch.undo()
    with pytest.raises(InputError, match="another version of mmjax"):
        manifest.read_manifest(epath.Path(tmp_path))


def test_files_are_compared_with_their_records(tmp_path):
    folder = epath.Path(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "small").write_bytes(b"abc")
    (tmp_path / "large").write_bytes(bytes(100_000))
    records = manifest.record_files(folder)
    assert records.keys() == {"deep/small", "large"}
    assert records["large"] == FileRecord(100_000, None)
    manifest.check_files(folder, records)
    (tmp_path / "deep" / "small").write_bytes(b"abd")
    (tmp_path / "large").write_bytes(bytes(99_999))
    with pytest.raises(CheckpointError, match=r"file deep/small changed .*; file large has 99999 bytes, not 100000"):
        manifest.check_files(folder, records)
    (tmp_path / "large").unlink()
    with pytest.raises(CheckpointError, match="file large is missing"):
        manifest.check_files(folder, records)


def test_numbers_that_are_nobodys_best_are_left_out():
    assert manifest.clean_metrics({"a": 1, "b": float("nan"), "c": float("inf")}) == {"a": 1.0}
