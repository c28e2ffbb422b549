"""The page of an evaluation: scores by shots, selection and control with intervals, and the worst predictions."""

from __future__ import annotations

import base64
import dataclasses
import datetime
import io
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from mmjax.core.arrays import UInt8
from mmjax.evaluation.scores import Score
from mmjax.evaluation.worst import Shown
from mmjax.reporting.episodes import Candidate, ranked_candidates
from mmjax.reporting.page import render
from mmjax.reporting.scores import task_label

_SIDE = 160  # pixels of the longer side of a picture on the page
_MOST_DEMONSTRATIONS = 12
_MOST_CANDIDATES = 5


@dataclasses.dataclass(frozen=True)
class Cell:
    """A score and its interval, and whether the whole interval is above or below chance."""

    score: float | None
    low: float | None
    high: float | None
    verdict: str


@dataclasses.dataclass(frozen=True)
class Line:
    """A number of shots and a way of picking them, and its score under each control."""

    shots: int
    selection: str
    cells: tuple[Cell | None, ...]
    n: int
    seeds: int
    official: str


@dataclasses.dataclass(frozen=True)
class Table:
    """The scores of one task."""

    label: str
    chance: float | None
    controls: tuple[str, ...]
    lines: tuple[Line, ...]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A demonstration, or the query: its pictures and its text."""

    pictures: tuple[str, ...]
    text: str


@dataclasses.dataclass(frozen=True)
class Card:
    """A prediction that went wrong."""

    id: str
    seed: int
    score: str
    demonstrations: tuple[Figure, ...]
    more: int
    query: Figure
    prediction: str
    references: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    bad: str


def write_evaluation_page(
    folder: str | os.PathLike,
    title: str,
    rows: Sequence[Score],
    worst: Sequence[Shown],
    bad: Sequence[Mapping[str, Any]],
) -> pathlib.Path:
    """Writes `folder`/evaluation.html, which needs nothing but itself, and returns its path."""
    cards: dict[str, list[Card]] = {}
    details: dict[str, str] = {}
    for one in worst:
        label = task_label(one.row["task"])
        cards.setdefault(label, []).append(_card(one))
        details[label] = f"{one.row['shots']} shots, {one.row['selection']}"
    view = {
        "title": title,
        "written": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "tables": score_tables(rows),
        "groups": [(label, details[label], group) for label, group in cards.items()],
        "bad": bad,
    }
    path = pathlib.Path(folder) / "evaluation.html"
    path.write_text(render("evaluation.html", view), encoding="utf-8")
    return path


def score_tables(rows: Sequence[Score]) -> list[Table]:
    """A table for each task: a line for shots and selection, a column for each control."""
    tables = []
    for task in dict.fromkeys(row["task"] for row in rows):
        own = [row for row in rows if row["task"] == task]
        controls = tuple(dict.fromkeys(["none", *(row["control"] for row in own)]))
        at = {(row["shots"], row["selection"], row["control"]): row for row in own}
        lines = []
        for shots, selection in dict.fromkeys((row["shots"], row["selection"]) for row in own):
            here = [at.get((shots, selection, control)) for control in controls]
            first = next(row for row in here if row is not None)
            cells = tuple(None if row is None else _cell(row) for row in here)
            official = ", ".join(
                f"{name} {'-' if value is None else format(value, '.4g')}"
                for name, value in first.get("official", {}).items()
            )
            lines.append(Line(shots, selection, cells, first["n"], first["seeds"], official))
        tables.append(Table(task_label(task), own[0]["chance"], controls, tuple(lines)))
    return tables


def _cell(row: Score) -> Cell:
    low, high, chance = row["low"], row["high"], row["chance"]
    verdict = "unknown"
    if chance is not None and low is not None:
        verdict = "above" if low > chance else "below" if high < chance else "chance"
    return Cell(row["score"], low, high, verdict)


def _card(shown: Shown) -> Card:
    row = shown.row
    texts = [one["text"] for one in row["demonstrations"]]
    pictures = shown.demonstrations or ((),) * len(texts)
    figures = [Figure(tuple(map(_thumbnail, own)), text) for own, text in zip(pictures, texts, strict=True)]
    question = str(row["prompt"]).rsplit("<image>", 1)[-1].strip()
    return Card(
        id=row["id"],
        seed=row["seed"],
        score=f"{row['score']:.3g}",
        demonstrations=tuple(figures[-_MOST_DEMONSTRATIONS:]),
        more=max(0, len(figures) - _MOST_DEMONSTRATIONS),
        query=Figure(tuple(map(_thumbnail, shown.pictures)), question),
        prediction=row["prediction"],
        references=tuple(dict.fromkeys(row["references"])),
        candidates=tuple(ranked_candidates(row["candidates"], row["answer"], row["prediction"])[:_MOST_CANDIDATES]),
        bad="; ".join(one["message"] for one in row.get("bad", ())),
    )


def _thumbnail(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    """A data address of the picture, made smaller where it is large; small ones stay sharp as PNG."""
    image = Image.fromarray(picture)
    buffer = io.BytesIO()
    if max(image.size) > _SIDE:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        image.save(buffer, "JPEG", quality=85)
        kind = "jpeg"
    else:
        image.save(buffer, "PNG")
        kind = "png"
    return f"data:image/{kind};base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
