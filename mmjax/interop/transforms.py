"""How one tensor of an outside layout is made of parameters of ours: one line of text, read in both directions.

    D H K -> (H K) D        split heads, transposed (a torch linear map)
    D H K -> D (+H K)       several parameters, laid one after another along H (GPT-2's fused query, key and value)
    D H K -> (H +1 K) D     several parameters, interleaved: for each head its query, its key, its value (GPT-NeoX)
    D H (2 K) -> (H K 2) D  rotary channels in neighbouring pairs outside, in two halves here
    p q C D -> D C p q      patch kernels
    1 D -> 1 1 D            dimensions of size one, which may come and go

Left of the arrow are the dimensions of a parameter, right those of the outside tensor. Dimensions in brackets are
merged, the last one running fastest. `+` marks the dimension along which the parameters are joined; only its size may
differ between them.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
import os
import re
from collections.abc import Sequence

import numpy as np

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class _Side:
    """The factors of each dimension; literal ones are kept as "1" and name nothing."""

    dimensions: tuple[tuple[str, ...], ...]

    @property
    def factors(self) -> tuple[str, ...]:
        return tuple(factor for dimension in self.dimensions for factor in dimension if factor != "1")


@dataclasses.dataclass(frozen=True)
class _Pattern:
    inside: _Side
    outside: _Side
    joined: str | None  # the factor with the +, or "+1" for an axis that exists outside only


@functools.cache
def _parse(text: str) -> _Pattern:
    left, arrow, right = text.partition("->")
    if not arrow:
        raise ValueError(f"{text!r} has no ->")
    joined = re.findall(r"\+(\w+)", right)
    if len(joined) > 1:
        raise ValueError(f"{text!r} joins along more than one dimension")
    marked = "+1" if joined == ["1"] else joined[0] if joined else None
    sides = [_side(left), _side(right if marked == "+1" else right.replace("+", ""))]
    for side in sides:
        if len(set(side.factors)) != len(side.factors):
            raise ValueError(f"{text!r} names a dimension twice on one side")
    if set(sides[0].factors) != set(sides[1].factors) - {"+1"}:
        raise ValueError(f"the two sides of {text!r} name different dimensions")
    return _Pattern(sides[0], sides[1], marked)


def _side(text: str) -> _Side:
    dimensions = []
    for group, single in re.findall(r"\(([^)]*)\)|(\S+)", text):
        dimensions.append(tuple(group.split()) if group else (single,))
    return _Side(tuple(dimensions))


def _sizes(side: _Side, shape: Shape, text: str) -> dict[str, int]:
    """The size of every factor of a parameter; one factor of a merged dimension may be left open."""
    if len(shape) != len(side.dimensions):
        raise ValueError(f"a parameter of shape {shape} does not fit {text!r}")
    sizes: dict[str, int] = {}
    for size, dimension in zip(shape, side.dimensions, strict=True):
        known = math.prod(int(factor) for factor in dimension if factor.isdigit())
        open_factors = [factor for factor in dimension if not factor.isdigit()]
        if len(open_factors) > 1 or size % known or (not open_factors and size != known):
            raise ValueError(f"a parameter of shape {shape} does not fit {text!r}")
        sizes.update({factor: int(factor) for factor in dimension if factor.isdigit() and factor != "1"})
        sizes.update({factor: size // known for factor in open_factors})
    return sizes


@dataclasses.dataclass(frozen=True)
class Rearrange:
    """One pattern (see the module). `parts` is always a sequence, mostly of one parameter."""

    pattern: str

    def __post_init__(self):
        _parse(self.pattern)

    def outside_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of the outside tensor that is made of parameters of these `shapes`."""
        sizes = self._joined_sizes(shapes)
        dimensions = _parse(self.pattern).outside.dimensions
        return tuple(math.prod(1 if f == "1" else sizes[f] for f in dimension) for dimension in dimensions)

    def to_outside(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The outside tensor."""
        pattern = _parse(self.pattern)
        order = pattern.outside.factors
        merged = self.outside_shape([part.shape for part in parts])
        laid = []
        for part in parts:
            sizes = _sizes(pattern.inside, part.shape, self.pattern)
            factored = part.reshape([sizes[factor] for factor in pattern.inside.factors])
            turned = factored.transpose([pattern.inside.factors.index(f) for f in order if f != "+1"])
            laid.append(np.expand_dims(turned, order.index("+1")) if "+1" in order else turned)
        whole = laid[0] if len(laid) == 1 else np.concatenate(laid, axis=order.index(pattern.joined))
        return whole.reshape(merged)

    def to_inside(self, tensor: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The parameters, of `shapes`, that `tensor` is made of."""
        pattern = _parse(self.pattern)
        order = pattern.outside.factors
        joined = self._joined_sizes(shapes)
        whole = tensor.reshape([joined[factor] for factor in order])
        parts, start = [], 0
        for shape in shapes:
            part = whole
            if pattern.joined is not None:
                axis = order.index(pattern.joined)
                size = _sizes(pattern.inside, shape, self.pattern).get(pattern.joined, 1)
                part = whole[(slice(None),) * axis + (slice(start, start + size),)]
                start += size
                if pattern.joined == "+1":
                    part = part.squeeze(axis)
            named = [factor for factor in order if factor != "+1"]
            parts.append(part.transpose([named.index(f) for f in pattern.inside.factors]).reshape(shape))
        return parts

    def _joined_sizes(self, shapes: Sequence[Shape]) -> dict[str, int]:
        pattern = _parse(self.pattern)
        if len(shapes) != 1 and pattern.joined is None:
            raise ValueError(f"{self.pattern!r} makes a tensor of one parameter, not of {len(shapes)}")
        every = [_sizes(pattern.inside, shape, self.pattern) | {"+1": 1} for shape in shapes]
        joined = dict(every[0])
        if pattern.joined is not None:
            joined[pattern.joined] = sum(sizes[pattern.joined] for sizes in every)
        for sizes in every:
            if any(size != joined[factor] for factor, size in sizes.items() if factor != pattern.joined):
                raise ValueError(f"parameters of shapes {list(shapes)} cannot be joined by {self.pattern!r}")
        return joined


@dataclasses.dataclass(frozen=True)
class PadVocabulary:
    """A parameter with more rows than the outside tensor's `rows`, which `inner` says how it is made.

    Each row more is the mean of the others (Hewitt 2021, "Initializing new word embeddings for pretrained language
    models"): its logit is the mean of theirs, so that it is never the largest, and takes no more than its share.
    """

    inner: Rearrange
    rows: int

    def outside_shape(self, shapes: Sequence[Shape]) -> Shape:
        """Shape of the outside tensor."""
        return self.inner.outside_shape([(self.rows, *shape[1:]) for shape in shapes])

    def to_outside(self, parts: Sequence[np.ndarray]) -> np.ndarray:
        """The outside tensor, of the first rows."""
        return self.inner.to_outside([part[: self.rows] for part in parts])

    def to_inside(self, tensor: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
        """The parameters, of `shapes`."""
        parts = self.inner.to_inside(tensor, [(self.rows, *shape[1:]) for shape in shapes])
        return [_with_mean_rows(part, shape) for part, shape in zip(parts, shapes, strict=True)]


def _with_mean_rows(part: np.ndarray, shape: Shape) -> np.ndarray:
    whole = np.empty(shape, part.dtype)
    whole[: len(part)] = part
    whole[len(part) :] = part.mean(axis=0, dtype=np.float32).astype(part.dtype)
    return whole


def contiguous(array: np.ndarray) -> np.ndarray:
    """The same with its elements side by side in memory; a transposed matrix in blocks that fit in the cache."""
    if array.flags.c_contiguous:
        return array
    for split in range(1, array.ndim):
        turned = array.transpose(*range(split, array.ndim), *range(split))
        if turned.flags.c_contiguous:
            matrix = turned.reshape(math.prod(array.shape[split:]), math.prod(array.shape[:split])).T
            return _contiguous_matrix(matrix).reshape(array.shape)
    return np.ascontiguousarray(array)


def _contiguous_matrix(matrix: np.ndarray) -> np.ndarray:
    laid = np.empty(matrix.shape, matrix.dtype)

    def copy(rows: range) -> None:
        for row in rows:
            for column in range(0, matrix.shape[1], _BLOCK):
                block = slice(row, row + _BLOCK), slice(column, column + _BLOCK)
                laid[block] = matrix[block]

    starts = range(0, matrix.shape[0], _BLOCK)
    workers = min(os.cpu_count() or 1, 8)
    if matrix.size < _LARGE or workers == 1:
        copy(starts)
    else:
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:  # numpy copies without holding the interpreter
            list(pool.map(copy, [starts[worker::workers] for worker in range(workers)]))
    return laid


_LARGE = 2**20  # elements; below, a thread costs more than it saves
_BLOCK = 128

# A parameter that lies outside as it lies here.
SAME = {rank: Rearrange(f"{letters} -> {letters}") for rank, letters in enumerate(["", "A", "A B", "A B C", "A B C D"])}
