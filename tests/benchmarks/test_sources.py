"""Each snippet of docs/data.md reads the files that the benchmark of sources draws for it."""

import contextlib

import pytest

from benchmarks.source_files import SCENES, first_two, scene, words, write_files
from benchmarks.sources import DOCS, learns, run_config, snippets
from mmjax.core.config import build
from mmjax.core.errors import DataError
from mmjax.data.config import SourceEntry
from mmjax.data.sources.kinds import FILES
from mmjax.data.stream import make_source
from mmjax.training.run import RunConfig

ENTRIES = snippets(DOCS.read_text(encoding="utf-8"))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry["kind"])
def test_a_snippet_reads_files_of_its_layout(entry, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    paths = [first_two(path) for path in entry["options"]["paths"]]
    entry = {**entry, "options": {**entry["options"], "paths": paths}}
    assert build(RunConfig, run_config(entry, steps=20, pairs=False)).resolved()
    with contextlib.chdir(tmp_path):
        write_files(entry["kind"], entry["options"])
        source = make_source(build(SourceEntry, entry), name="data", seed=0, image_size=16)
        read = []
        for index in range(len(source)):
            with contextlib.suppress(DataError):
                read.append(source.load(index, 0))
    assert len(read) >= min(len(source) - 3, SCENES // 2)


def test_scenes_are_named_and_ranges_shortened():
    assert {entry["kind"] for entry in ENTRIES} == set(FILES)
    assert [words(number) for number in (0, 7, 23)] == ["a red circle", "a lime square", "a magenta bar"]
    assert scene(0).getpixel((48, 36)) == (255, 0, 0)
    assert first_two("a{00..17}.tar") == "{a00.tar,a01.tar}"
    assert first_two("a.json") == "a.json"


def test_what_counts_as_learning():
    assert learns([3.0, 2.0, 2.5, 1.0], 4)
    assert not learns([3.0, 2.0, 2.5, 3.0], 4)
    assert not learns([3.0, float("nan"), 2.5, 1.0], 4)
    assert not learns([3.0, 2.0, 1.0], 4)
