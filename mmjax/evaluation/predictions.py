"""Predictions as they are kept: in memory, or in a file that an evaluation that was interrupted goes on with."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Row = dict[str, Any]


class Store(Protocol):
    """Where rows of predictions go, a chunk at a time."""

    def resume(self, chunks: Sequence[int]) -> int:
        """How many of the chunks, of these numbers of rows, are there already."""

    def append(self, rows: Sequence[Row]) -> None:
        """Keeps the rows of the next chunk."""

    def rows(self) -> Iterator[Row]:
        """All that are kept, in order."""

    def finish(self) -> None:
        """All chunks are there."""


class MemoryStore:
    """Rows in memory."""

    def __init__(self):
        self._rows: list[Row] = []

    def resume(self, chunks: Sequence[int]) -> int:
        """None are there."""
        return 0

    def append(self, rows: Sequence[Row]) -> None:
        """Keeps the rows."""
        self._rows += rows

    def rows(self) -> Iterator[Row]:
        """All that are kept."""
        return iter(self._rows)

    def finish(self) -> None:
        """Nothing is left to do."""


class FileStore:
    """predictions.jsonl in `folder`, and beside it evaluation.json, which says what was evaluated (`about`).

    Until all are there they lie in predictions.partial.jsonl. Where that belongs to an evaluation of the same `about`
    its whole chunks are kept; a chunk that was cut off is made again.
    """

    def __init__(self, folder: Path, about: Mapping[str, Any]):
        self._whole, self._partial = folder / "predictions.jsonl", folder / "predictions.partial.jsonl"
        self._about_path, self._about = folder / "evaluation.json", json.dumps(about, indent=1) + "\n"
        folder.mkdir(parents=True, exist_ok=True)

    def resume(self, chunks: Sequence[int]) -> int:
        """As `Store.resume`; what does not belong to this evaluation is removed."""
        same = self._about_path.is_file() and self._about_path.read_text(encoding="utf-8") == self._about
        if not same or not self._partial.is_file():
            self._partial.write_text("", encoding="utf-8")
            replace_file(self._about_path, self._about)
            return 0
        done, end = _whole_chunks(self._partial, chunks)
        os.truncate(self._partial, end)
        return done

    def append(self, rows: Sequence[Row]) -> None:
        """Writes the rows through to the disk."""
        text = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows)
        with open(self._partial, "a", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def rows(self) -> Iterator[Row]:
        """All that are kept, read one by one."""
        path = self._partial if self._partial.is_file() else self._whole
        return read_predictions(path)

    def finish(self) -> None:
        """Gives the file its name."""
        os.replace(self._partial, self._whole)


def read_predictions(path: Path) -> Iterator[Row]:
    """The rows of a file of predictions."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def replace_file(path: Path, text: str) -> None:
    """Writes a file whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(text, encoding="utf-8")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _whole_chunks(path, chunks):
    """How many chunks the file begins with, and where they end."""
    done, lines, end = 0, 0, 0
    wanted = iter(chunks)
    left = next(wanted, None)
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"\n") or left is None:
                break
            lines += len(line)
            left -= 1
            if left == 0:
                done, end, left = done + 1, lines, next(wanted, None)
    return done, end
