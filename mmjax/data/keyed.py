"""Random numbers that are functions of a key: no state, the same on every machine, process and library version."""

from __future__ import annotations

import hashlib
from collections.abc import MutableSequence, Sequence
from typing import TypeVar

import numpy as np

from mmjax.core.arrays import Float, Int

T = TypeVar("T")
_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15


def key_of(*parts: int | str) -> int:
    """A 64-bit key from names and numbers."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8"), digest_size=8).digest(), "little")


def fold(key: int, *numbers: int) -> int:
    """A new key from a key and numbers below 2^64."""
    for number in numbers:
        key = _mix((key + _GOLDEN) & _MASK) ^ _mix((int(number) * _GOLDEN + 0x632BE59BD9B4E019) & _MASK)
    return _mix(key)


def shuffled(key: int, count: int) -> Int[np.ndarray, " count"]:
    """A permutation of 0..count-1, whole."""
    bits = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    return np.argsort(_mix_array(bits), kind="stable")


def normals(key: int, count: int) -> Float[np.ndarray, " count"]:
    """Numbers that are normally distributed, but for tails that end at 4.9: each the sum of 8 bytes of a hash."""
    bits = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(_GOLDEN) + np.uint64(key)
    sums = _mix_array(bits).view(np.uint8).reshape(count, 8).sum(axis=1, dtype=np.int32)
    return ((sums - 1020) / np.sqrt(8 * (256**2 - 1) / 12)).astype(np.float32)


class Dice:
    """A sequence of draws from one key."""

    def __init__(self, key: int):
        self._state = key

    def below(self, bound: int) -> int:
        """A whole number in 0..bound-1."""
        self._state = (self._state + _GOLDEN) & _MASK
        return (_mix(self._state) * bound) >> 64

    def uniform(self) -> float:
        """A number in [0, 1)."""
        return self.below(1 << 53) / (1 << 53)

    def choice(self, items: Sequence[T]) -> T:
        return items[self.below(len(items))]

    def sample(self, items: Sequence[T], count: int) -> list[T]:
        """`count` different items, in random order."""
        moved: dict[int, int] = {}  # a Fisher-Yates shuffle that keeps only the places it touched
        taken = []
        for place in range(count):
            other = place + self.below(len(items) - place)
            taken.append(items[moved.get(other, other)])
            moved[other] = moved.get(place, place)
        return taken

    def shuffle(self, items: MutableSequence) -> None:
        for place in range(len(items) - 1, 0, -1):
            other = self.below(place + 1)
            items[place], items[other] = items[other], items[place]


class KeyedPermutation:
    """A permutation of 0..count-1 evaluated one number at a time, in O(1) time and memory.

    A Feistel network over the next power of two, walked until it lands inside (Black and Rogaway, 2002, "Ciphers
    with arbitrary finite domains"); at most two steps on average.
    """

    _ROUNDS = 6

    def __init__(self, key: int, count: int):
        self._count = count
        bits = max(2, (count - 1).bit_length())
        self._low = bits // 2
        self._high = bits - self._low
        self._keys = [fold(key, number) for number in range(self._ROUNDS)]

    def __call__(self, number: int) -> int:
        if not 0 <= number < self._count:
            raise IndexError(f"{number} is outside 0..{self._count - 1}")
        number = self._network(number)
        while number >= self._count:
            number = self._network(number)
        return number

    def many(self, numbers: Int[np.ndarray, " S"]) -> Int[np.ndarray, " S"]:
        """The same of each number of an array."""
        moved = self._network_of_many(numbers.astype(np.uint64))
        while (outside := moved >= self._count).any():
            moved[outside] = self._network_of_many(moved[outside])
        return moved.astype(np.int64)

    def _network_of_many(self, numbers):
        left_bits, right_bits = self._high, self._low
        for key in self._keys:
            left, right = numbers >> np.uint64(right_bits), numbers & np.uint64((1 << right_bits) - 1)
            left = left ^ (_mix_array(np.uint64(key) ^ right) & np.uint64((1 << left_bits) - 1))
            numbers = (right << np.uint64(left_bits)) | left
            left_bits, right_bits = right_bits, left_bits
        return numbers

    def _network(self, number):
        left_bits, right_bits = self._high, self._low
        for key in self._keys:
            left, right = number >> right_bits, number & ((1 << right_bits) - 1)
            left ^= _mix(key ^ right) & ((1 << left_bits) - 1)
            number = (right << left_bits) | left
            left_bits, right_bits = right_bits, left_bits
        return number


def _mix(bits: int) -> int:
    """The finaliser of splitmix64 (Steele, Lea and Flood, 2014)."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & _MASK
    return bits ^ (bits >> 31)


def _mix_array(bits):
    """`_mix` of each number of a uint64 array."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
