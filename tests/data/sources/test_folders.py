"""Folders of pictures: by class, and with captions beside them."""

import json

import pytest

from mmjax.core.errors import DataError, InputError
from tests.data.sources import made
from tests.data.sources.made import make, pictures, read


def all_of(source):
    return [read(source, index) for index in range(len(source))]


def test_folders_of_classes(tmp_path):
    options = made.image_folder(tmp_path)
    dogs = [f"[{colour}]<guide dog>¶" for colour in ("red", "blue", "cyan")]
    wolves = [f"[{colour}]<wolf>¶" for colour in ("lime", "yellow", "magenta")]
    assert all_of(make("image_folder", **options)) == dogs + wolves
    one = make("image_folder", paths=[f"{tmp_path}/train/w*"], templates=["a photo of a {}"])
    assert all_of(one) == [wolf.replace("wolf", "a photo of a wolf") for wolf in wolves]
    (tmp_path / "names.json").write_text(json.dumps({"wolf": "grey wolf"}))
    named = make("image_folder", **options, class_names=str(tmp_path / "names.json"))
    assert read(named, 3) == "[lime]<grey wolf>¶"
    assert named.fingerprint != make("image_folder", **options).fingerprint
    (tmp_path / "names.json").write_text("[]")
    with pytest.raises(InputError, match=r"names.json cannot be read: it must be an object"):
        make("image_folder", **options, class_names=str(tmp_path / "names.json"))
    with pytest.raises(InputError, match="is not a folder of pictures"):
        make("image_folder", paths=[str(tmp_path / "names.json")])


def test_captions_beside_pictures(tmp_path):
    pictures(tmp_path / "flat", ["a.jpg", "b.png", "c.jpg"])
    (tmp_path / "flat" / "a.txt").write_text("A dog.\n")
    (tmp_path / "flat" / "b.txt").write_text(" ")
    source = make("image_folder", paths=[str(tmp_path / "flat")], text="txt")
    assert read(source, 0) == "[red]<A dog.>¶"
    for index, kind in ((1, "empty_text"), (2, "missing")):
        with pytest.raises(DataError) as caught:
            source.load(index, 0)
        assert caught.value.kind == kind


def test_new_pictures_are_found(tmp_path):
    options = made.image_folder(tmp_path)
    before = make("image_folder", **options)
    pictures(tmp_path / "train", ["wolf/9.jpg"])
    after = make("image_folder", **options)
    assert (len(before), len(after)) == (6, 7)
    assert before.fingerprint != after.fingerprint
