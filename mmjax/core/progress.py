"""Progress bars with rate and ETA, on standard error, quiet where nobody is looking."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import tqdm


def progress_bar(
    iterable: Iterable[Any] | None = None, *, total: int | None = None, initial: int = 0, what: str, unit: str = "it"
) -> tqdm.tqdm:
    """A bar over `iterable`, or one moved by hand with `update`; silent when standard error is not a terminal.

    `initial` is the number of units done before (a resumed run), so that the ETA counts what is left.
    """
    return tqdm.tqdm(
        iterable,
        total=total,
        initial=initial,
        desc=what,
        unit=unit,
        dynamic_ncols=True,
        mininterval=0.2,
        disable=not sys.stderr.isatty(),
    )
