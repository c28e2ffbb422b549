"""Serialized tf.train.Example messages, without TensorFlow: their features that hold bytes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmjax.core.errors import DataError


def parse_example(data: bytes, what: str) -> dict[str, list[bytes]]:
    """The features of a serialized tf.train.Example that hold bytes.

    Raises:
      DataError: of kind "bad_record" for other bytes.
    """
    features: dict[str, list[bytes]] = {}
    try:
        for number, body in _fields(data):
            for inner, entry in _fields(body) if number == 1 else ():
                if inner == 1:  # an entry of the map: key 1, value 2, whose bytes_list is 1, with its values as 1
                    parts = dict(_fields(entry))
                    values = dict(_fields(parts.get(2, b""))).get(1)
                    if values is not None:
                        features[parts[1].decode()] = [value for place, value in _fields(values) if place == 1]
    except (IndexError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{what} is not a tf.train.Example: {error}", kind="bad_record") from None
    return features


def serialize_example(features: Mapping[str, Sequence[bytes]]) -> bytes:
    """A tf.train.Example of features that hold bytes, in the order of their names: equal features give equal bytes."""
    entries = []
    for name, values in sorted(features.items()):
        listed = b"".join(_field(1, value) for value in values)
        entries.append(_field(1, _field(1, name.encode("utf-8")) + _field(2, _field(1, listed))))
    return _field(1, b"".join(entries))


def _field(number, data):
    return bytes([number << 3 | 2]) + _written_varint(len(data)) + data


def _written_varint(value):
    digits = []
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(number, value) of the fields of a protocol buffer's message; values of length-delimited fields are bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 2:
            length, place = _varint(data, place)
            if place + length > len(data):
                raise ValueError("it is truncated")
            yield key >> 3, data[place : place + length]
            place += length
        elif kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
        elif kind in (1, 5):
            place += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")


def _varint(data, place):
    value = shift = 0
    while True:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
