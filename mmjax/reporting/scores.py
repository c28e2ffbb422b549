"""Scores as a reader wants them: a headline for each task, a table with controls beside, score against shots."""

from __future__ import annotations

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from mmjax.reporting.charts import Axes, Level, Series, line_chart
from mmjax.reporting.curves import SHARE
from mmjax.reporting.svg import counted, percent

Rows = Sequence[Mapping[str, Any]]

_FAMILY = 4  # tasks with a common first part that are shown as one headline
_WORDS = {"heldout": "held-out classes", "rotated": "rotated classes"}
_MAX_CURVES = 8
_WIDE = (480.0, 250.0)


@dataclasses.dataclass(frozen=True)
class Score:
    """A task at a number of shots. `controls`: scores with the pictures blanked or shuffled, by name."""

    task: str
    shots: int
    selection: str
    score: float
    low: float
    high: float
    n: int
    seeds: int
    chance: float | None
    controls: dict[str, float]

    @property
    def label(self) -> str:
        return task_label(self.task)

    @property
    def verdict(self) -> str:
        """Whether the whole interval is "above" or "below" chance; "chance" where it is neither."""
        if self.chance is None:
            return "unknown"
        return "above" if self.low > self.chance else "below" if self.high < self.chance else "chance"


@dataclasses.dataclass(frozen=True)
class Headline:
    """One figure of the top of the page: a score, or the mean over a family of tasks with its range."""

    label: str
    detail: str
    score: float
    low: float
    high: float
    interval: str
    chance: float | None
    verdict: str
    blanked: float | None


def read_scores(rows: Rows) -> list[Score]:
    """One `Score` for each task, shots and selection, in the order of the file; rows that lack a score are left out."""
    shown: dict[tuple, Mapping[str, Any]] = {}
    controls: dict[tuple, dict[str, float]] = collections.defaultdict(dict)
    for row in rows:
        if not {"task", "shots", "score"} <= row.keys() or row["score"] is None:
            continue
        key = (row["task"], row["shots"], row.get("selection", ""))
        if row.get("control", "none") == "none":
            shown[key] = row
        else:
            controls[key][row["control"]] = row["score"]
    order = {task: place for place, (task, _, _) in reversed(list(enumerate(shown)))}
    return [
        Score(
            task,
            shots,
            selection,
            row["score"],
            row.get("low", row["score"]),
            row.get("high", row["score"]),
            row.get("n", 0),
            row.get("seeds", 1),
            row.get("chance"),
            controls[task, shots, selection],
        )
        for (task, shots, selection), row in sorted(shown.items(), key=lambda item: (order[item[0][0]], item[0][1]))
    ]


def task_label(task: str) -> str:
    """`bind_2way_heldout` -> "bind 2-way, held-out classes"."""
    words = [re.sub(r"^(\d+)way$", r"\1-way", word) for word in task.split("_")]
    plain = " ".join(word for word in words if word not in _WORDS)
    return ", ".join([plain, *(_WORDS[word] for word in words if word in _WORDS)])


def family_of(tasks: Iterable[str]) -> dict[str, str]:
    """For each task the name under which it is shown: that of its family, where there are many alike, or its own."""
    tasks = list(dict.fromkeys(tasks))
    sizes = collections.Counter(task.rsplit("_", 1)[0] for task in tasks)
    return {task: prefix if sizes[prefix := task.rsplit("_", 1)[0]] >= _FAMILY else task for task in tasks}


def table_groups(scores: Sequence[Score]) -> list[tuple[str, bool, list[Score]]]:
    """Scores of each task for the table: its label, whether it opens a new family of tasks, and its rows."""
    names = family_of(score.task for score in scores)
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(score.task, []).append(score)
    families = [None, *(names[task] for task in groups)]
    return [
        (task_label(task), names[task] != before, rows)
        for before, (task, rows) in zip(families, groups.items(), strict=False)
    ]


def headlines(scores: Sequence[Score]) -> list[Headline]:
    """A figure for each task, or for each family of tasks.

    It is at the number of shots at which the controls were run too, or else at the greatest.
    """
    names = family_of(score.task for score in scores)
    best: dict[str, Score] = {}
    for score in scores:
        old = best.get(score.task)
        if old is None or (bool(score.controls), score.shots) >= (bool(old.controls), old.shots):
            best[score.task] = score
    groups: dict[str, list[Score]] = {}
    for task, score in best.items():
        groups.setdefault(names[task], []).append(score)
    return [
        _single(members[0]) if members[0].task == name else _family(name, members) for name, members in groups.items()
    ]


def shots_chart(scores: Sequence[Score]) -> Markup:
    """Score against shots for the tasks that take any; empty where none was asked with several numbers of them."""
    tasks: dict[str, list[Score]] = {}
    for score in scores:
        tasks.setdefault(f"{score.label}{f' ({score.selection})' if _selections(scores) > 1 else ''}", []).append(score)
    drawn = [(name, rows) for name, rows in tasks.items() if any(row.shots for row in rows)][:_MAX_CURVES]
    if all(len(rows) == 1 for _, rows in drawn):
        return Markup("")
    shots = sorted({row.shots for _, rows in drawn for row in rows})
    places = {number: float(place) for place, number in enumerate(shots)}
    series = [
        Series(
            name,
            [places[row.shots] for row in rows],
            [row.score for row in rows],
            colour,
            [row.low for row in rows],
            [row.high for row in rows],
        )
        for colour, (name, rows) in enumerate(drawn)
    ]
    chances = {rows[0].chance for _, rows in drawn if rows[0].chance is not None}
    axes = Axes(
        "Score against shots",
        note="with 95% intervals",
        x_label="shots",
        x_ticks=tuple((place, str(number)) for number, place in places.items()),
        whiskers=True,
        size=_WIDE,
        **SHARE,
    )
    return line_chart(axes, series, [Level("chance", chance) for chance in sorted(chances)])


def progress_chart(evaluations: Rows) -> Markup:
    """Scores of the evaluations during training, `{"step", "rows": scores}` each, against steps."""
    curves: dict[tuple[str, int], dict[int, Score]] = {}
    for line in evaluations:
        for score in read_scores(line.get("rows", ())):
            curves.setdefault((score.task, score.shots), {})[line["step"]] = score
    series = []
    for colour, ((task, shots), points) in enumerate(list(curves.items())[:_MAX_CURVES]):
        steps = sorted(points)
        values, low, high = ([getattr(points[step], end) for step in steps] for end in ("score", "low", "high"))
        series.append(Series(f"{task_label(task)}, {counted(shots, 'shot')}", steps, values, colour, low, high))
    axes = Axes("Held-out score while training", note="with 95% intervals", size=_WIDE, **SHARE)
    return line_chart(axes, series)


def _selections(scores):
    return len({score.selection for score in scores})


def _single(score: Score) -> Headline:
    interval = f"95% interval {percent(score.low)} to {percent(score.high)}"
    return Headline(
        score.label,
        counted(score.shots, "shot"),
        score.score,
        score.low,
        score.high,
        interval,
        score.chance,
        score.verdict,
        score.controls.get("blanked"),
    )


def _family(name: str, members: Sequence[Score]) -> Headline:
    low, high = min(score.score for score in members), max(score.score for score in members)
    chances = [score.chance for score in members if score.chance is not None]
    verdicts = {score.verdict for score in members}
    blanked = [score.controls["blanked"] for score in members if "blanked" in score.controls]
    return Headline(
        task_label(name),
        f"mean of {len(members)} kinds",
        _mean([score.score for score in members]),
        low,
        high,
        f"the kinds range from {percent(low)} to {percent(high)}",
        _mean(chances) if len(chances) == len(members) else None,
        verdicts.pop() if len(verdicts) == 1 else "mixed",
        _mean(blanked) if len(blanked) == len(members) else None,
    )


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
