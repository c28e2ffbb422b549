"""What is asked of a model: shots, seeds, how demonstrations are picked, and the controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal, get_args

from mmjax.core.config import nearest
from mmjax.core.errors import InputError

Selection = Literal["random", "balanced", "rices"]
Control = Literal["none", "blanked", "shuffled", "relabelled", "unpictured"]
ControlShots = Literal["one", "all"]
ZeroShot = Literal["none", "text"]
Templates = Literal["first", "all"]

SELECTIONS: tuple[Selection, ...] = get_args(Selection)
CONTROLS: tuple[Control, ...] = get_args(Control)


@dataclasses.dataclass(frozen=True)
class Setting:
    """One line of the table of scores.

    selection: how demonstrations are picked: at "random", "balanced" by class, or the ones whose pictures are most
      similar to the query's ("rices": retrieval-based in-context example selection, Yang et al. 2022).
    control: "none", or what is taken away: pictures "blanked" (black) or "shuffled" (the query gets that of a
      demonstration), labels of the demonstrations exchanged ("relabelled"), demonstrations without pictures
      ("unpictured").
    """

    task: str
    shots: int
    selection: Selection
    control: Control = "none"


@dataclasses.dataclass(frozen=True)
class Options:
    """What is tried of every task; empty: the task's own.

    queries: at most so many a seed. control_shots: controls are run at "one" number of shots (the task's own, or else
      the greatest) or at "all". zero_shot: what stands before the query at 0 shots: nothing, or the "text" of two
      demonstrations without their pictures (Alayrac et al. 2022, appendix A.2).
    templates: the task's first, or an ensemble of "all": the mean log-likelihood of each candidate, the most frequent
      answer of those that were written.
    normalize: candidates are ranked by log-likelihood per token. beams: of writing; 1 is greedy.
    max_bad_share: of the items that were asked; above it, broken pictures stop the evaluation.
    """

    shots: tuple[int, ...] = ()
    seeds: int = 3
    queries: int | None = None
    selections: tuple[Selection, ...] = ()
    controls: tuple[Control, ...] = ("blanked",)
    control_shots: ControlShots = "one"
    zero_shot: ZeroShot = "none"
    templates: Templates = "first"
    normalize: bool = False
    beams: int = 1
    max_bad_share: float = 0.01

    def __post_init__(self):
        if (
            self.seeds < 1
            or min(self.shots, default=0) < 0
            or self.beams < 1
            or (self.queries is not None and self.queries < 1)
        ):
            raise InputError(
                "evaluation needs seeds >= 1, shots >= 0, queries >= 1 and beams >= 1, "
                f"not {self.seeds}, {self.shots}, {self.queries} and {self.beams}"
            )
        if not 0 <= self.max_bad_share <= 1:
            raise InputError(f"max_bad_share is a share from 0 to 1, not {self.max_bad_share:g}")
        _check("selection", self.selections, SELECTIONS)
        _check("control", self.controls, CONTROLS)


def _check(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise InputError(f"there is no {what} {name!r}{nearest(name, known)}; there are {', '.join(known)}")
