"""Robustness: benchmarks under corruptions beside themselves, and the table of what that costs."""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mmjax.core.errors import InputError
from mmjax.evaluation.benchmark import Benchmark, Item, Split
from mmjax.evaluation.corruptions import CORRUPTIONS, OF_PICTURES, STRENGTHS, applies_to, check, corrupted

_NAME = re.compile(rf"(.+)-({'|'.join(CORRUPTIONS)})-(\d)")


def kinds_of(benchmark: Benchmark) -> list[str]:
    """The kinds that apply to a benchmark: two towers need a picture, and not every prompt has a question."""
    bare = [] if benchmark.method in ("classes", "retrieval") else ["missing"]
    typed = ["typos"] if "{question}" in benchmark.templates[0].question else []
    return [kind for kind in CORRUPTIONS if kind in (*OF_PICTURES, *bare, *typed)]


def under(benchmark: Benchmark, kind: str, strength: int, *, seed: int = 0) -> Benchmark:
    """The benchmark with what it asks corrupted, as one of its own: NAME-KIND-STRENGTH. Items without a question stay.

    Raises:
      InputError: there is no such kind or strength, or it does not apply.
    """
    check(kind, strength)
    if kind not in kinds_of(benchmark):
        raise InputError(f"{kind} does not apply to {benchmark.name}, but {', '.join(kinds_of(benchmark))} do")

    def read(folder: Path, split: Split) -> list[Item]:
        items = benchmark.read(folder, split)
        if split == "train":
            return list(items)
        return [corrupted(item, kind, strength, seed) if applies_to(item, kind) else item for item in items]

    name = f"{benchmark.name}-{kind}-{strength}"
    return dataclasses.replace(benchmark, name=name, read=read, draws=benchmark.drawn_by)


def robust_tasks(benchmark: Benchmark, kinds: Sequence[str] = (), *, seed: int = 0) -> list[Benchmark]:
    """The benchmark as it is, then under each of the kinds (all that apply, if none is named) at every strength.

    Its files are read once for all of them.

    Raises:
      InputError: a kind that does not apply.
    """
    chosen = kinds or kinds_of(benchmark)
    benchmark = dataclasses.replace(benchmark, read=functools.cache(benchmark.read))
    made = [
        under(benchmark, kind, strength, seed=seed)
        for kind in chosen
        for strength in range(1, CORRUPTIONS.get(kind, 1) + 1)
    ]
    return [benchmark, *made]


class RobustnessScore(NamedTuple):
    """The score of a benchmark under a corruption; strength 0 is without any. `score` is None if it has none."""

    task: str
    kind: str
    strength: int
    score: float | None


def robustness_scores(rows: Sequence[Mapping[str, Any]]) -> list[RobustnessScore]:
    """What rows of scores.json say of robustness: those without a control, by task, shots and selection.

    A benchmark without a corrupted one beside it is left out.
    """
    found = []
    for row in rows:
        if row["control"] == "none":
            match = _NAME.fullmatch(row["task"])
            name, kind, strength = match.groups() if match else (row["task"], "", 0)
            task = f"{name}, {row['shots']} shots" + (f", {row['selection']}" if row["shots"] else "")
            found.append(RobustnessScore(task, kind, int(strength), row["score"]))
    corrupted_too = {score.task for score in found if score.strength}
    return [score for score in found if score.task in corrupted_too]


def robustness_table(scores: Sequence[RobustnessScore]) -> str:
    """Benchmarks by corruptions as text: the clean score, that of each strength, and the mean loss relative to clean.

    Shares are shown in percent, as in the table of scores.

    Raises:
      InputError: a benchmark has no clean score.
    """
    clean = {score.task: score.score for score in scores if not score.strength}
    found: dict[tuple[str, str], dict[int, float | None]] = {}
    for score in scores:
        if score.strength:
            if score.task not in clean:
                raise InputError(f"{score.task} has no score without corruption (strength 0) to be compared with")
            found.setdefault((score.task, score.kind), {})[score.strength] = score.score
    lines = [("task", "corruption", "clean", *(str(strength) for strength in STRENGTHS), "drop")]
    for (task, kind), by_strength in found.items():
        cells = [_percent(by_strength[strength]) if strength in by_strength else "" for strength in STRENGTHS]
        drop = relative_drop(clean[task], by_strength)
        lines.append((task, kind, _percent(clean[task]), *cells, "-" if drop is None else f"{100 * drop:.1f}%"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "  ".join(
            cell.ljust(width) if number < 2 else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    ]
    return "\n".join([rows[0], "  ".join("-" * width for width in widths), *rows[1:]])


def relative_drop(clean: float | None, by_strength: Mapping[int, float | None]) -> float | None:
    """1 - (the mean over strengths) / clean; None where a score is missing, or the clean one is not above 0."""
    values = list(by_strength.values())
    if clean is None or clean <= 0 or not values or any(value is None for value in values):
        return None
    return 1 - sum(values) / len(values) / clean


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
