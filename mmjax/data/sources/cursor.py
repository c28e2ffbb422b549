"""Items of the lists in large JSON files, a window of the file at a time."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from typing import Any

from mmjax.core.errors import InputError

_WINDOW = 1 << 20
_BLANK = " \t\r\n"


def list_items(path: str, member: str = "") -> Iterator[tuple[int, int, Any]]:
    """(offset, size, value) of each item of a JSON list: the file itself, or the `member` of the object that it is.

    Texts within values are decoded as Latin-1: what is not ASCII in them is to be read from the file again.

    Raises:
      InputError: not JSON, or no such list.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        if not size:
            raise InputError(f"{path} is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as whole:
            cursor = _Cursor(whole)
            try:
                yield from _member(cursor, member) if member else cursor.items()
                if not member and cursor.peek():
                    raise ValueError("more follows the list")
            except (ValueError, RecursionError) as error:
                what = f"a JSON object with a list {member!r}" if member else "a JSON list"
                raise InputError(
                    f"{path} is not {what}: at byte {cursor.place}, after {cursor.count} items: {error}"
                ) from None


class _Cursor:
    """A place in a JSON text, of which a window is decoded: a character a byte, since only the places count."""

    def __init__(self, data: mmap.mmap):
        self._data, self._decoder = data, json.JSONDecoder()
        self._start, self._place, self._text = 0, 0, ""
        self.count = 0  # items of the list that was begun last
        self._load(3 if data[:3] == b"\xef\xbb\xbf" else 0, _WINDOW)

    @property
    def place(self) -> int:
        return self._start + self._place

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self._place < len(self._text) and self._text[self._place] in _BLANK:
                self._place += 1
            if self._place < len(self._text):
                return self._text[self._place]
            if self._start + len(self._text) >= len(self._data):
                return ""
            self._load(self.place, _WINDOW)

    def take(self, character: str) -> None:
        if self.peek() != character:
            raise ValueError(f"{character!r} is expected, not {self.peek()!r}")
        self._place += 1

    def value(self) -> tuple[int, int, Any]:
        """The next value, with its offset and size."""
        self.peek()
        while True:
            ends = self._start + len(self._text) >= len(self._data)
            try:
                value, stop = self._decoder.raw_decode(self._text, self._place)
            except ValueError:
                if ends:
                    raise
                stop = None
            # A number that touches the end of the window may go on after it.
            if stop is not None and (ends or stop < len(self._text)):
                break
            self._load(self.place, 2 * max(_WINDOW, len(self._text) - self._place))
        offset, size = self.place, stop - self._place
        self._place = stop
        return offset, size, value

    def items(self) -> Iterator[tuple[int, int, Any]]:
        """The values of a list."""
        self.take("[")
        self.count = 0
        while self.peek() != "]":
            yield self.value()
            self.count += 1
            if self.peek() != "]":
                self.take(",")
        self.take("]")

    def _load(self, start, size):
        self._text = self._data[start : start + size].decode("latin-1")
        self._start, self._place = start, 0


def _member(cursor, member):
    """The items of one list of an object; those before it are passed over one by one, those after it not looked at."""
    cursor.take("{")
    while cursor.peek() != "}":
        name = cursor.value()[2]
        cursor.take(":")
        if name == member:
            yield from cursor.items()
            return
        if cursor.peek() == "[":
            for _ in cursor.items():
                pass
        else:
            cursor.value()
        if cursor.peek() != "}":
            cursor.take(",")
    raise ValueError("there is no such member")
