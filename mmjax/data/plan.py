"""Which examples the rows of each global batch hold: a function of the step and of the lengths of all examples.

It is made of three: the mixture says of which item (a data set, perhaps bounded in length by a phase) a row is, packing
which examples its rows hold, and the rows of a batch are put in an order in which devices get about as many images.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from mmjax.core.errors import InputError
from mmjax.data.balance import even_order
from mmjax.data.config import DataConfig
from mmjax.data.lengths import Measured
from mmjax.data.mixture import Mixture, Phase, shares, spelled_out, stretches_of
from mmjax.data.packing import PackedRows


class Row(NamedTuple):
    """The examples of a row: numbers of its data set. A row past the end of the stream has none."""

    dataset: int
    epoch: int
    indices: list[int]


class Item(NamedTuple):
    """A data set (its place among the names), and how long its examples are at most; 0: as a row holds."""

    dataset: int
    longest: int


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a stream begins: the step, and how many rows of each item came before, by its name."""

    step: int = 0
    rows: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ItemPlan:
    """The rows of an item: a digest of all that decides them, and how many an epoch has."""

    digest: str
    rows: int


class RowPlan:
    """The rows of every batch.

    Attributes:
      items: what the mixture mixes.
      packed: the rows of each.
      end: how many rows there are, counted from step 0 of the run; None where they never end.
    """

    def __init__(
        self,
        names: Sequence[str],
        config: DataConfig,
        measured: Sequence[Measured],
        *,
        batch_size: int,
        seed: int,
        start: Start,
    ):
        self._names, self._config, self._batch_size, self._start = names, config, batch_size, start
        self._phases = spelled_out(config.phases, {name: config.sources[name].weight for name in names})
        self.items = self._items()
        self._measured = measured
        self.packed = [self._pack(item, seed) for item in self.items]
        begin = [self._shares(phase.weights, phase.max_length) for phase in self._phases]
        final = [
            self._shares(after.weights, phase.max_length) if after.reached == "linearly" else here
            for phase, after, here in zip(self._phases, (*self._phases[1:], self._phases[-1]), begin, strict=True)
        ]
        final[-1] = begin[-1]
        stretches = stretches_of(self._phases, begin, final, batch_size=batch_size, first_step=start.step)
        self._mixture = Mixture(stretches, [start.rows.get(self.item_name(item), 0) for item in self.items])
        self.end = self._last_row(begin[-1]) if config.epochs else None

    def item_name(self, item: Item) -> str:
        """The name of the data set, with the bound on its lengths if it has one."""
        return self._names[item.dataset] + (f"<={item.longest}" if item.longest else "")

    @property
    def steps(self) -> int | None:
        """After how many steps of the run the stream ends; None for never."""
        return None if self.end is None else -(-self.end // self._batch_size)

    def phase(self, step: int) -> Phase:
        """The phase of a step."""
        return self._phases[bisect.bisect_right(self._phases, step, key=lambda phase: phase.first_step) - 1]

    def batch(self, step: int, places: Sequence[int]) -> list[Row]:
        """The rows at some places of the whole batch of `step`.

        Raises:
          InputError: a step before the stream begins, or after it has ended.
        """
        if step < self._start.step or (self.end is not None and step * self._batch_size >= self.end):
            raise InputError(f"the stream has no step {step}: it begins at {self._start.step} and ends at {self.steps}")
        first = step * self._batch_size
        count = self._batch_size if self.end is None else min(self._batch_size, self.end - first)
        slots = np.array(self._mixture.rows(first, count))
        found = np.zeros((3, self._batch_size), np.int64)  # epochs, places in the plan, images
        for number in np.unique(slots[:, 0]).tolist():
            here = np.flatnonzero(slots[:, 0] == number)
            found[:, here] = self.packed[number].find(slots[here, 1])
        order = even_order(found[2].tolist())
        items, (epochs, places_in_plan, _) = slots[:, 0].tolist(), found.tolist()
        return [
            self._row(items[slot], epochs[slot], places_in_plan[slot]) if slot < count else Row(0, 0, [])
            for slot in (order[place] for place in places)
        ]

    def _row(self, number, epoch, place):
        return Row(self.items[number].dataset, *self.packed[number].planned(epoch, place))

    def before(self, step: int) -> dict[str, int]:
        """How many rows of each item came before `step`, by its name."""
        row = step * self._batch_size
        counts = self._mixture.before(row if self.end is None else min(row, self.end))
        return {self.item_name(item): count for item, count in zip(self.items, counts, strict=True)}

    def item_plans(self) -> dict[str, ItemPlan]:
        """What decides the rows of each item, by its name."""
        return {
            self.item_name(item): ItemPlan(
                hashlib.sha256(f"{self._measured[item.dataset].digest} {packed.rule}".encode()).hexdigest()[:16],
                packed.rows,
            )
            for item, packed in zip(self.items, self.packed, strict=True)
        }

    def whole(self, dataset: int) -> PackedRows:
        """The rows of a data set with the widest bound on lengths that it has."""
        places = [place for place, item in enumerate(self.items) if item.dataset == dataset]
        return self.packed[min(places, key=lambda place: (self.items[place].longest > 0, -self.items[place].longest))]

    def _items(self):
        items = set()
        for number, phase in enumerate(self._phases):
            sharing = [phase.weights]
            if number + 1 < len(self._phases) and self._phases[number + 1].reached == "linearly":
                sharing.append(self._phases[number + 1].weights)
            items |= {
                Item(self._names.index(name), phase.max_length)
                for weights in sharing
                for name, weight in weights.items()
                if weight > 0
            }
        # A data set without any share is packed too, so that it is counted and checked.
        items |= {Item(place, 0) for place in set(range(len(self._names))) - {item.dataset for item in items}}
        return sorted(items)

    def _shares(self, weights, longest):
        by_rows = self._config.weigh_by == "rows"
        return shares(
            [weights.get(self._names[item.dataset], 0.0) * (item.longest == longest) for item in self.items],
            [packed.rows if by_rows else 1 for packed in self.packed],
            self._config.temperature,
        )

    def _last_row(self, final):
        least = [
            self._config.epochs * packed.rows if share else 0 for packed, share in zip(self.packed, final, strict=True)
        ]
        return self._mixture.first_row_with(
            lambda counts: all(count >= rows for count, rows in zip(counts, least, strict=True))
        )

    def _pack(self, item, seed):
        config, name, measured = self._config, self._names[item.dataset], self._measured[item.dataset]
        lengths = measured.lengths
        packed = PackedRows(
            lengths,
            name=name,
            seed=seed,
            length=config.length,
            images=config.images,
            window=config.window,
            pack=config.pack,
            longest=item.longest,
            kept=measured.kept,
        )
        if packed.too_long > config.max_bad_share * len(lengths.tokens):
            raise InputError(
                f"{packed.too_long} of {len(lengths.tokens)} examples of {name} do not fit a row of "
                f"{config.length} tokens and {config.images} images (the longest has {lengths.tokens.max()} tokens, "
                f"the most images are {lengths.images.max()}): raise data.length, data.images or data.max_bad_share"
            )
        return packed


def carried(start_step: int, was: Mapping[str, ItemPlan], rows: Mapping[str, int], now: RowPlan) -> Start:
    """Where a stream with another configuration begins, so that each data set goes on where it stood.

    was, rows: how the items were planned before, and how many rows of each were read. One whose rows are made in
    another way begins with its next epoch.
    """
    begun = {}
    for name, plan in now.item_plans().items():
        if name in was and name in rows:
            same = was[name].digest == plan.digest
            begun[name] = rows[name] if same else plan.rows * -(-rows[name] // was[name].rows)
    return Start(start_step, begun)
