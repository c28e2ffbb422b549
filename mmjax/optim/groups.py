"""Parameter groups: one ordered list of patterns decides learning rate, weight decay and freezing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.errors import ConfigError
from mmjax.core.paths import first_match


@dataclasses.dataclass(frozen=True)
class ParameterGroup:
    """Parameters whose whole path matches `pattern` (a regular expression) and that no earlier group took.

    learning_rate and weight_decay are factors on the optimizer's. A frozen parameter gets no gradient and no
    optimizer state.
    """

    pattern: str
    learning_rate: float = 1.0
    weight_decay: float = 1.0
    frozen: bool = False


def assign_groups(groups: Sequence[ParameterGroup], paths: Sequence[str]) -> dict[str, ParameterGroup]:
    """The group of every parameter path.

    Raises:
      ConfigError: a parameter that no group covers, a group that covers nothing, or nothing left to train.
    """
    patterns = [group.pattern for group in groups]
    found = {path: first_match(patterns, path) for path in paths}
    uncovered = [path for path, index in found.items() if index < 0]
    if uncovered:
        shown = ", ".join(uncovered[:5]) + (f", and {len(uncovered) - 5} more" if len(uncovered) > 5 else "")
        raise ConfigError(f"no group of optim.groups matches {shown}; add one, or end the list with the pattern '.*'")
    used = set(found.values())
    for index, pattern in enumerate(patterns):
        if index not in used:
            raise ConfigError(
                f"optim.groups[{index}] ({pattern!r}) takes no parameter: none matches, or earlier groups have them"
            )
    if all(groups[index].frozen for index in used):
        raise ConfigError("optim.groups freezes every parameter, so nothing would be trained")
    return {path: groups[index] for path, index in found.items()}


def group_table(
    groups: Sequence[ParameterGroup], assigned: Mapping[str, ParameterGroup], shapes: Mapping[str, Any]
) -> str:
    """What each group covers, as a text table for the log."""
    rows = [("pattern", "parameters", "learning rate", "weight decay", "")]
    for group in groups:
        count = sum(math.prod(shapes[path].shape) for path, owner in assigned.items() if owner is group)
        if group.frozen:
            rows.append((group.pattern, f"{count:,}", "-", "-", "frozen"))
        else:
            rows.append((group.pattern, f"{count:,}", f"x{group.learning_rate:g}", f"x{group.weight_decay:g}", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
