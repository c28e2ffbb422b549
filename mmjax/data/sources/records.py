"""`array_record` and `tfds`: files of serialized records, without TensorFlow."""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Frame, Media, Segment, Text
from mmjax.data.sources.files import StorageError, find_files, passing_error, patiently, read_at
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.lines import SPAN, parse_json, read_span
from mmjax.data.sources.options import ArrayRecordOptions, TfdsOptions
from mmjax.data.sources.reader import FileReader, IndexedReader, pair_segments, usable_text, valid_text
from mmjax.data.sources.serialized import parse_example

# The features of a whole example (see `mmjax.data.convert`).
SEGMENTS, PICTURES = "mmjax/segments", "mmjax/pictures"
_PROBED = 1 << 20
_SHARD = re.compile(r".+-(?P<split>[^-]+)\.(?P<format>array_record|tfrecord)-(?P<number>\d{5})-of-(?P<count>\d{5})")


class _Records(IndexedReader):
    """Serialized records of pictures and texts; `_read(index)` gives the bytes of one."""

    _options: Any

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, data = self._read(index)
        what = f"{self._what(index)} in {path}"
        if data[:1] == b"{":
            record = parse_json(data, what)
        else:
            features = parse_example(data, what)
            if SEGMENTS in features:
                return self._whole(features, what)
            record = _firsts(features)
        picture = record.get(self._options.image)
        if not picture:
            raise DataError(f"{what} has no {self._options.image}", kind="missing")
        text = usable_text(record.get(self._options.text), f"{what}: {self._options.text}")
        media = [self._images.media(picture, what)]
        return pair_segments(media, text, prompt=self._options.prompt, end_of_chunk=self._options.end_of_chunk)

    def _whole(self, features, what):
        """An example as `mmjax data convert` writes it; it says for itself what is learned and where chunks end."""
        pictures = iter(features.get(PICTURES, ()))
        frames = (frame for picture in pictures for frame in self._images.media(picture, what).frames)
        try:
            items = json.loads(features[SEGMENTS][0])
            segments = tuple(_segment(item, frames, what) for item in items)
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise DataError(f"{what}: its segments cannot be read: {error}", kind="bad_record") from None
        if next(pictures, None) is not None:
            raise DataError(f"{what} holds more pictures than its segments show", kind="bad_record")
        return segments


class ArrayRecord(_Records):
    """Records of ArrayRecord files."""

    def __init__(self, options: ArrayRecordOptions, **settings):
        super().__init__(options, **settings)
        self._open_records(self._paths)
        self._images = self._pictures(options.images)

    def _open_records(self, paths):
        self._index = FileIndex(paths, scan_array_record, cache=self.cache, version="array_record 1")
        self._readers = functools.lru_cache(maxsize=256)(_array_record)

    def _read(self, index):
        path, number = self._index[index]

        def read() -> bytes:
            try:
                return self._readers(path).read([int(number)])[0]
            except RuntimeError as error:
                passing = passing_error(str(error))
                if passing is None:
                    raise
                self._readers.cache_clear()  # a handle may have gone stale
                raise passing from None

        try:
            return path, patiently(path, read)
        except StorageError:
            raise
        except (RuntimeError, ValueError, IndexError, OSError, InputError) as error:
            raise DataError(f"{self._what(index)} of {path} cannot be read: {error}", kind="corrupt") from None


class Tfds(ArrayRecord):
    """A split of prepared data sets, ArrayRecord or TFRecord files."""

    folders = True

    def __init__(self, options: TfdsOptions, **settings):
        FileReader.__init__(self, options, **settings)
        files = [file for folder in self._paths for file in split_files(folder, options.split)]
        self._tfrecord = ".tfrecord-" in os.path.basename(files[0])
        if self._tfrecord:
            self._index = FileIndex(files, scan_tfrecord, cache=self.cache, version="tfrecord 1")
        else:
            self._open_records(files)
        self._images = self._pictures()

    def _read(self, index):
        if not self._tfrecord:
            return super()._read(index)
        path, span = self._index[index]
        return path, read_span(path, span)


def split_files(folder: str, split: str) -> list[str]:
    """The shards of a split of a prepared data set, in order.

    Raises:
      InputError: no such split, or shards that are missing.
    """
    shards = [
        (found, str(path)) for path in sorted(Path(folder).glob("*-of-*")) if (found := _SHARD.fullmatch(path.name))
    ]
    if not shards:
        raise InputError(
            f"{folder} holds no shards of TensorFlow Datasets (NAME-SPLIT.array_record-00000-of-00001): name the "
            "folder of a version, such as coco_captions/2014/1.1.0"
        )
    chosen = [(found, path) for found, path in shards if found["split"] == split]
    if not chosen:
        raise InputError(
            f"{folder} has no split {split!r}; it has {', '.join(sorted({f['split'] for f, _ in shards}))}"
        )
    if len(chosen) != int(chosen[0][0]["count"]) or len({found["format"] for found, _ in chosen}) != 1:
        raise InputError(f"{folder} holds {len(chosen)} of the {int(chosen[0][0]['count'])} shards of {split}")
    return find_files([path for _, path in chosen])


def scan_array_record(path: str) -> np.ndarray:
    """The numbers of a file's records."""
    return np.arange(_array_record(path).num_records())


def scan_tfrecord(path: str) -> np.ndarray:
    """Where the records of a TFRecord file lie: each has a length (8 bytes) and two checksums (4 each) around it.

    Raises:
      InputError: a file that is truncated or compressed.
    """
    size, place = patiently(path, functools.partial(os.path.getsize, path)), 0
    spans = []
    while place < size:
        (length,) = struct.unpack("<Q", read_at(path, place, 8)) if place + 16 <= size else (size,)
        if place + 16 + length > size:
            raise InputError(
                f"{path} is not a whole TFRecord file (after {len(spans)} records): truncated or compressed"
            )
        spans.append((place + 12, length))
        place += 16 + length
    return np.array(spans, SPAN)


def _array_record(path):
    from array_record.python import array_record_module  # here: loading its library takes a while

    for last in (False, True):
        reader = array_record_module.ArrayRecordReader(path, "readahead_buffer_size:0")
        if reader.ok():
            return reader
        if not last:  # it does not say why: storage that fails shows, and is waited for, when the file is read
            _probe(path)
    raise InputError(f"{path} is not a whole ArrayRecord file: it is truncated, damaged or of another kind")


def _probe(path):
    """Reads where an ArrayRecord file is read when it is opened. Raises StorageError where that goes on failing."""
    size = patiently(path, functools.partial(os.path.getsize, path))
    for start in {0, max(0, size - _PROBED)}:
        read_at(path, start, min(size - start, _PROBED))


def _segment(item: dict[str, Any], frames: Iterator[Frame], what: str) -> Segment:
    if "text" in item:
        flags = {name: item.get(name, False) for name in ("loss", "end_of_chunk", "control")}
        if not all(isinstance(flag, bool) for flag in flags.values()):
            raise ValueError(f"{', '.join(flags)} are true or false")
        return Text(valid_text(item["text"], what), **flags)
    shown = tuple(itertools.islice(frames, item["frames"]))
    if not shown or len(shown) < item["frames"]:
        raise ValueError(f"{item['frames']} frames, of which it holds {len(shown)}")
    return Media(shown)


def _firsts(features: Mapping[str, list[bytes]]) -> dict[str, bytes]:
    return {name: values[0] for name, values in features.items() if values}
