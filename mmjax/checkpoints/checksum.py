"""Checksums of arrays, computed where the arrays are and independent of how they are sharded.

The checksum of an array is a sum, modulo 2^32, over its words of mix(word, position). For a fixed
position the mix is a bijection of the word, so a change of any single word always changes the sum; and
since addition modulo 2^32 has no order, every sharding of the same array gives the same sum. Two
lanes with different mixes make 64 bits, against changes of several words that would cancel in one. The
mixing steps are those of MurmurHash3's 32-bit finaliser.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from mmjax.core.arrays import Array, Shaped

_WORDS = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint32}
_CHUNK = 2**16  # words at a time on the host, small enough to stay in its cache


def start_checksums(leaves: Mapping[str, Shaped[Array, "..."]]) -> dict[str, Shaped[Array, "2"]]:
    """Starts the checksums of all leaves on their devices and returns without waiting for them.

    The programs are queued before whatever the caller runs next, so the arrays may be donated right
    after. Leaves on different sets of devices are allowed. See `finish_checksums` for the values.
    """
    groups: dict[frozenset, dict[str, Array]] = {}
    for name, leaf in leaves.items():
        groups.setdefault(frozenset(leaf.sharding.device_set), {})[name] = leaf
    started = {}
    for group in groups.values():
        started.update(_checksum_all(group, _whole(group)))
    return started


def finish_checksums(started: Mapping[str, Shaped[Array, "2"]]) -> dict[str, str]:
    """Waits for `start_checksums` and returns 16 hexadecimal digits a leaf."""
    return {name: _digits(*lanes) for name, lanes in jax.device_get(started).items()}


def host_checksum(array: Shaped[np.ndarray, "..."]) -> str:
    """The same checksum of an array in host memory, without a device."""
    checksum = HostChecksum()
    checksum.add(array, 0)
    return checksum.digits()


class HostChecksum:
    """The checksum of an array whose pieces come one after the other, in any order. `elements` counts what has come."""

    def __init__(self):
        self.elements = 0
        self._lanes = np.zeros(2, np.uint32)

    def add(self, piece: Shaped[np.ndarray, "..."], first: int) -> None:
        """Adds a piece whose elements lie side by side in the array, in row-major order, from number `first` on."""
        piece = np.ascontiguousarray(piece).reshape(-1)
        words = piece.view(np.dtype(f"u{min(piece.dtype.itemsize, 4)}"))
        before = first * (words.size // piece.size) if piece.size else 0
        for start in range(0, words.size, _CHUNK):
            chunk = words[start : start + _CHUNK].astype(np.uint32)
            place = before + start
            positions = np.arange(place, place + chunk.size, dtype=np.uint64).astype(np.uint32)
            self._lanes += np.array([lane.sum(dtype=np.uint32) for lane in _lanes(chunk, positions)])
        self.elements += piece.size

    def digits(self) -> str:
        """16 hexadecimal digits."""
        return _digits(*self._lanes)


def _whole(leaves) -> NamedSharding | None:
    """Where every process can read the sums, if the leaves lie on a mesh."""
    meshes = [leaf.sharding.mesh for leaf in leaves.values() if isinstance(leaf.sharding, NamedSharding)]
    return NamedSharding(meshes[0], PartitionSpec()) if meshes else None


@functools.partial(jax.jit, static_argnums=1)
def _checksum_all(leaves, whole):
    sums = {name: _checksum(leaf) for name, leaf in leaves.items()}
    return sums if whole is None else jax.lax.with_sharding_constraint(sums, whole)


def _checksum(array):
    words = _as_words(array)
    first, second = _lanes(words, _positions(words.shape))
    # One reduction of both lanes: XLA's CPU backend runs it in parallel, two plain sums on one core.
    zeros = (np.uint32(0), np.uint32(0))
    return jnp.stack(lax.reduce((first, second), zeros, _add_lanes, tuple(range(words.ndim))))


def _add_lanes(left, right):
    return left[0] + right[0], left[1] + right[1]


def _as_words(array):
    """The array's bits as uint32, one word an element or two where an element has 64 bits."""
    if array.dtype == jnp.bool_:
        array = array.astype(jnp.uint8)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        array = jnp.stack([array.real, array.imag], axis=-1)
    return lax.bitcast_convert_type(array, _WORDS[array.dtype.itemsize]).astype(jnp.uint32)


def _positions(shape):
    """Row-major position of every element, modulo 2^32."""
    positions = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        positions += lax.broadcasted_iota(jnp.uint32, shape, axis) * np.uint32(stride % 2**32)
        stride *= shape[axis]
    return positions


def _lanes(words, positions):
    first = _mix(words ^ (positions * np.uint32(0x9E3779B1) + np.uint32(0x7F4A7C15)))
    return first, _mix(first ^ np.uint32(0x2545F491))


def _mix(words):
    words = (words ^ (words >> 16)) * np.uint32(0x85EBCA6B)
    words = (words ^ (words >> 13)) * np.uint32(0xC2B2AE35)
    return words ^ (words >> 16)


def _digits(first, second) -> str:
    return f"{int(first):08x}{int(second):08x}"
