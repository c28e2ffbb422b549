"""What a benchmark is: questions read from its official files, how they are put, and how answers become a score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from mmjax.core.arrays import Float
from mmjax.core.example import Media

Split = Literal["test", "train"]


@dataclasses.dataclass(frozen=True)
class Item:
    """One question of a benchmark.

    id: the official one, as text. media: its pictures, in order; decoded when they are needed.
    fields: what a template may name: "question", "hint", "options", ...
    answers: what people said; a demonstration shows the first. `candidates`: the answers to choose among, if listed.
    label: the class by which demonstrations are balanced; "" where there is none.
    record: what the official file of results needs besides the answer.
    support: demonstrations of its own (fast binding), which stand instead of those of the split "train". They come in
      rounds, one demonstration of each class in each: at k shots the first k rounds are shown.
    """

    id: str
    media: tuple[Media, ...]
    fields: Mapping[str, str]
    answers: tuple[str, ...]
    candidates: tuple[str, ...] = ()
    label: str = ""
    record: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    support: tuple[tuple[Item, ...], ...] = ()


@dataclasses.dataclass(frozen=True)
class Template:
    """How an item is written. Its pictures stand where `{image}` does, in order; other braces name fields.

    The last `{image}` stands for all the pictures that are left, however many an item has. Braces and `<image>` within
    the values of fields mean nothing.

    question: what stands before the answer. answer: how it follows, with `{answer}`.
    """

    question: str
    answer: str = " {answer}"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model gave for an item: the text as written, the answer that is scored, and the scores of candidates.

    log_likelihoods: of "rank" those of the item's candidates, of "classes" the similarities of its picture with them,
      of "retrieval" those with the texts of all items, in order (rows of `mmjax.evaluation.towers`).
    """

    item: Item
    text: str
    answer: str
    log_likelihoods: Sequence[float] | Float[np.ndarray, " C"] = ()


@dataclasses.dataclass(frozen=True)
class Benchmark:
    """A row of the table of benchmarks.

    read: (folder of the official files, split) -> items. "train" are those that demonstrations are taken from.
    files: what must lie in the folder, for people to read.
    templates: the first is used; all of them by prompt ensembles.
    method: "generate" writes an answer, "rank" takes the likeliest candidate, "classes" compares pictures with texts
      of the candidates (two towers; other models rank), "retrieval" compares all pictures with all texts.
    finish: makes the answer that is scored of the text that was written.
    write_results: answers -> the official file of results at this path.
    score: (file of results, folder of the official files) -> scores by their official names.
    results: the name of the file of results, where its kind matters to the scorer; "" for a folder.
    main_score: the one of them that stands in tables; score_one: the same of one answer where it is a mean of such,
      which intervals and paired tests are made of. scale: what `score_one`'s 1 is in `main_score` (100: percent).
    chance: what can be had without looking, on the scale of main_score; None where it is not known.
    draws: the choice of queries and demonstrations is drawn by this, "" being the name: a benchmark that is another one
      changed is asked about the same items with the same demonstrations.
    """

    name: str
    read: Callable[[Path, Split], Sequence[Item]]
    files: str
    templates: tuple[Template, ...]
    method: Literal["generate", "rank", "classes", "retrieval"]
    write_results: Callable[[Sequence[Answer], Path], None]
    score: Callable[[Path, Path], Mapping[str, float | None]]
    main_score: str
    score_one: Callable[[Answer], float] | None = None
    scale: float = 1.0
    chance: float | None = None
    finish: Callable[[str], str] = str.strip
    max_tokens: int = 20
    stop: tuple[str, ...] = ("\n",)
    results: str = "results.json"
    draws: str = ""

    @property
    def drawn_by(self) -> str:
        """What its draws are made by."""
        return self.draws or self.name

    @property
    def chance_share(self) -> float | None:
        """`chance` on the scale of `score_one`."""
        return None if self.chance is None else self.chance / self.scale

    def judge(self, answer: Answer) -> float | None:
        """The score of one answer by itself; None where the benchmark has none."""
        return None if self.score_one is None else self.score_one(answer)
