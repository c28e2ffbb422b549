"""What a task of `mmjax score` is given and what it gives back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from mmjax.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The files of a task. `questions` is for VQA alone; `subset` leaves references without a prediction out."""

    predictions: Path
    references: Path | None = None
    questions: Path | None = None
    subset: bool = False

    def reference_file(self) -> Path:
        """The references.

        Raises:
          InputError: none were given.
        """
        if self.references is None:
            raise InputError("give the references: --references FILE")
        return self.references


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of `count` things by their official names. One that is None has its reason in `reasons`."""

    scores: Mapping[str, float | None]
    count: int
    reasons: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ScoringTask:
    """A line of the table: metrics and scale, layouts of the two files, the function that computes, what it takes."""

    metrics: str
    scale: str
    predictions: str
    references: str
    score: Callable[[Inputs], Scores]
    takes: tuple[str, ...] = ("references", "subset")
