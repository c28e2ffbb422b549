"""Mixtures: which data set each row of the stream comes from, as a function of the row's number.

An item (a data set, perhaps bounded in length) with share s(t) of the rows is due for the j-th time when its expected
number of rows, the integral of s, passes j - 1/2. Rows are what is due, in order. So each item is within a row of its
share at any time, however small the share, and weights may be constant or change linearly: how many rows of an item
came before is a quadratic function, evaluated in whole numbers and therefore exact, whatever came before.
"""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Literal, NamedTuple

from mmjax.core.config import nearest
from mmjax.core.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Phase:
    """What rows are made of from step `first_step` on.

    weights: of the data sets; one that is not named is left out. Empty: those of the phase before.
    reached: "linearly" changes the weights of the phase before into these over its steps, so that they have become
      these at `first_step`; "at_once" keeps those of the phase before until then.
    max_length: only examples of so many tokens at most; 0: of any length that a row holds.
    detail: share of the resolution that pictures are shown with (they keep their size in pixels).
    noise: standard deviation of Gaussian noise on pictures, as a share of the range of a pixel.
    """

    first_step: int
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)
    reached: Literal["at_once", "linearly"] = "at_once"
    max_length: int = 0
    detail: float = 1.0
    noise: float = 0.0

    def __post_init__(self):
        if self.first_step < 0 or self.max_length < 0:
            raise ConfigError(
                f"first_step and max_length must be 0 or more, not {self.first_step} and {self.max_length}"
            )
        if not 0.0 < self.detail <= 1.0:
            raise ConfigError(f"detail must be above 0 and at most 1, not {self.detail}")
        if not 0.0 <= self.noise <= 1.0:
            raise ConfigError(f"noise must be between 0 and 1, not {self.noise}")


def spelled_out(phases: Sequence[Phase], weights: Mapping[str, float]) -> tuple[Phase, ...]:
    """The phases from step 0 on, each with its weights; `weights` hold until a phase names others.

    Raises:
      ConfigError: steps that do not rise, unknown data sets, weights below zero or all zero.
    """
    if not phases or phases[0].first_step > 0:
        phases = (Phase(0), *phases)
    full, current = [], weights
    for phase in phases:
        current = phase.weights or current
        full.append(dataclasses.replace(phase, weights=current))
    _check(tuple(weights), full)
    return tuple(full)


class Slot(NamedTuple):
    """`row` is the number of rows of `item` that came before."""

    item: int
    row: int


class Stretch(NamedTuple):
    """Rows from `first` on: the shares of the items there, and where the next stretch begins."""

    first: int
    shares: tuple[Fraction, ...]
    final: tuple[Fraction, ...]


class Mixture:
    """The item of each row of stretches that follow each other; the last one has no end.

    Args:
      stretches: `shares` of each sum to 1; those of the last are constant.
      before: rows of each item that came before the first stretch.
    """

    def __init__(self, stretches: Sequence[Stretch], before: Sequence[int]):
        self._starts = [stretch.first for stretch in stretches]
        self._counters, self._before = [], [list(before)]
        for number, stretch in enumerate(stretches):
            last = number + 1 == len(stretches)
            rows = 1 if last else self._starts[number + 1] - stretch.first
            self._counters.append(_Counter(stretch.shares, stretch.final, rows))
            if not last:
                self._before.append(_sums(self._before[-1], self._counters[-1].before(rows)))

    def rows(self, first: int, count: int) -> list[Slot]:
        """The rows from number `first` on."""
        slots: list[Slot] = []
        while len(slots) < count:
            row = first + len(slots)
            place, stop = self._place(row)
            found = self._counters[place].rows(row - self._starts[place], min(first + count, stop) - row)
            slots += [Slot(item, self._before[place][item] + number) for item, number in found]
        return slots

    def before(self, row: int) -> list[int]:
        """How many rows of each item came before row `row`."""
        place, _ = self._place(row)
        return _sums(self._before[place], self._counters[place].before(row - self._starts[place]))

    def first_row_with(self, enough: Callable[[Sequence[int]], bool]) -> int:
        """The least number of rows whose counts by item are `enough`, which must stay so and be reached."""
        low, span = self._starts[0], 1
        while not enough(self.before(low + span)):
            span *= 2
        return low + bisect.bisect_left(range(span), True, key=lambda row: enough(self.before(low + row)))

    def _place(self, row):
        place = bisect.bisect_right(self._starts, row) - 1
        if place < 0:
            raise IndexError(f"row {row} is before the first, {self._starts[0]}")
        return place, self._starts[place + 1] if place + 1 < len(self._starts) else math.inf


class _Counter:
    """Rows of a stretch, counted from 0. At tick t item i has had floor(1/2 + (linear t + square t^2) / whole) rows."""

    def __init__(self, shares, final, rows):
        scale = math.lcm(*(share.denominator for share in (*shares, *final)))
        first, last = ([int(share * scale) for share in part] for part in (shares, final))
        self._rows, self._whole = rows, 2 * scale * rows
        self._terms = [(2 * a * rows, b - a, 2 * b * rows) for a, b in zip(first, last, strict=True)]

    def rows(self, first, count):
        """(item, rows of it before) of rows `first` to `first + count - 1`."""
        tick, counts, skip = self._find(first)
        found: list[tuple[int, int]] = []
        while len(found) < skip + count:
            tick += 1
            after = self._at(tick)
            found += [(item, was) for item, (was, now) in enumerate(zip(counts, after, strict=True)) if now > was]
            counts = after
        return found[skip : skip + count]

    def before(self, row):
        """Rows of each item before row `row`."""
        tick, counts, skip = self._find(row)
        for item, (was, now) in enumerate(zip(tuple(counts), self._at(tick + 1), strict=True)):
            if skip and now > was:
                counts[item] += 1
                skip -= 1
        return counts

    def _find(self, row):
        """The last tick before which at most `row` rows are due, the counts there, and the rows still to be passed."""
        reach = len(self._terms) // 2 + 2  # rounding moves the sum by half a row an item at most
        ticks = range(max(0, row - reach), row + reach)
        tick = ticks[bisect.bisect_right(ticks, row, key=lambda tick: sum(self._at(tick))) - 1]
        counts = self._at(tick)
        return tick, counts, row - sum(counts)

    def _at(self, tick):
        inside, beyond = min(tick, self._rows), max(0, tick - self._rows)  # past the end the final shares go on
        whole, half = self._whole, self._whole // 2
        return [
            (linear * inside + square * inside * inside + after * beyond + half) // whole
            for linear, square, after in self._terms
        ]


def shares(weights: Sequence[float], sizes: Sequence[int], temperature: float) -> tuple[Fraction, ...]:
    """(weight * size)^(1 / temperature) of each item, over their sum; exact for a temperature of 1."""
    exact = [Fraction(repr(float(weight))) * size for weight, size in zip(weights, sizes, strict=True)]
    if temperature != 1.0:
        # Nine digits, as powers need not be the same to the last bit on every machine.
        exact = [Fraction(f"{float(value) ** (1 / temperature):.9g}") if value else value for value in exact]
    return tuple(value / sum(exact) for value in exact)


def stretches_of(
    phases: Sequence[Phase],
    shares: Sequence[tuple[Fraction, ...]],
    finals: Sequence[tuple[Fraction, ...]],
    *,
    batch_size: int,
    first_step: int,
) -> list[Stretch]:
    """The stretches of rows from step `first_step` on. `shares`, `finals`: of each phase, where it begins and ends.

    Of a phase that has begun before, the rest is taken, with the shares that it has come to.
    """
    found = []
    for number, phase in enumerate(phases):
        start = phase.first_step
        stop = phases[number + 1].first_step if number + 1 < len(phases) else None
        if stop is not None and stop <= first_step:
            continue
        begin, final = shares[number], finals[number]
        if start < first_step and stop is not None:
            passed = Fraction(first_step - start, stop - start)
            begin = tuple(a + (b - a) * passed for a, b in zip(begin, final, strict=True))
        found.append(Stretch(max(start, first_step) * batch_size, begin, final))
    return found


def _sums(left, right):
    return [a + b for a, b in zip(left, right, strict=True)]


def _check(names, phases):
    for before, after in itertools.pairwise(phases):
        if after.first_step <= before.first_step:
            raise ConfigError(f"phases must start at rising steps, not {before.first_step} then {after.first_step}")
    if phases[0].reached != "at_once":
        raise ConfigError("the first phase has none before it: its weights cannot be reached linearly")
    for phase in phases:
        for name, weight in phase.weights.items():
            if name not in names:
                raise ConfigError(f"the phase from step {phase.first_step} names {name!r}{nearest(name, names)}")
            if not 0.0 <= weight < float("inf"):
                raise ConfigError(f"the weight of {name} must be zero or more, not {weight}")
        if sum(phase.weights.values()) <= 0:
            raise ConfigError(f"the weights of the phase from step {phase.first_step} are all zero")
