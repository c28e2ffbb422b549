"""Where files lie in tar archives, so that any of them is read without the ones before it.

Members that are no regular files (links, devices) and names that lead out of the archive ("/etc/x", "../x") are not
entered; nothing is ever unpacked.
"""

from __future__ import annotations

import hashlib
import posixpath
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmjax.core.errors import InputError
from mmjax.data.sources.files import identity, read_at, replacing
from mmjax.data.sources.index import FileIndex

PICTURES = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jp2", "avif")

MEMBER = np.dtype([("name", "<u8"), ("offset", "<i8"), ("size", "<i8")])


class Sample(NamedTuple):
    """Where the parts of a sample are in its archive; a size of -1: there is none."""

    image_offset: int
    image_size: int
    txt_offset: int
    txt_size: int
    json_offset: int
    json_size: int


SAMPLE = np.dtype([(name, "<i8") for name in Sample._fields])


class Member(NamedTuple):
    """A regular file of an archive, and where its bytes are."""

    name: str
    offset: int
    size: int


def members(path: str) -> Iterator[Member]:
    """The regular files of an archive that are safely named.

    Raises:
      InputError: an archive that is truncated, compressed or damaged.
    """
    read = 0
    try:
        with open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            size = file.seek(0, 2)
            file.seek(0)
            while (member := archive.next()) is not None:
                read += 1
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name[:100]!r} goes on past the end of the file")
                archive.members = []  # which would grow with the archive
                if member.isreg() and not member.issparse() and _safe(member.name):
                    yield Member(member.name, member.offset_data, member.size)
            if file.seek(0, 2) < archive.offset + tarfile.BLOCKSIZE:
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole tar archive (after {read} members: {error}): it is truncated, compressed or "
            "damaged; fetch it again or leave it out"
        ) from None


def scan_samples(path: str) -> np.ndarray:
    """The samples of a WebDataset shard: members that share all up to the first dot of their file name, in order.

    A part that is not there has size -1.
    """
    samples: dict[str, np.ndarray] = {}
    for member in members(path):
        folder, slash, file = member.name.rpartition("/")
        stem, dot, extension = file.partition(".")
        part = "image" if extension.lower() in PICTURES else extension.lower()
        if not dot or part not in ("image", "txt", "json"):
            continue
        key = f"{folder}{slash}{stem}"
        if key not in samples:
            samples[key] = np.full((), -1, SAMPLE)
        sample = samples[key]
        if sample[f"{part}_size"] < 0:
            sample[f"{part}_offset"], sample[f"{part}_size"] = member.offset, member.size
    return np.array(list(samples.values()), SAMPLE)


def scan_members(path: str) -> np.ndarray:
    """Every file of an archive, by the hash of its name."""
    return np.array([(name_hash(posixpath.normpath(name)), *where) for name, *where in members(path)], MEMBER)


def name_hash(name: str) -> int:
    """64 bits of a name (which may hold bytes that are no text, as half surrogate pairs)."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


class TarFolder:
    """The files of many archives as if they lay in one folder, found by name. `key` changes when any of them does."""

    def __init__(self, paths: Sequence[str], cache: Path):
        self._paths = list(paths)
        self.key = identity(self._paths, cache, "members 1")
        kept = cache / f"members-{self.key}.npy"
        if not kept.exists():
            index = FileIndex(self._paths, scan_members, cache=cache, version="members 1")
            with replacing(kept) as partial, open(partial, "wb") as file:
                np.save(file, _sorted(index))
        self._table = np.load(kept, mmap_mode="r", allow_pickle=False)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def size_of(self, name: str) -> int | None:
        """The bytes of a file, or None where there is none of that name."""
        found = self._find(name)
        return None if found is None else int(self._table[2, found])

    def read(self, name: str) -> bytes | None:
        """The bytes of a file, or None where there is none of that name."""
        found = self._find(name)
        if found is None:
            return None
        _, offset, size, file = self._table[:, found].tolist()
        return read_at(self._paths[file], offset, size)

    def _find(self, name):
        wanted = np.uint64(name_hash(posixpath.normpath(name)))
        place = int(np.searchsorted(self._table[0], wanted))
        return place if place < self._table.shape[1] and self._table[0, place] == wanted else None


def _sorted(index):
    """Rows of names, offsets, sizes and file numbers, by name: a row lies together, so that it is searched in place."""
    arrays = list(index.arrays())
    table = np.zeros((4, len(index)), np.uint64)
    for number, array in enumerate(arrays):
        here = slice(int(index.starts[number]), int(index.starts[number + 1]))
        for row, field in enumerate(MEMBER.names):
            table[row, here] = array[field]
        table[3, here] = number
    return table[:, np.argsort(table[0], kind="stable")]


def _safe(name):
    parts = name.split("/")
    return bool(name) and not name.startswith("/") and ".." not in parts and "\\" not in name and "\0" not in name
