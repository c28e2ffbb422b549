"""Where records begin and end in text files: lines of JSONL, items of a JSON list, rows of a CSV file.

A row of an index is (offset, size) in bytes, without the line break.
"""

from __future__ import annotations

import json
import mmap
import os
from typing import Any

import numpy as np

from mmjax.core.errors import DataError
from mmjax.data.sources.cursor import list_items
from mmjax.data.sources.files import read_at

SPAN = np.dtype([("offset", "<i8"), ("size", "<i8")])
MAX_RECORD = 64 << 20
MAX_HEADER = 1 << 20
_PART = 64 << 20


def scan_lines(path: str) -> np.ndarray:
    """The lines of a file that hold anything but white space."""
    return _rows(path, quoted=False)


def scan_csv(path: str) -> np.ndarray:
    """The rows of a CSV file after its header. A line break between quotes is part of a field (RFC 4180)."""
    return _rows(path, quoted=True)[1:]


def first_row(text: bytes) -> bytes:
    """All up to the first line break that is not between quotes."""
    place = -1
    while (place := text.find(b"\n", place + 1)) >= 0:
        if text.count(b'"', 0, place) % 2 == 0:
            return text[:place]
    return text


def scan_json(path: str) -> np.ndarray:
    """The items of a JSON list; in a file that is named .jsonl, or that does not begin with one, its lines.

    Raises:
      InputError: a list that is not JSON.
    """
    with open(path, "rb") as file:
        if path.endswith(".jsonl") or file.read(4096).lstrip(b"\xef\xbb\xbf \t\r\n")[:1] != b"[":
            return scan_lines(path)
    return np.array([(offset, size) for offset, size, _ in list_items(path)], SPAN)


def read_span(path: str, span: Any) -> bytes:
    """The bytes of a record. Raises DataError for one of more than `MAX_RECORD` bytes, or that is not there."""
    offset, size = int(span["offset"]), int(span["size"])
    if size > MAX_RECORD:
        raise DataError(f"a record of {path} has {size} bytes, more than {MAX_RECORD}", kind="too_long")
    return read_at(path, offset, size)


def parse_json(data: bytes, what: str) -> dict[str, Any]:
    """A JSON object. Raises DataError of kind "bad_json" for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{what} is not JSON: {str(error)[:200]}", kind="bad_json") from None
    if not isinstance(value, dict):
        raise DataError(f"{what} is not a JSON object, but a {type(value).__name__}", kind="bad_json")
    return value


def _rows(path, *, quoted):
    """Cuts a file at its line breaks, 64 MiB at a time, so that its size does not count."""
    size = os.path.getsize(path)
    if not size:
        return np.zeros(0, SPAN)
    ends, odd = [], 0
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        for start in range(0, size, _PART):
            part = np.frombuffer(whole[start : start + _PART], np.uint8)
            breaks = np.flatnonzero(part == ord("\n"))
            if quoted:
                quotes = np.cumsum(part == ord('"'), dtype=np.int64) + odd
                odd = int(quotes[-1]) % 2
                breaks = breaks[quotes[breaks] % 2 == 0]
            ends.append(breaks + start)
        ends = np.concatenate([*ends, [size]])
        starts = np.concatenate([[0], ends[:-1] + 1])
        if whole[:3] == b"\xef\xbb\xbf":  # a byte-order mark
            starts[0] = 3
        blank = [
            number for number in np.flatnonzero(ends - starts < 64) if not whole[starts[number] : ends[number]].strip()
        ]
    spans = np.zeros(len(starts), SPAN)
    spans["offset"], spans["size"] = starts, ends - starts
    return np.delete(spans, blank)
