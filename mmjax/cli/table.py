"""Tables for a terminal: columns side by side, numbers to the right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def aligned(rows: Sequence[Sequence[str]], *, left: Sequence[int] = (0,), indent: str = "") -> str:
    """Lines of rows of the same number of cells, two spaces apart; columns `left` begin together, others end so.

    The first row may be a head.
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = {place % len(widths) for place in left}
    lines = []
    for row in rows:
        cells = zip(row, widths, strict=True)
        padded = [cell.ljust(size) if place in left else cell.rjust(size) for place, (cell, size) in enumerate(cells)]
        lines.append((indent + "  ".join(padded)).rstrip())
    return "\n".join(lines)


def kinds(counts: Mapping[str, int]) -> str:
    """Counts by kind in words, the most frequent first: `5 truncated, 2 missing`."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {kind}" for kind, count in ordered)
