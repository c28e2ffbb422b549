"""Data sets that our builders prepare: TFDS reads them, and the kind `tfds` too."""

import json

import pytest

from tests.data.sources.made import make, picture, pictures, read

tfds = pytest.importorskip("tensorflow_datasets")


def test_a_folder_with_captions(tmp_path, capsys):
    from third_party.tfds.__main__ import main

    pictures(tmp_path / "birds", ["a.jpg", "b.jpg", "c.png", "d.jpg"])
    for name, text in (("a", "A kea."), ("b", "Zwei Vögel"), ("c", "A wren.")):
        (tmp_path / "birds" / f"{name}.txt").write_text(text)
    (tmp_path / "birds" / "e.jpg").write_bytes(picture(0)[:300])
    (tmp_path / "birds" / "e.txt").write_text("cut off")
    assert main(["folder", "birds", str(tmp_path / "birds"), "--data-dir", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "3 examples in" in printed
    assert "left out: 1 missing, 1 truncated" in printed
    folder = tmp_path / "out" / "birds" / "1.0.0"
    source = make("tfds", paths=[str(folder)])
    assert sorted(read(source, index) for index in range(len(source))) == [
        "[blue]<A wren.>¶",
        "[lime]<Zwei Vögel>¶",
        "[red]<A kea.>¶",
    ]
    theirs = tfds.builder_from_directory(folder).as_data_source("train", decoders={"image": tfds.decode.SkipDecoding()})
    assert {record["image"]: record["text"].decode() for record in theirs}[
        (tmp_path / "birds" / "b.jpg").read_bytes()
    ] == "Zwei Vögel"


def test_lines_of_json(tmp_path, capsys):
    from third_party.tfds.__main__ import main

    pictures(tmp_path / "pictures", ["0.jpg", "1.jpg"])
    lines = [
        {"image": "0.jpg", "text": "zero"},
        {"image": ["0.jpg", "1.jpg"], "text": "two"},
        {"image": "1.jpg", "text": "one"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, lines)))
    arguments = [str(tmp_path / "a.jsonl"), "--images", str(tmp_path / "pictures"), "--data-dir", str(tmp_path / "out")]
    assert main(["jsonl", "pairs", *arguments, "--split", "held"]) == 0
    assert "left out: 1 bad_record" in capsys.readouterr().out
    source = make("tfds", paths=[str(tmp_path / "out" / "pairs" / "1.0.0")], split="held")
    assert sorted(read(source, index) for index in range(len(source))) == ["[lime]<one>¶", "[red]<zero>¶"]
    assert main(["jsonl", "Not a name", *arguments]) == 2
    assert "a data set's name" in capsys.readouterr().err
    (tmp_path / "a.jsonl").write_text('{"image": "gone.jpg", "text": "zero"}')
    assert main(["jsonl", "nothing", *arguments]) == 2
    assert "nothing has no record that can be used (1 missing)" in capsys.readouterr().err


def test_folders_of_classes(tmp_path):
    from third_party.tfds.builders import folder_reader, prepare

    pictures(tmp_path / "pets", ["cat/0.jpg", "guide_dog/1.jpg"])
    builder = prepare(folder_reader(str(tmp_path / "pets"), name="pets"), str(tmp_path / "out"))
    assert builder.info.splits["train"].num_examples == 2
    source = make("tfds", paths=[str(builder.data_dir)])
    assert sorted(read(source, index) for index in range(2)) == ["[lime]<guide dog>¶", "[red]<cat>¶"]
