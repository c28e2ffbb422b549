"""How large the pictures of a data set are, from the headers of their files, and kept beside the lengths.

What is kept is an array of a row a picture, [example, height, width], found by a key of what decides it. It is made by
all cores, a part of the examples at a time; what was interrupted goes on where it stood.
"""

from __future__ import annotations

import functools
import hashlib
import shutil
from pathlib import Path

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.errors import DataError
from mmjax.core.example import Media
from mmjax.data.images import picture_size
from mmjax.data.source import ExampleSource, StoredSource
from mmjax.data.sources.files import replacing
from mmjax.data.sources.pictures import PictureFile
from mmjax.data.workers import run_shared

_CHUNK = 1024
_VERSION = 1


def measure_sizes(source: StoredSource) -> Int[np.ndarray, "N 3"]:
    """[example, height, width] of every picture, upright and in pixels: kept ones, or else read now and kept.

    A picture whose header cannot be read has 0 x 0; frames of videos and drawn pictures, which have no file of their
    own, are not among them.

    Raises:
      InputError: the cache folder cannot be written.
    """
    kept = kept_sizes(source)
    if kept is not None:
        return kept
    path = _path(source)
    folder = path.with_suffix(".parts")
    starts = range(0, len(source), _CHUNK)
    parts = {start: folder / f"{start:012d}.npy" for start in starts}
    lacking = [start for start in starts if _read(parts[start]) is None]
    work = functools.partial(_keep_part, source)
    tasks = [(start, min(start + _CHUNK, len(source)), parts[start]) for start in lacking]
    for _ in run_shared(work, tasks, what=f"sizes of pictures of {source.name}", least=4):
        pass
    _write(path, np.concatenate([np.zeros((0, 3), np.int32), *(_read(part) for part in parts.values())]))
    shutil.rmtree(folder, ignore_errors=True)
    return kept_sizes(source)


def kept_sizes(source: ExampleSource) -> Int[np.ndarray, "N 3"] | None:
    """The same, if it is kept already."""
    return _read(_path(source)) if isinstance(source, StoredSource) else None


def sizes_of(source: ExampleSource, start: int, stop: int) -> Int[np.ndarray, "N 3"]:
    """[example, height, width] of the pictures of some examples, read now."""
    rows = []
    for index in range(start, stop):
        try:
            segments = source.load(index, 0).segments
        except DataError:
            continue
        for segment in segments:
            if isinstance(segment, Media):
                rows += [(index, *_size(frame)) for frame in segment.frames if isinstance(frame, PictureFile)]
    return np.array(rows, np.int32).reshape(-1, 3)


def _size(frame):
    try:
        return picture_size(frame.read())
    except DataError:
        return 0, 0


def _keep_part(source, start, stop, path):
    _write(path, sizes_of(source, start, stop))


def _path(source) -> Path:
    key = hashlib.sha256(repr((source.fingerprint, len(source), _VERSION)).encode()).hexdigest()[:24]
    return source.cache / f"sizes-{key}.npy"


def _write(path, table):
    with replacing(path) as partial, open(partial, "wb") as file:
        np.save(file, table)


def _read(path):
    try:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):  # not there, or damaged: it is made anew
        return None
    return np.asarray(table) if table.ndim == 2 and table.shape[1] == 3 and table.dtype == np.int32 else None
