"""The records that no row holds since they were measured, and what is wrong with each."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np

from mmjax.core.errors import DataError
from mmjax.data.lengths import KINDS
from mmjax.data.source import ExampleSource, Lengths

_FILTERED = -1 - KINDS.index("filtered")
_PART = 1 << 22


def left_out_records(
    source: ExampleSource, lengths: Lengths, *, length: int = sys.maxsize, images: int = sys.maxsize
) -> Iterator[tuple[int, DataError]]:
    """The number and the error of each record that could not be measured, or that a row of these bounds does not hold.

    The former are read again; what a rule filters, and what can be read now, is passed over. Of a table on disk, only
    what is asked for is read.
    """
    for start in range(0, len(lengths.tokens), _PART):
        tokens, media = (row[start : start + _PART] for row in lengths)
        unusable = (tokens < 0) & (tokens != _FILTERED)
        for place in np.flatnonzero(unusable | (tokens > length) | ((tokens > 0) & (media > images))).tolist():
            if not unusable[place]:
                told = f"{tokens[place]} tokens and {media[place]} images, a row holds {length} and {images}"
                yield start + place, DataError(f"record {start + place} of {source.name} has {told}", kind="too_long")
                continue
            try:
                source.load(start + place, 0)
            except DataError as error:
                if error.kind != "filtered":
                    yield start + place, error
