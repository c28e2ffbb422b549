"""Packing: which examples share a row. A plan over windows of known lengths, the same on every machine.

The examples of a data set are put in an order fixed by the seed, cut into windows, and each window is packed best
fit decreasing (Johnson, 1973) into rows bounded in tokens and in images. The rows are the same in every epoch; their
order is another one in each, by a permutation that is evaluated one row at a time.
"""

from __future__ import annotations

import bisect

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.errors import InputError
from mmjax.data.keyed import KeyedPermutation, fold, key_of, shuffled
from mmjax.data.source import Lengths


class PackedRows:
    """The rows of one data set.

    Attributes:
      rows: rows an epoch.
      too_long: examples that fit no row, which no row holds.
    """

    def __init__(
        self,
        lengths: Lengths,
        *,
        name: str,
        seed: int,
        length: int,
        images: int,
        window: int,
        pack: bool = True,
    ):
        """`length` tokens and `images` images a row; without `pack` each example is a row of its own."""
        self._key = key_of(seed, name, "rows")
        fits = (lengths.tokens <= length) & (lengths.images <= images)
        self.too_long: Int[np.ndarray, " S"] = np.flatnonzero(~fits)
        if not fits.any():
            raise InputError(
                f"no example of {name} fits a row of {length} tokens and {images} images: the shortest has "
                f"{lengths.tokens.min()} tokens, the fewest images are {lengths.images.min()}; raise data.length or "
                "data.images"
            )
        order = shuffled(self._key, len(fits))
        order = order[fits[order]]
        if pack:
            bins = [
                row
                for start in range(0, len(order), window)
                for row in best_fit_decreasing(order[start : start + window], lengths, length, images)
            ]
            self._examples = np.array([index for row in bins for index in row], np.int64)
            self._starts = np.concatenate([[0], np.cumsum([len(row) for row in bins], dtype=np.int64)])
        else:
            self._examples = order
            self._starts = np.arange(len(order) + 1)
        self.rows = len(self._starts) - 1
        self._order = (0, KeyedPermutation(fold(self._key, 0), self.rows))

    def __getitem__(self, row: int) -> tuple[int, list[int]]:
        """(epoch, indices of the examples) of the `row`th row of the endless sequence of epochs."""
        epoch, place = divmod(row, self.rows)
        known, order = self._order  # read once: several threads share this object
        if known != epoch:
            order = KeyedPermutation(fold(self._key, epoch), self.rows)
            self._order = (epoch, order)
        place = order(place)
        return epoch, self._examples[self._starts[place] : self._starts[place + 1]].tolist()


def best_fit_decreasing(
    indices: Int[np.ndarray, " S"],
    lengths: Lengths,
    length: int,
    images: int,
) -> list[list[int]]:
    """Rows of at most `length` tokens and `images` images; every example must fit one by itself.

    The longest example comes first, and each goes into the fullest row that it fits.
    """
    tokens, media = lengths.tokens[indices], lengths.images[indices]
    order = np.lexsort((-media, -tokens))  # stable: equals stay in the window's mixed order
    least_tokens, least_media = int(tokens.min()), int(media.min())
    rows: list[list[int]] = []
    free: list[tuple[int, int, int]] = []  # (tokens, images, row) still free, sorted
    for place in order.tolist():
        need, pictures = int(tokens[place]), int(media[place])
        found = bisect.bisect_left(free, (need, pictures, 0))
        while found < len(free) and free[found][1] < pictures:
            found += 1
        if found < len(free):
            left, spaces, row = free.pop(found)
        else:
            left, spaces, row = length, images, len(rows)
            rows.append([])
        rows[row].append(int(indices[place]))
        left, spaces = left - need, spaces - pictures
        if left >= least_tokens and spaces >= least_media:
            bisect.insort(free, (left, spaces, row))
    return rows
