"""How the demonstrations of a benchmark are picked among its training items."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from mmjax.core.arrays import Float
from mmjax.core.errors import InputError
from mmjax.data.keyed import Dice, key_of
from mmjax.evaluation.benchmark import Item
from mmjax.evaluation.rices import by_similarity
from mmjax.evaluation.settings import Selection


class Pool:
    """Training items, and the order in which they become demonstrations of a query.

    Orders are pure functions of (task, seed, the query's id), and those of fewer shots begin those of more.
    features: vectors of the pictures of all training items and of all queries, for "rices".
    """

    def __init__(
        self,
        task: str,
        items: Sequence[Item],
        features: Callable[[], tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "Q D"]]],
    ):
        self.items = items
        self._task, self._features = task, features
        self._classes: dict[str, list[int]] = collections.defaultdict(list)
        for number, item in enumerate(items):
            self._classes[item.label].append(number)

    def check(self, selection: Selection) -> None:
        """Raises InputError where the items cannot be picked so."""
        if selection == "balanced" and (len(self._classes) < 2 or "" in self._classes):
            raise InputError(f"{self._task} has no classes to balance demonstrations by; use random or rices")
        if selection == "rices" and not all(item.media for item in self.items):
            raise InputError(f"{self._task} has items without pictures, so rices cannot pick by similarity")

    def order(self, selection: Selection, seed: int, query: str, number: int) -> Iterator[int]:
        """Numbers of training items, the first choice first, without the query itself; `number` is the query's."""
        for choice in self._order(selection, seed, query, number):
            if self.items[choice].id != query:
                yield choice

    def arranged(self, selection: Selection, seed: int, query: str, chosen: Sequence[int]) -> list[int]:
        """The order in which those that were chosen are shown: the most similar last, classes mixed."""
        if selection == "rices":
            return list(chosen[::-1])
        shown = list(chosen)
        if selection == "balanced":
            Dice(key_of("arranged", self._task, seed, query, len(shown))).shuffle(shown)
        return shown

    def _order(self, selection, seed, query, number):
        dice = Dice(key_of("shots", self._task, seed, query))
        if selection == "rices":
            shown, asked = self._features()
            return iter(by_similarity(asked[number], shown))
        if selection == "random":
            return _drawn(dice, range(len(self.items)))
        return _in_turn(dice, [members for _, members in sorted(self._classes.items())])


def _drawn(dice: Dice, members: Sequence[int]) -> Iterator[int]:
    """A random order, made as far as it is asked for."""
    moved: dict[int, int] = {}
    for place in range(len(members)):
        other = place + dice.below(len(members) - place)
        yield members[moved.get(other, other)]
        moved[other] = moved.get(place, place)


def _in_turn(dice: Dice, classes: list[list[int]]) -> Iterator[int]:
    """One of each class in every round, the classes in random order, as long as each has members."""
    dice.shuffle(classes)
    orders = [
        _drawn(Dice(key_of("class", place, dice.below(1 << 62))), members) for place, members in enumerate(classes)
    ]
    while orders:
        going = []
        for order in orders:
            member = next(order, None)
            if member is not None:
                yield member
                going.append(order)
        orders = going
