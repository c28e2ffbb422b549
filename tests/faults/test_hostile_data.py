"""Broken and hostile files do nothing but be counted by their kind: nothing escapes, is written, or grows."""

import collections
import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media
from tests.data.sources.made import make, picture, saved_dataset, table, write_array_record, write_tar
from tests.faults.hostile_files import WHOLE, Payload, hostile_corpus, hostile_tar, read_every, stream_of

ROOT = Path(__file__).parents[2]
# Pillow warns of what it then reads, or refuses, anyway.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def listing(folder):
    """All that lies in a folder, but what readers keep there."""
    return sorted(str(path) for path in folder.rglob("*") if ".mmjax" not in path.parts)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """The path of the corpus, what is tried and how it is to be called, and all files before anything is read."""
    folder = tmp_path_factory.mktemp("hostile")
    path, names, kinds = hostile_corpus(folder / "h")
    return path, names, kinds, listing(folder)


def test_each_is_called_by_its_kind(corpus):
    path, names, kinds, before = corpus
    assert len([kind for kind in kinds if kind != WHOLE]) >= 40
    found = read_every(path)
    assert {name: (kind, is_) for name, kind, is_ in zip(names, kinds, found, strict=True) if kind != is_} == {}
    assert listing(path.parents[1]) == before


def test_the_stream_counts_them_and_puts_good_ones_in_their_places(corpus):
    path, _, kinds, before = corpus
    stream = stream_of(path)
    at_once = [kind for kind, tokens in zip(kinds, stream._lengths[0].tokens, strict=True) if tokens < 0]
    assert stream.unusable == collections.Counter(at_once)
    good = {index for index, kind in enumerate(kinds) if kind == WHOLE}
    called = {}
    for item in itertools.islice(stream, 15):
        used = {int(id.split(":")[2]) for row in item.ids for id in row.split("+")}
        assert used <= good
        called |= {int(record.id.split(":")[2]): record.kind for record in item.bad_records}
    assert called == {index: kinds[index] for index in called}
    assert len(called) >= 30
    assert listing(path.parents[1]) == before


@pytest.mark.slow
def test_memory_stays_that_of_a_clean_corpus(tmp_path):
    peaks = {}
    for which in ("clean", "hostile"):
        command = [sys.executable, "-m", "tests.faults.hostile_files", str(tmp_path), which]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
        peaks[which] = int(done.stdout)
    assert peaks["hostile"] <= 1.5 * peaks["clean"], peaks


def test_members_of_an_archive_do_nothing(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "tars").mkdir()
    source = make("webdataset", paths=(hostile_tar(tmp_path / "tars" / "0.tar", outside),))
    before, found = listing(tmp_path), collections.Counter()
    for index in range(len(source)):
        try:
            segments = source.load(index, 0).segments
            for segment in segments:
                if isinstance(segment, Media):
                    segment.load()
            found[segments[-1].text] += 1
        except DataError as error:
            found[error.kind] += 1
    assert found == {"good": 1, "missing": 5, "not_an_image": 1, "bad_text": 1}
    assert listing(tmp_path) == before


def cut(data, share):
    return data[: int(len(data) * share)]


def tar_bytes(folder):
    members = [(f"{n}.{end}", data) for n in range(4) for end, data in (("jpg", picture(n)), ("txt", b"t"))]
    return Path(write_tar(folder / "made.tar", members)).read_bytes()


def parquet_bytes(folder):
    pyarrow.parquet.write_table(table(6), folder / "made.parquet")
    return (folder / "made.parquet").read_bytes()


def arrow_bytes(folder):
    saved_dataset(folder / "made", [table(6)])
    return next((folder / "made").glob("*.arrow")).read_bytes()


def record_bytes(folder):
    write_array_record(folder / "made.array_record", [b'{"image": "0.jpg", "text": "a"}'] * 50)
    return (folder / "made.array_record").read_bytes()


def with_flip(data, place):
    return data[:place] + bytes([data[place] ^ 0xFF]) + data[place + 1 :]


# What is done to whole files; opening them, or reading their records, must say so.
DAMAGE = {
    "cut in half": lambda data: cut(data, 0.5),
    "cut near the end": lambda data: cut(data, 0.97),
    "empty": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"no such file\n" * 100,
    "compressed": lambda data: b"\x1f\x8b\x08" + data[3:],
    "a bit at the beginning": lambda data: with_flip(data, 1),
    "a bit at a checksum": lambda data: with_flip(data, 150),
    "a bit in the middle": lambda data: with_flip(data, len(data) // 2),
    "a bit near the end": lambda data: with_flip(data, len(data) - 6),
    "the end twice": lambda data: data + data[-64:],
}
FILES = {
    ("webdataset", "tar"): tar_bytes,
    ("parquet", "parquet"): parquet_bytes,
    ("arrow", "arrow"): arrow_bytes,
    ("array_record", "array_record"): record_bytes,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("kind", "ending"), FILES)
def test_damaged_files_are_named_or_their_records_are(kind, ending, damage, tmp_path):
    whole = FILES[kind, ending](tmp_path)
    path = tmp_path / f"damaged.{ending}"
    path.write_bytes(DAMAGE[damage](whole))
    before = listing(tmp_path)
    try:
        source = make(kind, paths=(str(path),))
        found = []
        for index in range(len(source)):
            try:
                for segment in source.load(index, 0).segments:
                    if isinstance(segment, Media):
                        segment.load()
                found.append(WHOLE)
            except DataError as error:
                found.append(error.kind)
    except InputError as error:
        assert "damaged" in str(error)
    assert listing(tmp_path) == before


def test_a_kept_index_is_never_unpickled(tmp_path):
    """Someone put a pickle where an index is kept."""
    (tmp_path / "0.jpg").write_bytes(picture(0))
    (tmp_path / "a.jsonl").write_text('{"image": "0.jpg", "text": "a"}\n' * 3)
    assert len(make("jsonl", paths=(f"{tmp_path}/a.jsonl",))) == 3
    for kept in (tmp_path / ".mmjax").iterdir():
        kept.write_bytes(pickle.dumps(Payload(tmp_path / "unpickled")))
    source = make("jsonl", paths=(f"{tmp_path}/a.jsonl",))
    assert len(source) == 3 and source.load(2, 0).segments[-1].text == "a"
    assert not (tmp_path / "unpickled").exists()
