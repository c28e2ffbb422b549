"""`parquet` and `arrow`: rows of columnar files, by pyarrow.

A row of a Parquet file cannot be read without the group of rows that it is compressed with, so the last groups are
kept. Arrow files (folders of Hugging Face `datasets`) are mapped into memory, where any row is at hand.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Segment
from mmjax.data.sources.files import StorageError, find_files, open_patiently, patiently
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.options import TableOptions
from mmjax.data.sources.reader import FileReader
from mmjax.data.sources.tables import row_segments

KEPT_BYTES = 256 << 20


class RowGroups:
    """Rows of many files, read a group at a time; the groups used last are kept, `KEPT_BYTES` of them."""

    def __init__(self, index: FileIndex, read: Callable[[str, int], Any]):
        """`index` gives the rows of each group; `read(path, group)` the table of a group, by its number in the file."""
        self.index, self._read = index, read
        self._starts = np.concatenate([[0], *[np.asarray(array) for array in index.arrays()]]).cumsum(dtype=np.int64)
        self._kept: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._lock = threading.Lock()
        self.key = index.key

    def __len__(self) -> int:
        return int(self._starts[-1])

    def path_of(self, number: int) -> str:
        """The file of a row."""
        return self._located(number)[0]

    def _located(self, number: int) -> tuple[str, int]:
        if not 0 <= number < len(self):
            raise IndexError(f"there are {len(self)} rows, and no number {number}")
        group = int(np.searchsorted(self._starts, number, side="right")) - 1
        return self.index[group][0], group

    def row(self, number: int) -> tuple[str, dict[str, Any]]:
        """The file of a row, and the row as Python values. Raises DataError for one that cannot be read."""
        path, group = self._located(number)
        try:
            table = self._group(path, group)
            return path, table.slice(number - int(self._starts[group]), 1).to_pylist()[0]
        except StorageError:
            raise
        except (OSError, ValueError, LookupError, InputError) as error:  # pyarrow's own errors are among them
            raise DataError(f"row {number} cannot be read from {path}: {error}", kind="corrupt") from None

    def _group(self, path, group):
        with self._lock:
            if group in self._kept:
                self._kept.move_to_end(group)
                return self._kept[group]
        first = self.index.starts[np.searchsorted(self.index.starts, group, side="right") - 1]
        table = self._read(path, group - int(first))
        with self._lock:
            self._kept[group] = table
            while len(self._kept) > 1 and sum(kept.nbytes for kept in self._kept.values()) > KEPT_BYTES:
                self._kept.popitem(last=False)
        return table


def parquet_rows(paths: Sequence[str], columns: Sequence[str], cache: Path) -> RowGroups:
    """The rows of Parquet files, of which only `columns` are read.

    Raises:
      InputError: a file that is not Parquet, or a first file that lacks a column.
    """
    index = FileIndex(paths, scan_parquet, cache=cache, version="parquet 1")
    with _parquet(paths[0]) as file:
        _check_columns(file.schema_arrow.names, columns, paths[0])
    return RowGroups(index, functools.partial(_read_parquet, columns=list(columns)))


def parquet_table(path: str) -> Any:
    """All rows of a Parquet file at once, as an Arrow table.

    Raises:
      InputError: a file that is not Parquet, or is damaged.
    """
    with _parquet(path) as file:
        try:
            return file.read(use_threads=False)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None


def arrow_rows(paths: Sequence[str], columns: Sequence[str], cache: Path) -> RowGroups:
    """The rows of Arrow files (streams, as `datasets` writes them, or files with a footer).

    Raises:
      InputError: a file that is not Arrow, or a first file that lacks a column.
    """
    index = FileIndex(paths, scan_arrow, cache=cache, version="arrow 1")
    _check_columns(_arrow_names(paths[0]), columns, paths[0])
    batches = functools.lru_cache(maxsize=256)(_arrow_batches)
    return RowGroups(index, lambda path, group: batches(path)[group].select(list(columns)))


def scan_parquet(path: str) -> np.ndarray:
    """The number of rows of each group of a file."""
    with _parquet(path) as file:
        metadata = file.metadata
        return np.array([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)], np.int64)


def scan_arrow(path: str) -> np.ndarray:
    """The number of rows of each batch of a file."""
    try:
        return np.array([batch.num_rows for batch in _arrow_batches(path)], np.int64)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole Arrow file: {error}") from None


def dataset_files(folder: str) -> list[str]:
    """The Arrow files of a folder that `datasets` saved, in order.

    Raises:
      InputError: a folder of another kind.
    """
    state = Path(folder) / "state.json"
    if (Path(folder) / "dataset_dict.json").exists():
        splits = json.loads((Path(folder) / "dataset_dict.json").read_text(encoding="utf-8")).get("splits", [])
        raise InputError(
            f"{folder} holds the splits {', '.join(splits)}: name the folder of one, such as {folder}/{splits[0]}"
        )
    try:
        names = [entry["filename"] for entry in json.loads(state.read_text(encoding="utf-8"))["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder} is not a folder of save_to_disk: {state} cannot be read ({error})") from None
    return find_files([os.path.join(folder, os.path.basename(name)) for name in names])


class Parquet(FileReader):
    """A pair a row of Parquet files."""

    def __init__(self, options: TableOptions, **settings):
        super().__init__(options, **settings)
        self._rows = self._open(_columns(options))
        self._images = self._pictures(options.images)

    def _open(self, columns):
        return parquet_rows(self._paths, columns, self.cache)

    @property
    def files_key(self) -> str:
        return self._rows.key

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def indices(self) -> tuple[FileIndex, ...]:
        return (self._rows.index,)

    def file_of(self, index: int) -> str:
        return self._rows.path_of(index)

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, row = self._rows.row(index)
        return row_segments(row, self._options, self._images, f"{self._what(index)} in {path}")


class Arrow(Parquet):
    """A pair a row of Arrow files, or of folders that `datasets.Dataset.save_to_disk` wrote."""

    folders = True

    def _open(self, columns):
        files = [file for path in self._paths for file in (dataset_files(path) if os.path.isdir(path) else [path])]
        return arrow_rows(files, columns, self.cache)


def _columns(options):
    return list(dict.fromkeys(filter(None, (options.image, options.text, options.prompt_column))))


def _check_columns(names, wanted, path):
    for column in wanted:
        if column not in names:
            raise InputError(f"{path} has no column {column!r}; it has {', '.join(names)}")


def _pyarrow():
    try:
        import pyarrow.ipc
        import pyarrow.parquet
    except ImportError:
        raise InputError("Parquet and Arrow files are read by pyarrow: pip install 'mmjax[data]'") from None
    return pyarrow


@contextlib.contextmanager
def _parquet(path):
    parquet = _pyarrow().parquet
    try:
        opened = open_patiently(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    with opened:
        try:
            file = parquet.ParquetFile(opened)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is not a whole Parquet file: {error}") from None
        with file:
            yield file


def _read_parquet(path, group, columns):
    with _parquet(path) as file:
        return file.read_row_group(group, columns=columns, use_threads=False)


def _arrow_batches(path):
    mapped = patiently(path, functools.partial(_pyarrow().memory_map, path))
    with _arrow_reader(path, mapped) as reader:
        if hasattr(reader, "num_record_batches"):
            return [reader.get_batch(number) for number in range(reader.num_record_batches)]
        return list(reader)


def _arrow_reader(path, mapped):
    ipc = _pyarrow().ipc
    with open_patiently(path) as file:
        footed = file.read(6) == b"ARROW1"
    return ipc.open_file(mapped) if footed else ipc.open_stream(mapped)


def _arrow_names(path):
    try:
        with _arrow_reader(path, _pyarrow().memory_map(path)) as reader:
            return reader.schema.names
    except (OSError, ValueError) as error:  # names that are not UTF-8 are among the latter
        raise InputError(f"{path} is not a whole Arrow file: {error}") from None
