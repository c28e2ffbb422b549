"""Pictures that look the same: 64 bits of each, compared by bands of bits rather than each with all."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from mmjax.core.arrays import Int, UInt8, UInt64

_SIDE = 32  # of the picture that is transformed; the hash is of its 8 x 8 lowest frequencies
_LEAST_CONTRAST = 2.0


def perceptual_hash(picture: UInt8[np.ndarray, "h w 3"]) -> int | None:
    """64 bits that small changes of size, colour or compression leave as they are, or nearly so (pHash).

    The lowest 8 x 8 frequencies of the discrete cosine transform of the grey picture of 32 x 32, each above their
    median or not (Zauner 2010, "Implementation and benchmarking of perceptual image hash functions"). None: a picture
    of one shade (a standard deviation below 2 of 255), of which there is nothing to compare.
    """
    small = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    if small.std() < _LEAST_CONTRAST:
        return None
    low = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")


def groups_of_near(hashes: UInt64[np.ndarray, " N"], distance: int) -> Int[np.ndarray, " N"]:
    """The number of the group of each hash: those that differ in at most `distance` bits (0 to 15) share theirs.

    Groups are joined by chains: the first and the last of a group may be further apart. Two hashes that differ in at
    most d bits agree in at least one of d + 1 bands of bits, so only those that share a band are compared.
    """
    unique, place = np.unique(hashes, return_inverse=True)
    edges = [pair for band in _bands(distance + 1) for pair in _pairs(unique, band, distance)]
    left, right = (np.concatenate(side) for side in zip(*edges, strict=True)) if edges else (np.zeros(0, int),) * 2
    graph = coo_array((np.ones(len(left), bool), (left, right)), shape=(len(unique), len(unique)))
    return connected_components(graph, directed=False)[1][place] if len(unique) else np.zeros(0, np.int32)


def _bands(count):
    """Masks that share out 64 bits."""
    ends = [round(64 * number / count) for number in range(count + 1)]
    return [np.uint64(((1 << (stop - start)) - 1) << start) for start, stop in itertools.pairwise(ends)]


def _pairs(hashes, band, distance):
    """Pairs of places whose hashes agree in a band and differ in at most `distance` bits."""
    values = hashes & band
    order = np.argsort(values, kind="stable")
    values = values[order]
    ends = np.searchsorted(values, values, side="right")  # where each one's run of equal bands ends
    here = np.arange(len(values))
    for step in itertools.count(1):
        here = here[here + step < ends[here]]
        if not len(here):
            return
        left, right = order[here], order[here + step]
        near = np.bitwise_count(hashes[left] ^ hashes[right]) <= distance
        yield left[near], right[near]
