"""Rows of scores.json: the mean of what each prediction scored, its interval, and the official scores."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np

from mmjax.core.errors import InputError
from mmjax.evaluation.intervals import interval
from mmjax.evaluation.predictions import Row
from mmjax.evaluation.questions import Judged, Questions
from mmjax.evaluation.settings import Control, Setting


class Score(TypedDict):
    """A row of scores.json.

    `score`: the mean of what each answer scored (1: right), the ends of its 95% interval, and `chance`, which is what
    can be had without looking: all in shares. The interval is None where answers have no score by themselves; `score`
    is then the official main score, in shares. `n`: answers, over `seeds` seeds.
    official: scores by their official names, the mean over seeds.
    """

    task: str
    shots: int
    selection: str
    control: Control
    score: float | None
    low: float | None
    high: float | None
    n: int
    seeds: int
    chance: float | None
    official: NotRequired[dict[str, float | None]]


def score_row(setting: Setting, task: Questions, judged: Sequence[Judged]) -> Score:
    """The row of one setting from all of its predictions, those of each seed one after the other."""
    score = low = high = None
    seeds = task.seeds(setting)
    if all(one.score is not None for one in judged):
        values = np.array([one.score for one in judged], np.float64).reshape(seeds, -1)
        score, low, high = (round(value, 6) for value in interval(values))
    chance = task.chance(judged)
    return Score(
        task=setting.task,
        shots=setting.shots,
        selection=setting.selection,
        control=setting.control,
        score=score,
        low=low,
        high=high,
        n=len(judged),
        seeds=seeds,
        chance=None if chance is None else round(chance, 6),
    )


def official_scores(
    rows: Sequence[Score],
    settings: Sequence[tuple[Questions, Setting]],
    predictions: Iterator[Row],
    folder: Path,
    *,
    strict: bool,
) -> None:
    """Writes `folder`/TASK-SHOTS-SELECTION-CONTROL-SEED/ of each setting and seed, and adds what it scores.

    strict: the official evaluation must take them; otherwise, with a part of the items, it may refuse.
    """
    of_setting = {setting: (task, row) for (task, setting), row in zip(settings, rows, strict=True)}
    found: dict[Setting, list] = {}
    for (name, shots, selection, control, seed), group in itertools.groupby(predictions, _place):
        setting = Setting(name, shots, selection, control)
        task, _ = of_setting[setting]
        if task.official is None:
            continue
        path = folder / f"{name}-{shots}-{selection}-{control}-{seed}" / task.official.results
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            found.setdefault(setting, []).append(task.official.score(list(group), path))
        except InputError:
            if strict:
                raise
    for setting, scores in found.items():
        task, row = of_setting[setting]
        row["official"] = {name: _mean([one.get(name) for one in scores]) for name in scores[0]}
        main = row["official"].get(task.official.main_score)
        if row["score"] is None and main is not None:
            row["score"] = round(main / task.official.scale, 6)


def _place(row: Row):
    return tuple(row[name] for name in ("task", "shots", "selection", "control", "seed"))


def _mean(values):
    return None if any(value is None for value in values) else round(float(np.mean(values)), 6)
