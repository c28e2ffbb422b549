"""Packing: which examples share a row. A plan over windows of known lengths, the same on every machine.

The examples of a data set are put in an order fixed by the seed, cut into windows, and each window is packed into rows
bounded in tokens and in images (`pack_window`). Examples are never cut. The rows are the same in every epoch; their
order is another one in each, by a permutation that is evaluated one row at a time.

The plan of a large data set is made once, by all cores, and kept beside its lengths: numbers of examples, where each
row ends among them, and how many images it has. They are mapped into memory, so that any row of 10^9 examples is found
at once.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import json
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.errors import InputError
from mmjax.data.keyed import KeyedPermutation, fold, key_of, shuffled
from mmjax.data.source import Lengths
from mmjax.data.workers import run_shared

# Up to so many examples the order is a permutation held whole, and the plan is made anew by every process.
_HELD_WHOLE = 1 << 22
_FULL = np.iinfo(np.int64).max
_WINDOWS_AT_ONCE = 256
_SOUGHT_AT_ONCE = 1024
# The arrays of a kept plan: of what type they are on disk, and which fact says how many they hold.
_KEPT = {"examples": (np.uint32, "examples"), "ends": (np.int64, "rows"), "images": (np.uint16, "rows")}


@dataclasses.dataclass(frozen=True)
class _Rule:
    """All that decides a plan besides the lengths."""

    key: int
    length: int
    images: int
    window: int
    pack: bool
    longest: int


class _Plan(NamedTuple):
    """`examples`, row after row; row r ends before place `ends[r]` and has `images[r]` images.

    `too_long`: how many examples fit no row.
    """

    examples: Int[np.ndarray, " S"]
    ends: Int[np.ndarray, " B"]
    images: Int[np.ndarray, " B"]
    too_long: int


class PlannedRow(NamedTuple):
    """A row: the pass over the data set that it is of, and the indices of its examples."""

    epoch: int
    indices: list[int]


class FoundRows(NamedTuple):
    """Rows by the epochs they are of and their places in the plan, and how many images each has."""

    epochs: Int[np.ndarray, " B"]
    places: Int[np.ndarray, " B"]
    images: Int[np.ndarray, " B"]


class PackedRows:
    """The rows of one data set.

    Attributes:
      rows: rows an epoch.
      rule: all that decides them besides the lengths.
      too_long: how many usable examples fit no row, and so are in none.
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
        longest: int = 0,
        kept: Path | None = None,
    ):
        """`length` tokens and `images` images a row; without `pack` each example is a row of its own.

        longest: examples of more tokens are left out; 0: none.
        kept: the file that `lengths` are mapped from, if any; the plan of a large data set is kept beside it.
        """
        self._key = key_of(seed, name, "rows")
        self.rule = rule = _Rule(self._key, length, images, window, pack, min(longest or length, length))
        large = kept is not None and len(lengths.tokens) > _HELD_WHOLE
        plan = _kept_plan(kept, rule, name) if large else _joined(_parts(lengths, rule))
        self._examples, self._ends, self._images, self.too_long = plan
        self.rows = len(self._ends)
        if not self.rows:
            _refuse(lengths, name, rule)
        self._order = (0, KeyedPermutation(fold(self._key, 0), self.rows))
        self._places = functools.lru_cache(maxsize=4)(self._places_of)

    def find(self, rows: Int[np.ndarray, " B"]) -> FoundRows:
        """Some rows of the endless sequence of epochs."""
        epochs, numbers = np.divmod(rows, self.rows)
        blocks, within = np.divmod(numbers, _SOUGHT_AT_ONCE)
        places = np.empty(len(rows), np.int64)
        for epoch, block in set(zip(epochs.tolist(), blocks.tolist(), strict=True)):
            here = (epochs == epoch) & (blocks == block)
            places[here] = self._places(epoch, block)[within[here]]
        return FoundRows(epochs, places, self._images[places].astype(np.int64))

    def __getitem__(self, row: int) -> PlannedRow:
        """The `row`th row of the endless sequence of epochs."""
        epoch, number = divmod(row, self.rows)
        return self.planned(epoch, self._epoch(epoch)(number))

    def planned(self, epoch: int, place: int) -> PlannedRow:
        """The row that has a place among those of an epoch."""
        start = int(self._ends[place - 1]) if place else 0
        return PlannedRow(epoch, self._examples[start : int(self._ends[place])].tolist())

    def _places_of(self, epoch, block):
        """Of all rows of a block of an epoch: the next batches ask for the others."""
        first = block * _SOUGHT_AT_ONCE
        return self._epoch(epoch).many(np.arange(first, min(first + _SOUGHT_AT_ONCE, self.rows)))

    def _epoch(self, epoch):
        known, order = self._order  # read once: several threads share this object
        if known != epoch:
            order = KeyedPermutation(fold(self._key, epoch), self.rows)
            self._order = (epoch, order)
        return order


def _refuse(lengths, name, rule):
    usable = lengths.tokens > 0
    if not usable.any():
        raise InputError(f"{name} has no example that can be used: all {len(usable)} are left out or broken")
    shorter = "" if rule.longest == rule.length else f" with a phase's max_length of {rule.longest}"
    raise InputError(
        f"no example of {name} fits a row of {rule.length} tokens and {rule.images} images{shorter}: the shortest has "
        f"{lengths.tokens[usable].min()} tokens, the fewest images are {lengths.images[usable].min()}; raise "
        f"data.length or data.images{' or max_length' if shorter else ''}"
    )


def _parts(lengths: Lengths, rule: _Rule) -> Iterator[_Plan]:
    """The plan in parts, each of some windows."""
    count = len(lengths.tokens)
    if count <= _HELD_WHOLE:
        order = shuffled(rule.key, count)
        fits, too_long = _fits(lengths, order, rule)
        order = order[fits]  # a window is of examples that fit
        for start in range(0, len(order), rule.window * _WINDOWS_AT_ONCE):
            yield _pack(lengths, order[start : start + rule.window * _WINDOWS_AT_ONCE], rule, 0)
        yield _Plan(*(np.zeros(0, np.int64) for _ in range(3)), too_long)
        return
    for start, stop in _parts_of(count, rule):
        yield _large_part(lengths, rule, start, stop)


def _parts_of(count, rule):
    size = rule.window * _WINDOWS_AT_ONCE
    return [(start, min(start + size, count)) for start in range(0, count, size)]


def _large_part(lengths, rule, start, stop):
    order = KeyedPermutation(rule.key, len(lengths.tokens)).many(np.arange(start, stop))
    fits, too_long = _fits(lengths, order, rule)
    return _pack(lengths, order[fits], rule, too_long)


def _fits(lengths, order, rule):
    tokens, images = lengths.tokens[order], lengths.images[order]
    fits = (tokens > 0) & (tokens <= rule.longest) & (images <= rule.images)
    return fits, int(((tokens > rule.length) | ((tokens > 0) & (images > rule.images))).sum())


def _pack(lengths, order, rule, too_long) -> _Plan:
    if not rule.pack:
        return _Plan(order, np.arange(1, len(order) + 1), lengths.images[order].astype(np.int64), too_long)
    bins = [
        row
        for start in range(0, len(order), rule.window)
        for row in pack_window(order[start : start + rule.window], lengths, rule.length, rule.images)
    ]
    examples = np.array([index for row in bins for index in row], np.int64)
    ends = np.cumsum([len(row) for row in bins], dtype=np.int64)
    until = np.concatenate([[0], np.cumsum(lengths.images[examples], dtype=np.int64)])
    return _Plan(examples, ends, np.diff(until[np.concatenate([[0], ends])]), too_long)


def _joined(parts: Iterator[_Plan]) -> _Plan:
    parts = list(parts)
    starts = np.cumsum([0, *(len(part.examples) for part in parts)])
    return _Plan(
        np.concatenate([part.examples for part in parts]),
        np.concatenate([part.ends + start for part, start in zip(parts, starts, strict=False)]),
        np.concatenate([part.images for part in parts]),
        sum(part.too_long for part in parts),
    )


def _kept_plan(lengths_path: Path, rule: _Rule, name: str) -> _Plan:
    """The plan beside the lengths, made now if it is not there."""
    key = hashlib.sha256(f"{lengths_path.name} {rule}".encode()).hexdigest()[:24]
    stem = lengths_path.parent / f"rows-{key}"
    for _ in range(2):
        with contextlib.suppress(OSError, ValueError):  # not there, or damaged
            facts = json.loads(stem.with_suffix(".json").read_text(encoding="utf-8"))
            arrays = (
                np.asarray(np.memmap(stem.with_suffix(f".{kind}"), dtype, "r", shape=(facts[counted],)))
                for kind, (dtype, counted) in _KEPT.items()
            )
            return _Plan(*arrays, facts["too_long"])
        try:
            _write_plan(stem, lengths_path, rule, name)
        except OSError as error:
            raise InputError(f"the rows of {name} cannot be kept in {stem.parent}: {error.strerror}") from None
    raise InputError(f"the rows of {name} that were just written to {stem.parent} cannot be read again")


def _write_plan(stem, lengths_path, rule, name):
    lengths = _mapped(lengths_path)
    if len(lengths.tokens) > 1 << 32:
        raise InputError(
            f"{name} has {len(lengths.tokens)} examples, more than {1 << 32}: make several data sets of it"
        )
    tasks = _parts_of(len(lengths.tokens), rule)
    work = functools.partial(_part_from_file, lengths_path, rule)
    written = rows = too_long = 0
    with (
        tempfile.TemporaryDirectory(prefix=f"{stem.name}.", dir=stem.parent) as folder,
        contextlib.ExitStack() as open_,
    ):
        kept = Path(folder) / stem.name
        files = {kind: open_.enter_context(open(kept.with_suffix(f".{kind}"), "wb")) for kind in _KEPT}
        for part in _in_order(run_shared(work, tasks, what=f"packing {name}")):
            for array, (kind, (dtype, _)) in zip(
                (part.examples, part.ends + written, part.images), _KEPT.items(), strict=True
            ):
                array.astype(dtype).tofile(files[kind])
            written, rows, too_long = written + len(part.examples), rows + len(part.ends), too_long + part.too_long
        open_.close()
        if not rows:
            _refuse(lengths, name, rule)
        facts = {"examples": written, "rows": rows, "too_long": too_long}
        kept.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")
        for kind in (*_KEPT, "json"):  # the facts last: with them the plan is there
            kept.with_suffix(f".{kind}").replace(stem.with_suffix(f".{kind}"))


def _in_order(results: Iterator[tuple[int, _Plan]]) -> Iterator[_Plan]:
    """Results that come in any order, by their number."""
    waiting: dict[int, _Plan] = {}
    expected = 0
    for number, result in results:
        waiting[number] = result
        while expected in waiting:
            yield waiting.pop(expected)
            expected += 1


def _part_from_file(lengths_path, rule, start, stop):
    return _large_part(_mapped(lengths_path), rule, start, stop)


@functools.lru_cache(maxsize=4)
def _mapped(lengths_path):
    return Lengths(*np.load(lengths_path, mmap_mode="r", allow_pickle=False))


def pack_window(
    indices: Int[np.ndarray, " S"],
    lengths: Lengths,
    length: int,
    images: int,
) -> list[list[int]]:
    """Rows of at most `length` tokens and `images` images, about equally full of both; every example must fit one.

    There are as many rows as the sums ask for at least. The largest example comes first (in tokens or in images, each
    weighed by how scarce it is), and each goes where the larger of the row's tokens and images, as shares of all there
    are, stays smallest (greedy vector scheduling; Chekuri and Khanna, 2004): so small examples of many images are
    spread over the rows of large ones of few. What fits in none of them any more makes rows of its own, best fit
    decreasing; so does all where that takes fewer rows.
    """
    tokens, media = lengths.tokens[indices].astype(np.int64), lengths.images[indices].astype(np.int64)
    all_tokens, all_media = int(tokens.sum()), max(1, int(media.sum()))
    count = max(math.ceil(all_tokens / length), math.ceil(all_media / images))
    used_tokens, used_media = np.zeros(count, np.int64), np.zeros(count, np.int64)
    rows: list[list[int]] = [[] for _ in range(count)]
    rest = []
    size = np.maximum(tokens * (all_tokens / length**2), media * (all_media / images**2))
    for place in np.argsort(-size, kind="stable").tolist():
        more_tokens, more_media = used_tokens + tokens[place], used_media + media[place]
        load = np.maximum(more_tokens * all_media, more_media * all_tokens)
        load[(more_tokens > length) | (more_media > images)] = _FULL
        row = int(load.argmin())
        if load[row] == _FULL:
            rest.append(place)
            continue
        rows[row].append(int(indices[place]))
        used_tokens[row], used_media[row] = more_tokens[row], more_media[row]
    rows = [row for row in rows if row]
    if rest:
        rows += best_fit_decreasing(indices[np.sort(rest)], lengths, length, images)
        tight = best_fit_decreasing(indices, lengths, length, images)
        rows = tight if len(tight) < len(rows) else rows
    return rows


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
