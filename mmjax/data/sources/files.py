"""Files of a data set: which ones a pattern names, where a record may point, and reading a part of one."""

from __future__ import annotations

import collections
import contextlib
import errno
import functools
import glob
import hashlib
import io
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from mmjax.core.errors import DataError, InputError
from mmjax.data.keyed import Dice, key_of

T = TypeVar("T")


class StorageError(InputError):
    """Storage that goes on failing. It says nothing about the record, which is not a bad one."""


_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
MAX_FILES = 1_000_000
_OPEN_FILES = 32
# What mounts of remote storage fail with for a while: it says nothing about the file.
_PASSING = {
    getattr(errno, name)
    for name in (
        *("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY", "ENOTCONN", "ECONNRESET", "ECONNABORTED"),
        *("ECONNREFUSED", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "EREMOTEIO"),
    )
    if hasattr(errno, name)
}
TRIES = 6
FIRST_WAIT = 0.5
_BUFFER = 1 << 16


def expand(pattern: str) -> Iterator[str]:
    """`{000..041}` (as wide as it is written) and `{a,b}`, from the left: the names in order."""
    found = _BRACES.search(pattern)
    if not found:
        yield pattern
        return
    numbers = _RANGE.fullmatch(found[1])
    if numbers:
        first, last = int(numbers[1]), int(numbers[2])
        if last - first >= MAX_FILES:
            raise InputError(f"{pattern} names {last - first + 1} files, more than {MAX_FILES}")
        width = len(numbers[1]) if numbers[1].startswith("0") or len(numbers[1]) == len(numbers[2]) else 0
        step = 1 if last >= first else -1
        choices = (f"{number:0{width}d}" for number in range(first, last + step, step))
    else:
        choices = iter(found[1].split(","))
    for choice in choices:
        yield from expand(pattern[: found.start()] + choice + pattern[found.end() :])


def find_files(patterns: Sequence[str], *, folders: bool = False) -> list[str]:
    """The files (with `folders`, files or folders) that the patterns name, in order; those of a `*` by their names.

    Raises:
      InputError: one that is not there, or a pattern that nothing matches.
    """
    what = "file or folder" if folders else "file"
    paths: list[str] = []
    for pattern in patterns:
        refuse_address(pattern)
        for name in map(os.path.expanduser, expand(pattern)):
            if glob.has_magic(name):
                matches = sorted(glob.glob(name, recursive=True))
                if not matches:
                    raise InputError(f"there is no {what} that matches {name}")
                paths += matches
            else:
                paths.append(name)
            if len(paths) > MAX_FILES:
                raise InputError(f"{pattern} names more than {MAX_FILES} files")
    there = os.path.exists if folders else os.path.isfile
    missing = [path for path in paths if not there(path)]
    if missing:
        raise InputError(f"there is no {what} {missing[0]} ({len(missing)} of {len(paths)} that are named are missing)")
    return paths


def refuse_address(path: str) -> None:
    """Raises InputError for an address (`gs://...`), which no reader opens."""
    if "://" in path:
        raise InputError(
            f"{path} is an address; data are read from folders: mount the bucket (gcsfuse BUCKET FOLDER) and give the "
            "folder, or copy the files"
        )


def identity(paths: Iterable[str], beside: Path, *words: str) -> str:
    """A key that changes when a file's place, size or time of change does; `words` say what it is for.

    Places are relative to the folder `beside`, so that data and their cache can move together.
    """
    state = hashlib.blake2b(repr(words).encode(), digest_size=12)
    for path in paths:
        facts = patiently(path, functools.partial(os.stat, path))
        state.update(f"\0{os.path.relpath(path, beside)}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
    return state.hexdigest()


def cache_folder(cache: str, paths: Sequence[str]) -> Path:
    """The folder of what is measured once: `cache`, or `.mmjax` beside the first file."""
    refuse_address(cache)
    return Path(cache).expanduser().absolute() if cache else Path(paths[0]).absolute().parent / ".mmjax"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written, which takes the place of `path` when it is whole.

    Raises:
      InputError: it cannot be written there.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise InputError(
            f"the index {path} cannot be written ({error.strerror}): give the option cache a folder for it"
        ) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


def inside(folder: str, name: str) -> str:
    """The path of a regular file that a record names, which must lie in `folder`.

    Raises:
      DataError: of kind "hostile_path" for one that leads out of it, or is no regular file; "address" for a URL;
        "missing" where there is none.
    """
    if "://" in name[:12]:
        raise DataError(f"{name[:200]} is an address; pictures are not fetched", kind="address")
    if "\0" in name:
        raise DataError(f"{name!r} is not a path", kind="hostile_path")
    path = os.path.normpath(os.path.join(folder, name))
    root = os.path.normpath(folder)
    if os.path.commonpath([os.path.abspath(root), os.path.abspath(path)]) != os.path.abspath(root):
        raise DataError(f"{name[:200]} leads out of {folder}", kind="hostile_path")
    try:
        mode = patiently(path, lambda: os.stat(path).st_mode)
    except OSError as error:
        raise DataError(f"{path[:300]} cannot be read: {error.strerror}", kind="missing") from None
    except ValueError:  # half of a surrogate pair
        raise DataError(f"{name[:200]!r} is not a path", kind="hostile_path") from None
    if not stat.S_ISREG(mode):
        raise DataError(f"{path} is not a file", kind="hostile_path")
    return path


class _Descriptors(collections.OrderedDict):
    def __del__(self):
        for descriptor in self.values():
            os.close(descriptor)


class _OpenFiles(threading.local):
    """File descriptors of a thread, by path, the last used last; closed when the thread ends."""

    def __init__(self):
        self._kept = _Descriptors()

    def __getitem__(self, path: str) -> int:
        kept = self._kept
        if path in kept:
            kept.move_to_end(path)
        else:
            kept[path] = os.open(path, os.O_RDONLY)
            if len(kept) > _OPEN_FILES:
                os.close(kept.popitem(last=False)[1])
        return kept[path]

    def forget(self, path: str) -> None:
        """Closes a file, so that it is opened anew."""
        if path in self._kept:
            os.close(self._kept.pop(path))


_open_files = _OpenFiles()


def read_at(path: str, offset: int, size: int) -> bytes:
    """`size` bytes of a file from `offset` on. Each thread keeps its last few files open.

    Raises:
      DataError: of kind "missing", or "truncated" where the file ends before.
      StorageError: as `patiently`.
    """
    try:
        data = patiently(path, functools.partial(_read_open, path, offset, size))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", kind="missing") from None
    if len(data) < size:
        raise DataError(f"{path} ends before byte {offset + size}: it has changed or is truncated", kind="truncated")
    return data


def _read_open(path, offset, size):
    try:
        return _read_whole(_open_files[path], offset, size)
    except OSError:
        with contextlib.suppress(OSError):
            _open_files.forget(path)
        raise


class _PatientFile(io.RawIOBase):
    """A file whose reads wait for storage that fails for a while."""

    def __init__(self, path: str):
        super().__init__()
        self._path, self._place = path, 0
        self._file: int | None = None
        self._size = self._patiently(os.fstat).st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._place = max(0, offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence])
        return self._place

    def readinto(self, buffer: memoryview) -> int:
        data = self._patiently(lambda file: _read_whole(file, self._place, len(buffer)))
        buffer[: len(data)] = data
        self._place += len(data)
        return len(data)

    def close(self) -> None:
        self._forget()
        super().close()

    def _patiently(self, call: Callable[[int], T]) -> T:
        def called():
            try:
                if self._file is None:
                    self._file = os.open(self._path, os.O_RDONLY)
                return call(self._file)
            except OSError:
                self._forget()
                raise

        return patiently(self._path, called)

    def _forget(self):
        file, self._file = self._file, None
        if file is not None:
            with contextlib.suppress(OSError):
                os.close(file)


def open_patiently(path: str) -> io.BufferedReader:
    """A file for libraries that read through a file object; each of its reads is as patient as `read_at`.

    Raises:
      OSError: it cannot be opened.
      StorageError: as `patiently`, also while it is read.
    """
    return io.BufferedReader(_PatientFile(path), _BUFFER)


def _read_whole(file, offset, size):
    """`size` bytes, or what there is of them up to the end. Fewer than the file has are an error of its storage."""
    data = os.pread(file, size, offset)
    while data and len(data) < size:  # one call reads 2 GB at most
        more = os.pread(file, size - len(data), offset + len(data))
        if not more:
            break
        data += more
    if len(data) < size and os.fstat(file).st_size >= offset + size:
        raise OSError(errno.EIO, "fewer bytes came than the file has")
    return data


def patiently(path: str, read: Callable[[], T]) -> T:
    """What `read` gives. What remote storage fails with is tried again, up to six times in about 15 seconds.

    Each wait is twice the one before, up to half longer or shorter by the file's name, so that the readers of a pod do
    not come back at once.

    Raises:
      OSError: an error that does not pass.
      StorageError: one that did not pass in time. It ends a run rather than replacing the record: the storage failed,
        not the record, and another run would find it.
    """
    dice = None
    for number in range(TRIES):
        try:
            return read()
        except OSError as error:
            if error.errno not in _PASSING:
                raise
            last = error
        dice = dice or Dice(key_of(path, os.getpid(), "waits"))
        if number + 1 < TRIES:
            time.sleep(FIRST_WAIT * 2**number * (0.5 + dice.uniform()))
    raise StorageError(
        f"{path} could not be read, {TRIES} times in a row ({last.strerror}): see to the disk or the mount that it is "
        "on, and start again; nothing that was read is lost"
    ) from None


def passing_error(message: str) -> OSError | None:
    """The error of storage that a library's message speaks of in the system's words, if it is one that passes."""
    for code in sorted(_PASSING):
        if os.strerror(code) in message:
            return OSError(code, os.strerror(code))
    return None
