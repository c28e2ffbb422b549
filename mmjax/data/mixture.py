"""Mixtures: which data set each row of the endless stream comes from, as a function of the row's number."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmjax.core.config import nearest
from mmjax.core.errors import ConfigError

MAX_PATTERN = 1000


@dataclasses.dataclass(frozen=True)
class Phase:
    """From step `first_step` on, rows are drawn by these weights; a data set not named is left out."""

    first_step: int
    weights: Mapping[str, float]


class Slot(NamedTuple):
    """`row` is the number of rows of `dataset` (its place among the names) that came before."""

    dataset: int
    row: int


class Mixture:
    """The data set of each row, by smooth weighted round-robin over a repeating pattern of at most 1,000 rows.

    Shares are exact over each pattern and close to exact in every batch, so that no data set is missing by chance.
    Row k and its number within its data set are found in O(1) per phase, whatever came before.
    """

    def __init__(self, names: Sequence[str], phases: Sequence[Phase], *, batch_size: int):
        _check(names, phases)
        self._starts = [phase.first_step * batch_size for phase in phases]
        self._patterns = []
        self._offsets = []
        offsets = np.zeros(len(names), np.int64)
        for number, phase in enumerate(phases):
            counts = pattern_counts([phase.weights.get(name, 0.0) for name in names])
            self._patterns.append(_Pattern(counts))
            self._offsets.append(offsets)
            if number + 1 < len(phases):
                offsets = offsets + self._patterns[-1].before(self._starts[number + 1] - self._starts[number])

    def __getitem__(self, row: int) -> Slot:
        phase = bisect.bisect_right(self._starts, row) - 1
        dataset, before = self._patterns[phase].at(row - self._starts[phase])
        return Slot(dataset, int(self._offsets[phase][dataset]) + before)


class _Pattern:
    def __init__(self, counts):
        self._counts = np.array(counts, np.int64)
        order = smooth_round_robin(counts)
        taken = np.zeros((len(order) + 1, len(counts)), np.int64)
        taken[1:] = np.cumsum(np.eye(len(counts), dtype=np.int64)[order], axis=0)
        self._order, self._taken = order, taken

    def at(self, row):
        rounds, place = divmod(row, len(self._order))
        dataset = self._order[place]
        return dataset, rounds * int(self._counts[dataset]) + int(self._taken[place, dataset])

    def before(self, rows):
        rounds, place = divmod(rows, len(self._order))
        return rounds * self._counts + self._taken[place]


def pattern_counts(weights: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of `weights` with the least error, of sum at most `MAX_PATTERN`.

    Raises ConfigError where a weight is too small for a place in the longest pattern.
    """
    shares = np.array(weights, np.float64) / sum(weights)
    lengths = np.arange(1, MAX_PATTERN + 1)
    counts = np.round(lengths[:, None] * shares[None, :])
    usable = (counts.sum(axis=1) == lengths) & ((counts > 0) | (shares == 0)[None, :]).all(axis=1)
    if not usable.any():
        raise ConfigError(f"weights {list(weights)}: the smallest must be at least 1/{MAX_PATTERN} of their sum")
    errors = np.abs(counts / lengths[:, None] - shares[None, :]).max(axis=1)
    errors = np.where(usable, errors.round(12), np.inf)
    return counts[int(np.argmin(errors))].astype(int).tolist()


def smooth_round_robin(counts: Sequence[int]) -> list[int]:
    """An order in which item i comes `counts[i]` times, as evenly spread as can be (the scheme of the nginx server)."""
    total, credit, order = sum(counts), [0] * len(counts), []
    for _ in range(total):
        credit = [have + gain for have, gain in zip(credit, counts, strict=True)]
        best = max(range(len(counts)), key=lambda item: (credit[item], -item))
        credit[best] -= total
        order.append(best)
    return order


def _check(names, phases):
    if not phases or phases[0].first_step != 0:
        raise ConfigError("the first phase of a mixture must start at step 0")
    for before, after in itertools.pairwise(phases):
        if after.first_step <= before.first_step:
            raise ConfigError(f"phases must start at rising steps, not {before.first_step} then {after.first_step}")
    for phase in phases:
        for name, weight in phase.weights.items():
            if name not in names:
                raise ConfigError(f"the phase from step {phase.first_step} names {name!r}{nearest(name, names)}")
            if not 0.0 <= weight < float("inf"):
                raise ConfigError(f"the weight of {name} must be zero or more, not {weight}")
        if sum(phase.weights.values()) <= 0:
            raise ConfigError(f"the weights of the phase from step {phase.first_step} are all zero")
