"""Items of the lists in large JSON files: where each lies, and how one is found by what another says of it.

COCO and its like are one object of several lists: `{"info": {...}, "images": [{"id": 9, ...}, ...], "annotations":
[{"image_id": 9, ...}, ...]}`. A file is read a window at a time, once; what is kept is an array of places and keys.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.errors import DataError, InputError
from mmjax.data.sources.cursor import list_items
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.lines import SPAN, parse_json, read_span

KEYED = np.dtype([*SPAN.descr, ("key", "<u8")])


def scan_keyed(path: str, member: str, field: str) -> np.ndarray:
    """Where the items of the list `member` lie, and the key of their `field`."""
    rows = [
        (offset, size, key_of_value(_field(path, offset, size, item, field)))
        for offset, size, item in list_items(path, member)
    ]
    return np.array(rows, KEYED)


def key_of_value(value: Any) -> int:
    """64 bits of a JSON value, by which records are joined; what they find is compared by the value itself."""
    text = json.dumps(value, sort_keys=True)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


class KeyedList:
    """Items of the lists `member` of JSON files, by their number, or by the value that they have in `field`.

    Attributes:
      index: where the items are.
      key: changes when any of the files does.
    """

    def __init__(self, paths: Sequence[str], member: str, field: str, *, cache: Path):
        self._member, self._field, self._first = member, field, paths[0]
        self.index = FileIndex(paths, scan_keyed, member, field, cache=cache, version=f"keyed {member} {field} 1")
        self._keys, self._order = None, None
        self.key = self.index.key

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, number: int) -> tuple[str, dict[str, Any]]:
        """The file of item `number`, and the item. Raises DataError for one that is not an object."""
        path, place = self.index[number]
        return path, parse_json(read_span(path, place), f"item {number} of {self._member} of {path}")

    def file_of(self, number: int) -> str:
        """The file of item `number`."""
        return self.index[number][0]

    def find(self, value: Any, what: str) -> dict[str, Any]:
        """The first item whose field is `value`.

        Raises:
          DataError: of kind "bad_record" where there is none.
        """
        if self._keys is None:
            keys = np.concatenate([array["key"] for array in self.index.arrays()])
            self._order = np.argsort(keys, kind="stable")
            self._keys = keys[self._order]
        key = np.uint64(key_of_value(value))
        place = int(np.searchsorted(self._keys, key))
        while place < len(self._keys) and self._keys[place] == key:
            _, item = self[int(self._order[place])]
            if item.get(self._field) == value:
                return item
            place += 1
        raise DataError(
            f"{what}: {self._member} of {self._first} has no {self._field} {str(value)[:50]}", kind="bad_record"
        )


def _field(path, offset, size, item, field):
    if not isinstance(item, dict):
        raise InputError(f"{path} has an item of a list that is not an object, at byte {offset}")
    value = item.get(field)
    if isinstance(value, str) and not value.isascii():
        with open(path, "rb") as file:
            file.seek(offset)
            return json.loads(file.read(size))[field]
    return value
