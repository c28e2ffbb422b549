"""What was measured once, measured again in part, and compared: the offsets of records, and the lengths of examples.

What differs is made anew. A kept array may be wrong where a disk has flipped bits, or where a file was changed behind
its size and time of change.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmjax.data.keyed import KeyedPermutation, key_of
from mmjax.data.lengths import Limits, measure, measure_part
from mmjax.data.source import ExampleSource, StoredSource
from mmjax.data.sources.reader import FileReader
from mmjax.text.prompt import Layout
from mmjax.text.tokenizer import Tokenizer


class Verified(NamedTuple):
    """How much was compared, and a line for each thing that was wrong, which has been made anew."""

    files: int
    examples: int
    wrong: tuple[str, ...]


def verify_source(
    open_source: Callable[[], ExampleSource],
    tokenizer: Tokenizer,
    layout: Layout,
    limits: Limits,
    *,
    files: int = 16,
    examples: int = 256,
) -> Verified:
    """Indexes some files and measures some examples of a data set again, drawn by its name."""
    source = open_source()
    if not isinstance(source, StoredSource):
        return Verified(0, 0, ())
    wrong = []
    scanned = 0
    for index in source.indices if isinstance(source, FileReader) else ():
        places = _drawn(source.name, index.files, files)
        scanned += len(places)
        found = dict.fromkeys([*index.remade, *index.mend(places)])
        wrong += [f"the index of {path} was wrong, damaged or missing" for path in found]
    if wrong:
        source = open_source()
    measured = measure(source, tokenizer, layout, limits)
    sample = _drawn(source.name, len(source), examples)
    lengths = measured.lengths
    again = [measure_part(source, tokenizer, layout, limits, range(number, number + 1))[:, 0] for number in sample]
    differing = [
        number
        for number, found in zip(sample, again, strict=True)
        if not np.array_equal(found, [lengths.tokens[number], lengths.images[number]])
    ]
    if differing:
        wrong.append(f"the lengths in {measured.kept} were wrong: {len(differing)} of {len(sample)} examples")
    if wrong:
        _forget(measured.kept)
        measure(source, tokenizer, layout, limits)
    return Verified(scanned, len(sample), tuple(wrong))


def _drawn(name: str, count: int, most: int) -> list[int]:
    """`most` of `count` numbers, in order."""
    if count <= most:
        return list(range(count))
    return sorted(KeyedPermutation(key_of(name, "verified"), count).many(np.arange(most)).tolist())


def _forget(lengths: Path) -> None:
    """Removes kept lengths, and the plans of rows beside them, which are known by the name of their lengths."""
    for path in (lengths, lengths.with_suffix(".json"), *lengths.parent.glob("rows-*")):
        path.unlink(missing_ok=True)
