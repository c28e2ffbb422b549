"""What the harness asks of a task, whatever its questions are about."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from mmjax.core.example import Media
from mmjax.evaluation.question import Query
from mmjax.evaluation.settings import Setting

# The same medium with its frames decoded, once a chunk of queries. Raises DataError.
Decode = Callable[[Media], Media]


class Judged(NamedTuple):
    """What the scores need of a prediction. score: None where a task has none for one answer by itself."""

    seed: int
    id: str
    score: float | None
    answer: str
    candidates: int


class Official(Protocol):
    """The evaluation of a data set as its own program does it. results: the name of its file, "" for a folder."""

    main_score: str
    scale: float
    results: str

    def score(self, rows: Sequence[Mapping[str, Any]], path: Path) -> Mapping[str, float | None]:
        """Writes rows of predictions.jsonl of one setting and seed in the official layout to `path`, and scores it."""


class Questions(Protocol):
    """The questions of one task: a pure function of setting, seed and number.

    chunk: so many queries, with so many pictures at most, are asked together.
    pictured: pictures are small, so that some are kept with the predictions.
    official: None where there is no other evaluation than each prediction's own score.
    """

    name: str
    chunk: tuple[int, int]
    pictured: bool
    official: Official | None

    def settings(self) -> list[Setting]:
        """What is tried, in the order of the table."""

    def seeds(self, setting: Setting) -> int:
        """How many seeds differ."""

    def count(self, setting: Setting) -> int:
        """How many queries each seed has; query q is about the same thing under all of them."""

    def make(self, setting: Setting, seed: int, number: int, decode: Decode) -> Query:
        """One query."""

    def digest(self) -> str:
        """Changes when other predictions are to be expected of the same model and settings."""

    def chance(self, judged: Sequence[Judged]) -> float | None:
        """The share that can be had without looking, where it is known."""
