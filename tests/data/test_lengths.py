"""Lengths are exact, kept, shared by processes, taken up where they stopped, and made anew when anything changes."""

import dataclasses
import functools
import os
import pathlib

import numpy as np
import pytest

from mmjax.core.config import build
from mmjax.core.errors import ConfigError, DataError, InputError
from mmjax.core.example import Example, Media, Text
from mmjax.data import lengths as lengths_module
from mmjax.data.config import DataConfig
from mmjax.data.lengths import KINDS, Limits, measure
from mmjax.data.stream import BatchStream
from mmjax.text.prompt import Layout, tokenize
from mmjax.text.tokenizer import ByteTokenizer
from tests.data.sources.made import write_lines

TOKENIZER = ByteTokenizer()
NO_PICTURE = functools.partial(pytest.fail, "a picture was decoded")


@dataclasses.dataclass(frozen=True)
class Words:
    """Example i: i % 4 pictures among words; every tenth is broken. `log` names each example that is loaded."""

    name: str
    count: int
    cache: pathlib.Path
    log: pathlib.Path
    version: str = "1"

    @property
    def fingerprint(self):
        return self.version

    def __len__(self):
        return self.count

    def load(self, index, epoch):
        with open(self.log, "a") as log:
            log.write(f"{index} {os.getpid()}\n")
        if index % 10 == 9:
            raise DataError("broken", kind="bad_json")
        parts = [
            (Media((NO_PICTURE,)), Text("x" * (index % 7), loss=True, end_of_chunk=True)) for _ in range(index % 4)
        ]
        return Example(f"{index}", (Text("ab"), *(segment for part in parts for segment in part)))


@pytest.fixture
def words(tmp_path, monkeypatch):
    monkeypatch.setattr(lengths_module, "_CHUNK", 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    return Words("words", 50, tmp_path / "cache", tmp_path / "log")


def loaded(words):
    found = [line.split() for line in words.log.read_text().splitlines()] if words.log.exists() else []
    words.log.write_text("")
    return [int(index) for index, _ in found], {process for _, process in found}


def test_lengths_are_kept_until_something_changes(words):
    first = measure(words, TOKENIZER)
    assert loaded(words)[0] == list(range(50))
    again = measure(words, TOKENIZER)
    assert loaded(words)[0] == []
    assert np.array_equal(first.lengths.tokens, again.lengths.tokens)
    assert first.digest == again.digest
    assert again.left_out == {"bad_json": 5}
    for changed in (
        (dataclasses.replace(words, version="2"), TOKENIZER),
        (words, TOKENIZER, Layout(image_tokens=2)),
        (words, TOKENIZER, Layout(), Limits(max_tokens=9)),
    ):
        assert measure(*changed).kept != first.kept
        assert len(loaded(words)[0]) >= 50


@pytest.mark.parametrize(
    "layout", [Layout(), Layout(image_tokens=3), Layout(image_tokens=0, bos="none"), Layout(bos="after_images")]
)
@pytest.mark.parametrize("limit", [0, 2, 5, 9, 14, 40])
def test_lengths_are_those_of_the_tokens(words, layout, limit):
    lengths = measure(words, TOKENIZER, layout, Limits(max_tokens=limit)).lengths
    for index in range(50):
        if index % 10 == 9:
            assert lengths.tokens[index] == -1 - KINDS.index("bad_json")
            continue
        segments = words.load(index, 0).segments
        text = tokenize(segments, TOKENIZER, layout=layout, max_tokens=limit)
        assert (len(text.tokens), text.images) == (lengths.tokens[index], lengths.images[index])
        whole = tokenize(segments, TOKENIZER, layout=layout)
        if limit == 0 or len(whole.tokens) <= limit:
            assert len(text.tokens) == len(whole.tokens)
            continue
        assert len(text.tokens) <= limit
        assert text.tokens[-1] == TOKENIZER.special["eos"]
        assert not text.loss[-1]
        assert np.array_equal(text.tokens[:-1], whole.tokens[: len(text.tokens) - 1])
        assert (text.tokens == TOKENIZER.special["image"]).sum() == text.images * layout.image_tokens


def test_what_was_interrupted_goes_on(words, monkeypatch):
    class Interrupted(Exception):
        pass

    def broken(function, tasks, **settings):
        for number, task in list(enumerate(tasks))[:3]:
            yield number, function(*task)
        raise Interrupted

    real = lengths_module.run_shared
    monkeypatch.setattr(lengths_module, "run_shared", broken)
    with pytest.raises(Interrupted):
        measure(words, TOKENIZER)
    assert loaded(words)[0] == list(range(24))
    monkeypatch.setattr(lengths_module, "run_shared", real)
    resumed = measure(words, TOKENIZER)
    assert loaded(words)[0] == list(range(24, 50))
    whole = lengths_module.measure_part(words, TOKENIZER, Layout(), Limits(), range(50))
    assert np.array_equal(np.stack(resumed.lengths), whole)
    assert not list(words.cache.glob("*.partial"))
    assert not list(words.cache.glob("*.lock"))


def test_damaged_lengths_are_measured_anew(words):
    whole = np.stack(measure(words, TOKENIZER).lengths)
    for path in words.cache.iterdir():
        path.write_bytes(path.read_bytes()[:-9])
    assert np.array_equal(np.stack(measure(words, TOKENIZER).lengths), whole)


def test_processes_share_the_work(words, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1})
    found = measure(words, TOKENIZER).lengths
    indices, processes = loaded(words)
    assert sorted(indices) == list(range(50))
    assert len(processes) == 2
    assert str(os.getpid()) not in processes
    assert np.array_equal(np.stack(found), lengths_module.measure_part(words, TOKENIZER, Layout(), Limits(), range(50)))


def test_pages_of_too_few_pictures_are_left_out(words):
    lengths = measure(words, TOKENIZER, Layout(), Limits(min_images=2)).lengths
    filtered = -1 - KINDS.index("filtered")
    usable = [index for index in range(50) if index % 10 != 9]
    assert all((lengths.tokens[index] == filtered) == (index % 4 < 2) for index in usable)


def test_single_pictures_are_kept_by_their_share(tmp_path):
    many = Words("many", 4000, tmp_path, pathlib.Path(os.devnull))
    singles = np.array([index for index in range(4000) if index % 4 == 1 and index % 10 != 9])
    kept = {}
    for key in (1, 2):
        tokens = measure(many, TOKENIZER, Layout(), Limits(keep_single_image=0.3, key=key)).lengths.tokens
        kept[key] = tokens[singles] > 0
        assert abs(kept[key].mean() - 0.3) < 4 * (0.21 / len(singles)) ** 0.5
        others = np.array([index for index in range(4000) if index % 4 != 1 and index % 10 != 9])
        assert (tokens[others] > 0).all()
    assert not np.array_equal(kept[1], kept[2])
    assert (measure(many, TOKENIZER, Layout(), Limits(keep_single_image=0.0)).lengths.tokens[singles] < 0).all()


def test_a_cache_that_cannot_be_written_names_the_option(words):
    words.cache.write_text("a file")
    with pytest.raises(InputError, match=r"lengths of words cannot be kept .* give the option cache a folder"):
        measure(words, TOKENIZER)


def test_dropped_tokens_are_measured_and_read_alike(tmp_path):
    """Lengths plan the rows: what is dropped depends on the seed and the number alone, and marks are never dropped."""
    options = write_lines(tmp_path, [{"image": "0.jpg", "text": "abcdefgh" * (1 + n)} for n in range(6)])
    data = {"length": 64, "images": 4, "image_size": 16, "workers": 0, "pack": False}

    def stream(seed=0, **entry):
        source = {"kind": "jsonl", "options": options, "max_tokens": 40, **entry}
        config = build(DataConfig, {"sources": {"a": source}, **data})
        return BatchStream(config, TOKENIZER, batch_size=6, seed=seed)

    def texts(stream):
        item = stream.read(0)
        assert item.bad_records == ()
        lengths = (item.batch.segment_ids > 0).sum(axis=1)
        rows = zip(item.ids, item.batch.tokens, lengths, strict=True)
        return {row: tokens[:length].tolist() for row, tokens, length in rows}

    whole, thin = texts(stream()), texts(stream(drop_tokens=0.5))
    assert thin == texts(stream(drop_tokens=0.5)) != texts(stream(seed=1, drop_tokens=0.5))
    marks = set(TOKENIZER.special.values())
    for row, tokens in thin.items():
        rest = iter(whole[row])
        assert all(token in rest for token in tokens)  # in the same order
        assert [token for token in tokens if token in marks] == [token for token in whole[row] if token in marks]
    assert 0.3 < sum(map(len, thin.values())) / sum(map(len, whole.values())) < 0.8
    with pytest.raises(ConfigError, match="drop_tokens must be between 0 and 1"):
        stream(drop_tokens=1.5)
