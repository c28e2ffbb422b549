"""Shards hold the same examples, bit for bit the same whoever writes them, and appear whole or not at all."""

import functools
import importlib.util
import io
import json

import numpy as np
import pytest
from PIL import Image

from mmjax.core.errors import InputError
from mmjax.core.example import Media, Text
from mmjax.data import convert as module
from mmjax.data.convert import Conversion, default_shards, example_record, write_shard
from mmjax.data.sources.kinds import FILES, SOURCES
from mmjax.data.sources.serialized import parse_example, serialize_example
from tests.data.sources.made import SIZE, WRITERS, example, make, picture, read, write_array_record, write_lines

convert = functools.partial(module.convert, processes=1)


def conversion(source, folder, **settings):
    return Conversion(source, {"kind": "some", "options": {}}, folder, **{"shards": 1, **settings})


def shards_of(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.array_record"))}


def pages(folder):
    """Interleaved pages whose texts have all flags, and a picture that they share."""
    records = [
        {
            "segments": [
                {"text": f"Intro {number}. ", "loss": False},
                {"image": f"{number}.jpg"},
                {"text": "Ein Hündchen\n"},
                {"image": "0.jpg"},
                {"text": "the end", "loss": False},
            ]
        }
        for number in range(6)
    ]
    return write_lines(folder, records)


@pytest.mark.parametrize("kind", FILES)
def test_every_kind_reads_back_to_the_same_examples(kind, tmp_path):
    source = make(kind, **WRITERS[kind](tmp_path))
    facts = convert(conversion(source, tmp_path / "out", shards=2))
    again = make("array_record", paths=(f"{tmp_path}/out/data-*.array_record",))
    assert len(again) == len(source) == facts["examples"] == sum(shard["examples"] for shard in facts["shards"])
    for index in range(len(source)):
        before, after = source.load(index, 0).segments, again.load(index, 0).segments
        assert [type(segment) for segment in before] == [type(segment) for segment in after]
        for one, other in zip(before, after, strict=True):
            if isinstance(one, Text):
                assert one == other
            else:
                np.testing.assert_array_equal(np.stack(one.load()), np.stack(other.load()))


def test_pictures_keep_their_bytes_and_texts_their_flags(tmp_path):
    source = make("jsonl", **pages(tmp_path))
    convert(conversion(source, tmp_path / "out"))
    again = make("array_record", paths=(f"{tmp_path}/out/data-00000-of-00001.array_record",))
    assert [read(again, index) for index in range(6)] == [read(source, index) for index in range(6)]
    media = [segment for segment in again.segments(3) if isinstance(segment, Media)]
    assert [medium.frames[0].encoded() for medium in media] == [picture(3), picture(0)]


def test_frames_without_files_and_several_of_a_medium():
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (3, 8, 8, 3), np.uint8)
    segments = (Media((clip[0], lambda: clip[1:])), Text("a clip", loss=True))
    record, count = example_record(segments)
    assert count == 3
    features = parse_example(record, "x")
    assert json.loads(features["mmjax/segments"][0]) == [{"frames": 3}, {"text": "a clip", "loss": True}]
    shown = [np.asarray(Image.open(io.BytesIO(file))) for file in features["mmjax/pictures"]]
    np.testing.assert_array_equal(shown, clip)


def test_drawn_examples_are_kept_as_they_are_drawn(tmp_path):
    settings, reader = SOURCES["digits_read"]
    source = reader(settings(count=5), name="data", seed=0, image_size=SIZE)
    convert(conversion(source, tmp_path))
    again = make("array_record", paths=(f"{tmp_path}/data-00000-of-00001.array_record",))
    for index in range(5):
        for one, other in zip(source.load(index, 0).segments, again.segments(index), strict=True):
            if isinstance(one, Media):
                np.testing.assert_array_equal(one.load()[0], other.load()[0])
            else:
                assert one == other


def test_pictures_are_shrunk_where_that_is_asked(tmp_path):
    options = pages(tmp_path)
    Image.new("RGB", (90, 60), "blue").save(tmp_path / "1.jpg")
    (tmp_path / "2.jpg").write_bytes(picture(2, side=120)[:-200])
    source = make("jsonl", **options)
    facts = convert(conversion(source, tmp_path / "out", size=30, quality=80))
    assert facts["left_out"] == {"truncated": 1} and facts["examples"] == 5
    again = make("array_record", paths=(f"{tmp_path}/out/data-00000-of-00001.array_record",))
    shown = [segment.frames[0].encoded() for segment in again.segments(1) if isinstance(segment, Media)]
    assert Image.open(io.BytesIO(shown[0])).size == (45, 30)
    assert shown[1] == picture(0)  # it is smaller
    (line,) = (tmp_path / "out" / "data.bad_records.jsonl").read_text().splitlines()
    assert json.loads(line)["id"] == "data:0:2"


def test_the_same_bytes_again_and_the_rest_of_what_was_interrupted(tmp_path, monkeypatch):
    source = make("jsonl", **pages(tmp_path))
    whole = conversion(source, tmp_path / "whole", shards=3)
    facts = convert(whole)
    assert sorted(path.name for path in whole.folder.iterdir()) == [
        "data-00000-of-00003.array_record",
        "data-00001-of-00003.array_record",
        "data-00002-of-00003.array_record",
        "data.bad_records.jsonl",
        "data.json",
    ]
    part = conversion(source, tmp_path / "part", shards=3)
    assert part.key == whole.key

    def stop(conversion, shards):
        write_shard(conversion, shards[0])
        with monkeypatch.context() as patch:
            patch.setattr(module, "example_record", lambda *_, **__: 1 / 0)
            write_shard(conversion, shards[1])

    with pytest.raises(ZeroDivisionError):
        convert(part, run=stop)
    assert list(shards_of(part.folder)) == ["data-00000-of-00003.array_record"]  # no unfinished one
    (part.folder / ".data-00001-of-00003.array_record.host-1.partial").write_bytes(b"of one that was killed")
    written = []
    convert(part, run=lambda conversion, shards: [written.append(n) or write_shard(conversion, n) for n in shards])
    assert written == [1, 2]
    assert sorted(path.name for path in part.folder.iterdir()) == sorted(path.name for path in whole.folder.iterdir())
    assert shards_of(part.folder) == shards_of(whole.folder)
    assert (part.folder / "data.json").read_bytes() == (whole.folder / "data.json").read_bytes()
    assert convert(part, run=lambda *_: 1 / 0) == facts  # nothing is left to do


def test_what_would_mix_is_refused(tmp_path):
    options = pages(tmp_path)
    source = make("jsonl", **options)
    convert(conversion(source, tmp_path / "out", shards=2))
    with pytest.raises(InputError, match=r"data.json is of another conversion \(other files or settings\)"):
        convert(conversion(source, tmp_path / "out", shards=3))
    (tmp_path / "out" / "data-00001-of-00002.array_record").unlink()
    with pytest.raises(InputError, match="shards are missing"):
        convert(conversion(source, tmp_path / "out", shards=2))
    (tmp_path / "out" / "data.json").unlink()
    with pytest.raises(InputError, match=r"data-00000-of-00002\.array_record is there already"):
        convert(conversion(source, tmp_path / "out", shards=2))
    with pytest.raises(ZeroDivisionError):
        convert(conversion(source, tmp_path / "new", shards=2), run=lambda *_: 1 / 0)
    with pytest.raises(InputError, match="of an unfinished conversion with other files or settings"):
        convert(conversion(source, tmp_path / "new", shards=1))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written: Not a directory"):
        convert(conversion(source, tmp_path / "file"))
    for settings in ({"shards": 0}, {"quality": 0}, {"size": -1}):
        with pytest.raises(InputError):
            conversion(source, tmp_path, **settings)
    settings, reader = SOURCES["jsonl"]
    with pytest.raises(InputError, match="cannot begin the names of files"):
        conversion(reader(settings(**options), name="../x", seed=0, image_size=SIZE), tmp_path)


@pytest.mark.parametrize(
    "segments",
    [
        b"[]x",
        b"5",
        b'[{"words": "a"}]',
        b'[{"text": "a", "loss": 1}]',
        b'[{"text": "a"}, {"frames": 2}]',
        b'[{"frames": 0}, {"text": "a"}]',
        b'[{"text": "a"}]',
    ],
)
def test_records_that_are_no_examples(segments, tmp_path):
    record = serialize_example({"mmjax/segments": [segments], "mmjax/pictures": [picture(0)]})
    write_array_record(tmp_path / "a.array_record", [record])
    source = make("array_record", paths=(f"{tmp_path}/a.array_record",))
    with pytest.raises(module.DataError) as caught:
        source.load(0, 0)
    assert caught.value.kind == "bad_record"


def test_serialized_features():
    features = {"b": [b"x" * 300, b""], "a": [b"1"]}
    assert serialize_example(features) == example(a=b"1", b=[b"x" * 300, b""])
    assert parse_example(serialize_example(features), "x") == features


def test_as_many_shards_as_there_are_tens_of_thousands():
    assert [default_shards(range(count)) for count in (1, 14_000, 26_000, 10**10)] == [1, 1, 3, 99_999]


@pytest.mark.skipif(importlib.util.find_spec("apache_beam") is None, reason="Apache Beam is not installed")
@pytest.mark.filterwarnings("ignore")  # Beam's own
def test_beam_writes_the_same_files(tmp_path):
    from mmjax.data.beam import run_pipeline

    source = make("jsonl", **pages(tmp_path))
    convert(conversion(source, tmp_path / "local", shards=3))
    convert(conversion(source, tmp_path / "beam", shards=3), run=functools.partial(run_pipeline, options=()))
    names = sorted(path.name for path in (tmp_path / "local").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "beam").iterdir())
    for name in names:
        assert (tmp_path / "local" / name).read_bytes() == (tmp_path / "beam" / name).read_bytes()
