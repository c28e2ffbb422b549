"""Every kind of data in the stream: rows, left-out and broken records."""

import concurrent.futures
import itertools
import json
import pickle
import re

import numpy as np
import pytest

from mmjax.core.config import build, to_tree
from mmjax.core.errors import DataError, InputError
from mmjax.data.config import DataConfig
from mmjax.data.sources.kinds import FILES
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer
from tests.data.sources.made import COUNT, WRITERS, jsonl, mmc4, picture, spelled


def stream_of(options, kind, entry=None, workers=0, **changes):
    source = {"kind": kind, "options": options} | (entry or {})
    config = build(DataConfig, {"sources": {kind: source}, "length": 64, "images": 4, "image_size": 16, **changes})
    return BatchStream(config, ByteTokenizer(), batch_size=2, seed=0, workers=workers)


def test_every_kind_is_tried_here():
    assert set(WRITERS) == set(FILES)


@pytest.mark.parametrize("kind", FILES)
def test_an_epoch_of_each_kind(kind, tmp_path):
    options = WRITERS[kind](tmp_path)
    stream = stream_of(options, kind, pack=False)
    items = [stream.read(step) for step in range(COUNT // 2)]
    assert sorted(id for item in items for id in item.ids) == [f"{kind}:0:{number}" for number in range(COUNT)]
    assert not any(item.bad_records for item in items)
    for item in items:
        assert (item.batch.loss_weights.sum(axis=1) > 0).all()
        assert (item.batch.image_mask.sum(axis=1) == (2 if kind == "nlvr2" else 1)).all()
        for row in range(2):
            colours = item.batch.images[row, 0].reshape(-1, 3).mean(axis=0)
            assert colours.max() > 200
    assert to_tree(stream.config.resolved())["sources"][kind]["options"]["paths"] == options["paths"]
    again = pickle.loads(pickle.dumps(stream._sources[0]))
    assert [spelled(again.load(index, 0).segments) for index in range(COUNT)] == [
        spelled(stream._sources[0].load(index, 0).segments) for index in range(COUNT)
    ]


@pytest.mark.parametrize("kind", FILES)
def test_threads_change_nothing(kind, tmp_path):
    options = WRITERS[kind](tmp_path)
    items = itertools.islice(stream_of(options, kind, workers=4), 20)
    alone = stream_of(options, kind)
    for item in items:
        assert item.ids == alone.row_ids(item.step)
        assert np.array_equal(item.batch.images, alone.read(item.step).batch.images)


def test_data_can_move(tmp_path):
    (tmp_path / "here").mkdir()
    options = jsonl(tmp_path / "here")
    first = stream_of(options, "jsonl").fingerprint()
    assert stream_of(options | {"cache": str(tmp_path / "cache")}, "jsonl").fingerprint() == first
    (tmp_path / "here").rename(tmp_path / "there")
    moved = {"paths": [str(tmp_path / "there" / "a.jsonl")]}
    assert stream_of(moved, "jsonl").fingerprint() == first
    assert stream_of(moved | {"prompt": "!"}, "jsonl").fingerprint() != first
    (tmp_path / "there" / "a.jsonl").write_text('{"image": "0.jpg", "text": "another"}\n')
    assert stream_of(moved, "jsonl").fingerprint() != first


def test_openflamingos_filters(tmp_path):
    """256 tokens of a page, and half of the pages of one picture."""
    options = mmc4(tmp_path)
    cut = stream_of(options, "mmc4", {"max_tokens": 7}, pack=False)
    assert (cut._lengths[0].tokens == 7).all()
    item = cut.read(0)
    assert ((item.batch.segment_ids > 0).sum(axis=1) == 7).all()
    assert (item.batch.loss_weights[:, 5:] == 0).all()  # the end token comes from the cut
    early = stream_of(options, "mmc4", {"max_tokens": 4, "min_images": 0}, pack=False)
    assert (early._lengths[0].images == 0).all()
    with pytest.raises(InputError, match="no example that can be used"):
        stream_of(options, "mmc4", {"max_tokens": 4, "min_images": 1})
    some = stream_of(options, "mmc4", {"keep_single_image": 0.5})
    kept = np.flatnonzero(some._lengths[0].tokens > 0)
    assert 0 < len(kept) < COUNT
    assert some.unusable == {}


def test_broken_records_are_left_out_or_replaced(tmp_path):
    (tmp_path / "whole.jpg").write_bytes(picture(0))
    (tmp_path / "cut.jpg").write_bytes(picture(0)[:300])
    (tmp_path / "page.jpg").write_bytes(b"<html>")
    good = [json.dumps({"image": "whole.jpg", "text": f"text {number}"}) for number in range(20)]
    bad = [
        "{not json",
        json.dumps({"image": "whole.jpg", "text": ""}),
        json.dumps({"image": "gone.jpg", "text": "text X"}),
        json.dumps({"image": "cut.jpg", "text": "text X"}),
        json.dumps({"image": "page.jpg", "text": "text X"}),
        json.dumps({"image": "/etc/passwd", "text": "text X"}),
        json.dumps({"image": "whole.jpg", "text": "\ud800"}),
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(good + bad))
    options = {"paths": [str(tmp_path / "a.jsonl")]}
    stream = stream_of(options, "jsonl", max_bad_share=0.5)
    assert stream.unusable == {"bad_json": 1, "empty_text": 1, "bad_text": 1}
    left_out = {"20": "bad_json", "21": "empty_text", "26": "bad_text"}
    assert {record.id.split(":")[2]: record.kind for record in stream.unusable_records()} == left_out
    assert [record.id for record in stream.unusable_records(most=1)] == ["jsonl:0:20"]
    used, records = set(), set()
    for step in range(12):
        item = stream.read(step)
        records |= {(record.kind, record.id.split(":")[2]) for record in item.bad_records}
        used |= {int(id.split(":")[2]) for row in item.ids for id in row.split("+")}
    assert records == {("missing", "22"), ("truncated", "23"), ("not_an_image", "24"), ("hostile_path", "25")}
    assert used <= set(range(20))
    message = (
        r"3 of 27 records of jsonl cannot be used \(1 bad_json, 1 bad_text, 1 empty_text\): .* the first: record 20 of"
    )
    with pytest.raises(InputError, match=message):
        stream_of(options, "jsonl")


def test_the_vocabulary_of_ids_is_of_the_source(tmp_path):
    stream = stream_of(jsonl(tmp_path), "jsonl")
    assert all(re.fullmatch(r"jsonl:\d+:\d", id) for row in stream.row_ids(0) for id in row.split("+"))


@pytest.mark.parametrize("kind", FILES)
def test_files_that_vanish_are_bad_records(kind, tmp_path):
    (tmp_path / "data").mkdir()
    options = WRITERS[kind](tmp_path / "data") | {"cache": str(tmp_path / "cache")}
    source = pickle.loads(pickle.dumps(stream_of(options, kind)._sources[0]))
    for path in (tmp_path / "data").rglob("*"):
        if path.is_file():
            path.unlink()
    with concurrent.futures.ThreadPoolExecutor(1) as thread:  # which has no file open yet
        read = thread.submit(lambda: spelled(source.load(0, 0).segments))
        if kind != "arrow":  # its files are mapped into memory, where they stay
            with pytest.raises(DataError, match=re.escape(str(tmp_path / "data"))):
                read.result()
