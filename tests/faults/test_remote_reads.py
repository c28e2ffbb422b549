"""Reads through mounts that fail for a while are tried again; what goes on failing names the file and ends the run."""

import contextlib
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from mmjax.core.config import build
from mmjax.core.errors import DataError, InputError
from mmjax.data.config import DataConfig
from mmjax.data.images import load_image
from mmjax.data.lengths import measure
from mmjax.data.sources import files
from mmjax.data.sources.files import TRIES, StorageError, inside, read_at
from mmjax.data.stream import BatchStream
from mmjax.text.tokenizer import ByteTokenizer
from tests.data.sources.made import WRITERS, make, picture, read, write_tar

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EAGAIN)


@pytest.fixture
def waits(monkeypatch):
    """The seconds that were waited, which take none here."""
    seconds = []
    monkeypatch.setattr(files.time, "sleep", seconds.append)
    return seconds


class Mount:
    """The system's calls, of which the next `failures` fail with `code`; 0: reads give fewer bytes than there are."""

    def __init__(self, monkeypatch, failures, code, call="pread"):
        self.left, self.code, self.calls = failures, code, 0
        self._real = getattr(os, call)
        monkeypatch.setattr(files.os, call, self)

    def __call__(self, *arguments, **settings):
        self.calls += 1
        if self.left <= 0:
            return self._real(*arguments, **settings)
        self.left -= 1
        if self.code:
            raise OSError(self.code, os.strerror(self.code))
        return b""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "a.bin").write_bytes(bytes(range(100)))
    return str(tmp_path / "a.bin")


@pytest.mark.parametrize("code", [*PASSING, 0])
def test_what_passes_is_waited_for(path, waits, monkeypatch, code):
    mount = Mount(monkeypatch, TRIES - 1, code)
    assert read_at(path, 10, 5) == bytes(range(10, 15))
    assert mount.calls == TRIES
    assert len(waits) == TRIES - 1
    for number, seconds in enumerate(waits):
        assert 0.25 * 2**number <= seconds <= 0.75 * 2**number
    assert len({seconds / 2**number for number, seconds in enumerate(waits)}) > 1


@pytest.mark.parametrize("code", PASSING)
def test_what_does_not_pass_names_the_file(path, waits, monkeypatch, code):
    Mount(monkeypatch, 99, code)
    with pytest.raises(InputError, match=rf"a.bin could not be read, {TRIES} times in a row \(.*see to the disk"):
        read_at(path, 0, 5)
    assert sum(waits) < 0.75 * 2**TRIES


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EACCES, errno.EISDIR])
def test_what_will_not_pass_is_not_waited_for(path, waits, monkeypatch, code):
    Mount(monkeypatch, 99, code)
    with pytest.raises(DataError, match="cannot be read") as caught:
        read_at(path, 0, 5)
    assert caught.value.kind == "missing"
    assert not waits


def test_a_file_that_ends_is_truncated_at_once(path, waits):
    with pytest.raises(DataError, match="ends before byte 105") as caught:
        read_at(path, 95, 10)
    assert caught.value.kind == "truncated"
    assert not waits


def test_a_stale_handle_is_opened_anew(path, waits, monkeypatch):
    read_at(path, 0, 5)
    opened = Mount(monkeypatch, 0, 0, "open")
    Mount(monkeypatch, 1, errno.ESTALE)
    assert read_at(path, 0, 5) == bytes(range(5))
    assert opened.calls == 1


def test_looking_for_a_picture_is_patient_too(path, waits, monkeypatch):
    Mount(monkeypatch, 2, errno.ETIMEDOUT, "stat")
    assert inside(os.path.dirname(path), "a.bin") == path
    assert len(waits) == 2


def test_pictures_in_a_folder_are_waited_for(tmp_path, waits, monkeypatch):
    (tmp_path / "0.jpg").write_bytes(picture(0))
    (tmp_path / "a.jsonl").write_text('{"image": "0.jpg", "text": "a"}\n')
    medium = make("jsonl", paths=(f"{tmp_path}/a.jsonl",)).load(0, 0).segments[0]
    left, opened = [errno.ETIMEDOUT, errno.EIO], open

    def failing(*arguments, **settings):
        if left:
            raise OSError(left.pop(), "away")
        return opened(*arguments, **settings)

    monkeypatch.setattr("builtins.open", failing)
    assert medium.load()[0].shape == (16, 16, 3)
    assert len(waits) == 2 and not left


def archive_stream(tmp_path):
    members = [(f"{n}.{end}", data) for n in range(6) for end, data in (("jpg", picture(n)), ("txt", b"t%d" % n))]
    source = {"kind": "webdataset", "options": {"paths": [write_tar(tmp_path / "0.tar", members)]}}
    config = build(DataConfig, {"sources": {"a": source}, "length": 64, "images": 4, "image_size": 16, "workers": 0})
    return BatchStream(config, ByteTokenizer(), batch_size=4, seed=0)


def test_a_stream_waits_and_replaces_nothing(tmp_path, waits, monkeypatch):
    """A record is not bad because its storage was away: another run would hold it."""
    planned = archive_stream(tmp_path).row_ids(0)
    stream = archive_stream(tmp_path)
    Mount(monkeypatch, 4, errno.EIO)
    item = stream.read(0)
    assert (item.ids, item.bad_records) == (planned, ())
    Mount(monkeypatch, 10**6, errno.EIO)
    with pytest.raises(InputError, match=r"0.tar could not be read"):
        stream.read(1)


def test_lengths_are_not_measured_through_a_mount_that_fails(tmp_path, waits, monkeypatch):
    """Otherwise what was away would be left out for good."""
    members = [(f"{n}.{end}", data) for n in range(6) for end, data in (("jpg", picture(n)), ("txt", b"t%d" % n))]
    write_tar(tmp_path / "0.tar", members)
    with monkeypatch.context() as failing:
        Mount(failing, 10**6, errno.EIO)
        with pytest.raises(InputError, match=r"0.tar could not be read"):
            archive_stream(tmp_path)
    assert len(archive_stream(tmp_path).row_ids(0)) == 4


@pytest.mark.parametrize("name", ["a.png", "a.webp"])
def test_pictures_of_other_formats_are_waited_for(tmp_path, waits, monkeypatch, name):
    path = tmp_path / name
    path.write_bytes(picture(0, kind=path.suffix[1:]))
    whole = load_image(path, size=16)
    Mount(monkeypatch, 2, errno.EIO)
    np.testing.assert_array_equal(load_image(path, size=16), whole)
    assert len(waits) == 2
    Mount(monkeypatch, 99, errno.EIO)
    with pytest.raises(StorageError, match=f"{name} could not be read"):
        load_image(path, size=16)


# What Arrow files hold is mapped into memory, and of image folders only the names count.
READ_BY_CALLS = sorted(set(WRITERS) - {"arrow", "array_record", "tfds", "image_folder"})


@pytest.mark.parametrize("kind", READ_BY_CALLS)
def test_records_of_all_kinds_are_waited_for(tmp_path, waits, monkeypatch, kind):
    options = WRITERS[kind](tmp_path)
    whole = read(make(kind, **options), 0)
    source = make(kind, **options)
    Mount(monkeypatch, 3, errno.ETIMEDOUT)
    assert read(source, 0) == whole
    assert len(waits) == 3


@contextlib.contextmanager
def away(path):
    """While it lasts, the open handle of a file is one that fails with EIO, for libraries that call no Python."""
    handles = [int(name) for name in os.listdir("/proc/self/fd") if _file_of(name) == os.path.realpath(path)]
    assert handles
    memory, kept = os.open("/proc/self/mem", os.O_RDONLY), [os.dup(handle) for handle in handles]
    with pytest.raises(OSError, match="Input/output error"):
        os.pread(memory, 1, 0)
    try:
        for handle in handles:
            os.dup2(memory, handle)
        yield
    finally:
        for handle, real in zip(handles, kept, strict=True):
            if _file_of(handle) == os.path.realpath("/proc/self/mem"):  # it may be closed, and be another file's now
                os.dup2(real, handle)
            os.close(real)
        os.close(memory)


def _file_of(handle):
    with contextlib.suppress(OSError):
        return os.path.realpath(f"/proc/self/fd/{handle}")
    return ""


@pytest.mark.parametrize("kind", ["array_record", "tfds"])
def test_handles_of_array_records_are_opened_anew(tmp_path, waits, kind):
    source = make(kind, **WRITERS[kind](tmp_path))
    whole = read(source, 0)
    with away(source.file_of(0)):
        assert read(source, 0) == whole
    assert len(waits) == 1


def test_array_records_that_stay_away_are_not_bad_records(tmp_path, waits, monkeypatch):
    source = make("array_record", **WRITERS["array_record"](tmp_path))
    read(source, 0)
    monkeypatch.setattr(source._readers, "cache_clear", lambda: None)
    with away(source.file_of(0)):
        with pytest.raises(StorageError, match=r"a.array_record could not be read, 6 times in a row \(Input/output"):
            source.load(0, 0)
        with pytest.raises(StorageError):
            measure(source, ByteTokenizer())
    assert not list(source.cache.glob("lengths-*.npy"))


def test_a_damaged_array_record_is_a_bad_record_at_once(tmp_path, waits):
    options = WRITERS["array_record"](tmp_path)
    source = make("array_record", **options)
    place = (data := Path(*options["paths"]).read_bytes()).index(b"record 3")
    Path(*options["paths"]).write_bytes(data[:place] + b"RECORD" + data[place + 6 :])
    with pytest.raises(DataError, match=r"record 3 of data of .*cannot be read") as caught:
        source.load(3, 0)
    assert caught.value.kind == "corrupt" and not waits


def test_array_records_that_cannot_be_opened_for_a_while(tmp_path, waits, monkeypatch):
    """Opening one says nothing but that it failed: the file is probed."""
    from array_record.python import array_record_module

    options, opened = WRITERS["array_record"](tmp_path), []

    class Away(array_record_module.ArrayRecordReader):
        def ok(self):
            opened.append(self)
            return len(opened) > 1

    monkeypatch.setattr(array_record_module, "ArrayRecordReader", Away)
    Mount(monkeypatch, 2, errno.EIO)
    assert read(make("array_record", **options), 0) == "[red]<record 0>¶"
    assert (len(waits), len(opened)) == (2, 3)  # the index opens it twice, the reader once
    opened.clear()
    Mount(monkeypatch, 99, errno.EIO)
    with pytest.raises(StorageError, match=r"a.array_record could not be read"):
        make("array_record", **options, cache=str(tmp_path / "other"))


@pytest.mark.parametrize("kind", ["parquet", "obelics", "video", "chat", "mmc4"])
def test_nothing_is_left_out_for_good(tmp_path, waits, monkeypatch, kind):
    options = WRITERS[kind](tmp_path)
    if kind == "video":
        options["video"] = {"frames": 1, "times": True}  # lengths need the file then
    source = make(kind, **options)
    with monkeypatch.context() as failing:
        Mount(failing, 10**6, errno.EIO)
        with pytest.raises(StorageError, match="could not be read"):
            measure(source, ByteTokenizer())
    assert measure(make(kind, **options), ByteTokenizer()).left_out == {}


def test_a_video_that_is_away_while_it_is_decoded(tmp_path, waits, monkeypatch):
    source = make("video", **WRITERS["video"](tmp_path))
    medium = source.load(0, 0).segments[0]
    Mount(monkeypatch, 10**6, errno.EIO)
    with pytest.raises(StorageError, match=r"0.mp4 could not be read"):
        medium.load()


@pytest.mark.parametrize("kind", ["tfds", "array_record", "webdataset", "jsonl", "parquet"])
def test_addresses_are_refused_at_once(kind):
    with pytest.raises(InputError, match=r"gs://bucket/a is an address.*mount the bucket \(gcsfuse"):
        make(kind, paths=("gs://bucket/a",))


def test_an_address_for_the_cache_is_refused(path):
    with pytest.raises(InputError, match="gs://bucket/cache is an address"):
        make("jsonl", paths=(path,), cache="gs://bucket/cache")
