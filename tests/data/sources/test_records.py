"""ArrayRecord and TFRecord files, and prepared data sets of TFDS."""

import json

import pytest

from mmjax.core.errors import DataError, InputError
from mmjax.data.sources.records import scan_tfrecord
from mmjax.data.sources.serialized import parse_example
from tests.data.sources.made import example, field, make, picture, read, tfds, varint, write_array_record


def kind_of(source, index):
    with pytest.raises(DataError) as caught:
        read(source, index)
    return caught.value.kind


def test_examples_are_parsed():
    data = example(image=b"\x00\xff" * 100, text=[b"a", b"", b"b"], number=1 << 40, none=[])
    assert parse_example(data, "x") == {"image": [b"\x00\xff" * 100], "text": [b"a", b"", b"b"], "none": []}
    assert parse_example(b"", "x") == {}
    assert parse_example(varint(8 * 7 + 5) + b"1234" + varint(8 * 9) + varint(5) + data, "x")["text"] == [
        b"a",
        b"",
        b"b",
    ]
    for broken in (
        data[:-1],
        data[: len(data) // 2],
        b"\x0b",
        b"\xff" * 20,
        field(1, field(1, field(2, field(1, b"")))),
    ):
        with pytest.raises(DataError):
            parse_example(broken, "x")


def test_array_record_of_examples_and_of_json(tmp_path):
    (tmp_path / "a.png").write_bytes(picture(1, "PNG"))
    write_array_record(tmp_path / "0.array_record", [example(image=picture(0), text=b"one"), example(text=b"none")])
    write_array_record(tmp_path / "1.array_record", [json.dumps({"image": "a.png", "text": "two"}).encode(), b"\xff"])
    source = make("array_record", paths=(f"{tmp_path}/{{0..1}}.array_record",))
    assert len(source) == 4
    assert [read(source, 2), read(source, 0)] == ["[lime]<two>¶", "[red]<one>¶"]
    assert [kind_of(source, 1), kind_of(source, 3)] == ["missing", "bad_record"]
    (tmp_path / "2.array_record").write_bytes(b"nothing of the kind" * 100)
    with pytest.raises(InputError, match=r"2.array_record is not a whole ArrayRecord file"):
        make("array_record", paths=(f"{tmp_path}/2.array_record",))


def test_prepared_data_sets(tmp_path):
    options = tfds(tmp_path)
    train = make("tfds", **options)
    assert [read(train, index) for index in range(6)] == [
        f"[{colour}]<caption {number}>¶"
        for colour, number in (("red", 0), ("blue", 2), ("cyan", 4), ("lime", 1), ("yellow", 3), ("magenta", 5))
    ]
    validation = make("tfds", **options, split="val")
    assert [read(validation, index) for index in range(3)] == [
        "[red]<caption 0>¶",
        "[lime]<caption 1>¶",
        "[blue]<caption 2>¶",
    ]
    with pytest.raises(InputError, match=r"has no split 'test'; it has train, val"):
        make("tfds", **options, split="test")
    with pytest.raises(InputError, match=r"name the folder of a version"):
        make("tfds", paths=(str(tmp_path),))
    folder = tmp_path / "coco" / "1.1.0"
    (folder / "coco-train.array_record-00001-of-00002").unlink()
    with pytest.raises(InputError, match=r"holds 1 of the 2 shards of train"):
        make("tfds", **options)
    cut = folder / "coco-val.tfrecord-00000-of-00001"
    cut.write_bytes(cut.read_bytes()[:-7])
    with pytest.raises(InputError, match=r"is not a whole TFRecord file \(after 2 records\)"):
        scan_tfrecord(str(cut))
