"""Two evaluations of the same items against each other: paired, so that what is hard for both does not count."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmjax.core.arrays import Float
from mmjax.core.errors import InputError
from mmjax.evaluation.intervals import bootstrap
from mmjax.evaluation.predictions import read_predictions

# Up to so many items that differ, every assignment of signs is tried; beyond, so many random ones.
EXACT_ITEMS, ASSIGNMENTS = 14, 20_000
_PLACE = ("task", "shots", "selection", "control")


class Compared(NamedTuple):
    """A setting that both files have: mean scores, the difference b - a with its 95% interval, and its p value.

    p: how often, if it were chance which of the two gave which answer to an item, the difference would be as large, of
    either sign. items: different ones, each with `seeds` seeds; better, worse: of them where b scores more, or less.
    """

    task: str
    shots: int
    selection: str
    control: str
    a: float
    b: float
    difference: float
    low: float
    high: float
    p: float
    items: int
    seeds: int
    better: int
    worse: int


def compare(first: str | Path, second: str | Path) -> list[Compared]:
    """Compares two predictions.jsonl, setting by setting.

    Raises:
      InputError: they share no setting, or of one that they share they asked other items or seeds.
    """
    a, b = _scores(Path(first)), _scores(Path(second))
    shared = [setting for setting in a if setting in b]
    if not shared:
        raise InputError(f"{first} and {second} have no setting (task, shots, selection, control) in common")
    compared = []
    for setting in shared:
        if a[setting].keys() != b[setting].keys():
            alone = sorted(a[setting].keys() ^ b[setting].keys())[0]
            raise InputError(
                f"{first} and {second} asked other items under {_named(setting)}: only one of them has seed "
                f"{alone[0]} of item {alone[1]}; evaluate both with the same --queries, --seeds and data"
            )
        compared.append(_compared(setting, a[setting], b[setting]))
    return compared


def paired_p(differences: Float[np.ndarray, " items"], *, seed: int = 0) -> float:
    """The two-sided p value of a mean difference: the sign of each item's is as probable as the other (Fisher 1935).

    Over all assignments of signs where few items differ; else over random ones, the observed among them.
    """
    apart = differences[differences != 0].astype(np.float64)
    observed = abs(apart.sum()) - 1e-9
    if len(apart) == 0:
        return 1.0
    if len(apart) <= EXACT_ITEMS:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(apart))))
        return float((np.abs(signs @ apart) >= observed).mean())
    random, beyond = np.random.default_rng(seed), 0
    for _ in range(ASSIGNMENTS // 1000):
        signs = 2.0 * random.integers(0, 2, (1000, len(apart))) - 1.0
        beyond += int((np.abs(signs @ apart) >= observed).sum())
    return (beyond + 1) / (ASSIGNMENTS + 1)


def comparison_table(compared: Sequence[Compared]) -> str:
    """As text, shares in percent."""
    lines = ["task, shots, picked, control: a -> b, difference with 95% interval, p, items better and worse"]
    for one in compared:
        lines.append(
            f"{_named(one[:4])}: {100 * one.a:.1f} -> {100 * one.b:.1f}, {100 * one.difference:+.1f} "
            f"({100 * one.low:+.1f} to {100 * one.high:+.1f}), p {one.p:.4f}, {one.better} better and "
            f"{one.worse} worse of {one.items} x {one.seeds}"
        )
    return "\n".join(lines)


def _compared(setting, a, b) -> Compared:
    # What is in the same place of each seed is about the same thing.
    differences: dict[int, list[float]] = collections.defaultdict(list)
    places: collections.Counter = collections.Counter()
    for (seed, name), score in b.items():
        differences[places[seed]].append(score - a[seed, name])
        places[seed] += 1
    counts = {len(each) for each in differences.values()}
    # A row an item: its mean over seeds is one draw, since its answers under all seeds go together.
    by_item = np.array([np.mean(each) for each in differences.values()])
    drawn = bootstrap(by_item[None])
    return Compared(
        *setting,
        a=float(np.mean(list(a.values()))),
        b=float(np.mean(list(b.values()))),
        difference=drawn.score,
        low=drawn.low,
        high=drawn.high,
        p=paired_p(by_item),
        items=len(by_item),
        seeds=max(counts),
        better=int((by_item > 0).sum()),
        worse=int((by_item < 0).sum()),
    )


def _scores(path: Path) -> dict[tuple, dict[tuple[int, str], float]]:
    """Of each setting the score of each item and seed."""
    if path.is_dir():
        path = path / "predictions.jsonl"
    if not path.is_file():
        raise InputError(f"there is no file of predictions {path}")
    found: dict[tuple, dict] = collections.defaultdict(dict)
    for row in read_predictions(path):
        if row.get("score") is None:
            raise InputError(f"{path}: answers of {row.get('task')} have no score by themselves, so there are no pairs")
        found[tuple(row[name] for name in _PLACE)][row["seed"], row["id"]] = row["score"]
    return found


def _named(setting):
    task, shots, selection, control = setting
    return f"{task}, {shots} shots, {selection}, {control}"
