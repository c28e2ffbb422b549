"""The predictions that went worst, with the pictures that the model saw."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.core.errors import DataError
from mmjax.data.keyed import key_of
from mmjax.evaluation.harness import Asked, Decoder, make
from mmjax.evaluation.predictions import Row
from mmjax.evaluation.questions import Questions
from mmjax.evaluation.settings import Setting

# Of each task, at one setting, so many are shown.
SHOWN = 12


class Shown(NamedTuple):
    """A row of predictions.jsonl with its pictures: those of the query, and of each demonstration."""

    row: Row
    pictures: tuple[UInt8[np.ndarray, "h w 3"], ...]
    demonstrations: tuple[tuple[UInt8[np.ndarray, "h w 3"], ...], ...]


def worst_predictions(tasks: Sequence[Questions], rows: Iterable[Row], *, count: int = SHOWN) -> list[Shown]:
    """The lowest scores of each task, at its last setting without a control; of equal ones the surest, then any.

    How sure: by how much the candidate that was chosen is likelier than the likeliest reference.
    """
    by_name = {task.name: task for task in tasks}
    last = {task.name: [one for one in task.settings() if one.control == "none"][-1] for task in tasks}
    counts = {name: by_name[name].count(setting) for name, setting in last.items()}
    worst: dict[str, list] = {name: [] for name in last}
    place: dict[str, int] = dict.fromkeys(last, 0)
    for row in rows:
        name = row["task"]
        setting = Setting(name, row["shots"], row["selection"], row["control"])
        if setting != last[name] or row["score"] is None:
            continue
        number = place[name]
        place[name] += 1
        badness = (-row["score"], _sure(row), key_of(row["id"], row["seed"]))
        kept = worst[name]
        heapq.heappush(kept, (badness, number, row))
        if len(kept) > count:
            heapq.heappop(kept)
    shown = []
    for name, kept in worst.items():
        for _, number, row in sorted(kept, key=lambda one: one[0], reverse=True):
            if row["score"] < 1:
                asked = Asked(by_name[name], last[name], row["seed"], number % counts[name])
                shown.append(_shown(row, asked))
    return shown


def _sure(row: Row) -> float:
    told = row["candidates"]
    if not told:
        return 0.0
    right = [told[name] for name in row["references"] if name in told]
    return max(told.values()) - max(right) if right else math.inf


def _shown(row: Row, asked: Asked) -> Shown:
    query = make(asked, Decoder())
    if not query.forms:
        return Shown(row, (), ())
    form = query.forms[0]
    return Shown(row, _pictures(form.query), tuple(map(_pictures, form.shots)))


def _pictures(part):
    try:
        return tuple(np.asarray(medium.load()[0]) for medium in part.media)
    except DataError:
        return ()
