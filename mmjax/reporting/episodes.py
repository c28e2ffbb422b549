"""Held-out episodes as the model read them, some right and some wrong, with what it thought of each candidate."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.reporting.pictures import stored_picture
from mmjax.reporting.scores import family_of, task_label
from mmjax.reporting.svg import counted

_EACH = 3  # right ones, and wrong ones, shown of a task
_MOST_DEMONSTRATIONS = 12  # of an episode that is still easy to take in
_MOST_CANDIDATES = 5


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture (None: not kept) and the text that followed it, cut at the right answer where it says that."""

    picture: str | None
    before: str
    named: str
    after: str


@dataclasses.dataclass(frozen=True)
class Candidate:
    """An answer that was ranked, and its probability among the candidates."""

    text: str
    probability: float
    right: bool
    chosen: bool


@dataclasses.dataclass(frozen=True)
class EpisodeCard:
    """One query: what came before, its picture and question, both answers, and the first few candidates."""

    id: str
    demonstrations: tuple[Shown, ...]
    picture: str | None
    question: str
    answer: str
    prediction: str
    correct: bool
    candidates: tuple[Candidate, ...]
    more_candidates: int


@dataclasses.dataclass(frozen=True)
class EpisodeGroup:
    """The cards of a task, or of a family of tasks, at one number of shots."""

    label: str
    detail: str
    cards: tuple[EpisodeCard, ...]


def episode_groups(folder: pathlib.Path, predictions: Sequence[Mapping[str, Any]]) -> list[EpisodeGroup]:
    """Up to three right and three wrong episodes of each task, of those whose pictures were kept."""
    kept = [row for row in predictions if row.get("image") and row.get("control", "none") == "none" and "task" in row]
    names = family_of(row["task"] for row in predictions if "task" in row)
    rows_of: dict[str, list[Mapping[str, Any]]] = {}
    for row in kept:
        rows_of.setdefault(names[row["task"]], []).append(row)
    groups = []
    for name, rows in rows_of.items():
        shots = _best_shots(rows)
        rows = [row for row in rows if row.get("shots", 0) == shots]
        cards = [_card(folder, row) for row in _some_of_both(rows)]
        groups.append(EpisodeGroup(task_label(name), counted(shots, "shot"), tuple(cards)))
    return groups


def candidate_shares(logprobs: Mapping[str, float]) -> dict[str, float]:
    """Log-probabilities of some answers -> their shares among these, which sum to 1; most probable first."""
    most = max(logprobs.values())
    shares = {text: math.exp(value - most) for text, value in logprobs.items()}
    total = math.fsum(shares.values())
    return {text: share / total for text, share in sorted(shares.items(), key=lambda item: -item[1])}


def _best_shots(rows) -> int:
    """The most shots of which an episode is still easy to take in."""
    counts = {row.get("shots", 0): len(row.get("demonstrations") or ()) for row in rows}
    fitting = [shots for shots, count in counts.items() if count <= _MOST_DEMONSTRATIONS]
    return max(fitting) if fitting else min(counts)


def _some_of_both(rows):
    """Right ones first; of a family, as many tasks as there is room for."""
    chosen = []
    for correct in (True, False):
        alike = [row for row in rows if bool(row.get("correct")) == correct]
        seen: dict[str, int] = {}
        order = []
        for place, row in enumerate(alike):
            seen[row["task"]] = seen.get(row["task"], 0) + 1
            order.append((seen[row["task"]], place, row))
        chosen += [row for _, _, row in sorted(order, key=lambda item: item[:2])[:_EACH]]
    return chosen


def _card(folder, row) -> EpisodeCard:
    answer, prediction = str(row.get("answer", "")), str(row.get("prediction", ""))
    demonstrations = tuple(
        Shown(stored_picture(folder, shown.get("image")), *_cut(str(shown.get("text", "")), answer))
        for shown in row.get("demonstrations") or ()
    )
    candidates = ranked_candidates(row.get("candidates"), answer, prediction)
    return EpisodeCard(
        id=str(row.get("id", "")),
        demonstrations=demonstrations,
        picture=stored_picture(folder, row["image"]),
        question=str(row.get("prompt", "")).rsplit("<image>", 1)[-1].strip(),
        answer=answer,
        prediction=prediction,
        correct=bool(row.get("correct")),
        candidates=tuple(candidates[:_MOST_CANDIDATES]),
        more_candidates=len(candidates[_MOST_CANDIDATES:]),
    )


def _cut(text: str, answer: str) -> tuple[str, str, str]:
    """Before, the answer where it is a word of the text by itself, and after."""
    found = re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text) if answer else None
    return (text[: found.start()], answer, text[found.end() :]) if found else (text, "", "")


def ranked_candidates(logprobs: Mapping[str, float] | None, answer: str, prediction: str) -> list[Candidate]:
    """Most probable first, but the right answer always among the first five, which are shown."""
    if not logprobs:
        return []
    shares = candidate_shares(logprobs)
    ranked = [Candidate(text, share, text == answer, text == prediction) for text, share in shares.items()]
    place = next((place for place, one in enumerate(ranked) if one.right), 0)
    if place >= _MOST_CANDIDATES:
        ranked.insert(_MOST_CANDIDATES - 1, ranked.pop(place))
    return ranked
