"""Where the records of many files lie: an array for each file, made once and kept in the cache folder.

The name of a kept array holds the file's place, size and time of change, so that one that is out of date is never
found. Files are indexed in parallel, and each is kept as it gets done: what was interrupted goes on from there.
"""

from __future__ import annotations

import bisect
import functools
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.errors import InputError
from mmjax.data.sources.files import identity, replacing
from mmjax.data.workers import run_shared

_OPEN_INDICES = 8192
# numpy parses the head of a file as Python: two threads at once at that raise SystemError on Python 3.11, which counts
# the depth of all threads together.
_reading = threading.Lock()


class FileIndex:
    """The records of all files, by their number in the order of the files.

    Attributes:
      starts: number of the first record of each file, and of all records last.
      key: changes when any of the files does.
      remade: files whose kept array was found to be missing or damaged, and was made anew.
    """

    def __init__(
        self, paths: Sequence[str], scan: Callable[..., np.ndarray], *arguments: Any, cache: Path, version: str
    ):
        """`scan(path, *arguments)` gives an array with a row a record; `version` names it and what it depends on."""
        self._paths, self._scan, self._arguments = list(paths), scan, arguments
        self._kept = [cache / f"{Path(path).name[:60]}-{identity([path], cache, version)}.npy" for path in paths]
        self._open = functools.lru_cache(maxsize=_OPEN_INDICES)(self._load)
        self.remade: list[str] = []
        self.key = identity(self._paths, cache, "counts", version)
        self._counted = cache / f"counts-{self.key}.npy"
        counts = read_array(self._counted)
        if counts is None:
            counts = self._count()
            with replacing(self._counted) as partial, open(partial, "wb") as file:
                np.save(file, counts)
        self.starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
        self._starts = self.starts.tolist()  # of which items are taken sooner

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> tuple[str, Any]:
        """The file of record `number`, and its row of the file's array."""
        starts = self._starts
        if not 0 <= number < starts[-1]:
            raise IndexError(f"there are {len(self)} records, and no number {number}")
        place = bisect.bisect_right(starts, number) - 1
        return self._paths[place], self._open(place)[number - starts[place]]

    @property
    def files(self) -> int:
        """How many files there are."""
        return len(self._paths)

    def mend(self, places: Sequence[int]) -> list[str]:
        """Indexes some files again, by their place among all, and returns those whose kept array was not the same.

        What was wrong is made anew; the data set must be opened again then.
        """
        tasks = [(self._scan, self._arguments, self._paths[place], self._kept[place]) for place in places]
        results = dict(run_shared(scan_and_compare, tasks, what="verifying indices"))
        wrong = [self._paths[places[number]] for number, same in sorted(results.items()) if not same]
        if wrong:
            self._counted.unlink(missing_ok=True)
        return wrong

    def arrays(self):
        """The array of each file, in order."""
        return (self._open(place) for place in range(len(self._paths)))

    def _count(self):
        tasks = [
            (self._scan, self._arguments, path, kept)
            for path, kept in zip(self._paths, self._kept, strict=True)
            if not kept.exists()
        ]
        for _ in run_shared(scan_and_keep, tasks, what="indexing files"):
            pass
        return np.array([len(self._load(place)) for place in range(len(self._paths))], np.int64)

    def _load(self, place):
        array = read_array(self._kept[place])
        if array is None:  # it was damaged, or removed
            scan_and_keep(self._scan, self._arguments, self._paths[place], self._kept[place])
            array = read_array(self._kept[place])
            self.remade.append(self._paths[place])
        return array


def scan_and_keep(scan: Callable[..., np.ndarray], arguments: tuple, path: str, kept: Path) -> None:
    """Indexes one file and keeps the result. Raises InputError for a file that is being written, or that is gone."""
    try:
        before = os.stat(path)
        array = scan(path, *arguments)
        after = os.stat(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise InputError(f"{path} changed while it was indexed: wait until it is written, and start again")
    with replacing(kept) as partial, open(partial, "wb") as file:
        np.save(file, array)


def scan_and_compare(scan: Callable[..., np.ndarray], arguments: tuple, path: str, kept: Path) -> bool:
    """Whether a file's kept array is what it is indexed to now; where it is not, it is replaced."""
    before = read_array(kept)
    before = None if before is None else np.array(before)  # a copy: the file is written anew
    scan_and_keep(scan, arguments, path, kept)
    after = read_array(kept)
    return before is not None and before.dtype == after.dtype and np.array_equal(before, after)


def read_array(path: Path) -> np.ndarray | None:
    """An array that is kept, mapped into memory; None for one that is not there, or damaged."""
    try:
        with _reading:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # a memmap is slow to take items of
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError):  # damaged: it is made anew
        return None
