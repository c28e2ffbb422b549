"""Every record of a data set read wholly, as training would read it: its text in tokens, its pictures decoded.

What was found good is kept in the cache folder of the data set, a byte a record, so that a check goes on where it was
interrupted. Records that were bad are read again each time, since they may have been mended.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mmjax.core.arrays import Int, UInt8
from mmjax.core.config import to_tree
from mmjax.core.errors import DataError, InputError
from mmjax.data.assemble import BatchShape, read_example
from mmjax.data.config import DataConfig, make_source
from mmjax.data.images import DECODER
from mmjax.data.keyed import key_of
from mmjax.data.lengths import Limits, ends_at_picture
from mmjax.data.source import ExampleSource, StoredSource
from mmjax.data.sources.options import PLACES
from mmjax.data.sources.reader import FileReader
from mmjax.data.workers import run_shared
from mmjax.text.prompt import Layout, tokenize
from mmjax.text.tokenizer import Tokenizer

_UNREAD, _GOOD, _FILTERED, _BAD = range(4)
_PART = 128  # records a task: some tenths of a second to a second of decoding


class Finding(NamedTuple):
    """A record that cannot be used, and why. `file`: where it lies, "" where no single file holds it."""

    id: str
    kind: str
    message: str
    file: str


class Checked(NamedTuple):
    """What a check found. `read`: how many records were read now; `filtered`: those left out by a rule."""

    name: str
    records: int
    read: int
    good: int
    filtered: int
    bad: tuple[Finding, ...]

    @property
    def kinds(self) -> Mapping[str, int]:
        """How many records are bad, by kind."""
        return collections.Counter(finding.kind for finding in self.bad)

    @property
    def bad_share(self) -> float:
        return len(self.bad) / max(1, self.records)


@dataclasses.dataclass(frozen=True)
class _Rule:
    """All that decides whether a record can be used, besides the source and the tokenizer."""

    shape: BatchShape
    layout: Layout
    limits: Limits


def check_source(
    name: str, config: DataConfig, tokenizer: Tokenizer, *, seed: int, again: bool = False, processes: int | None = None
) -> Checked:
    """Reads the records of one data set that are not known to be good; `again`: all of them.

    `processes`: how many share the work, by default one a core.

    Raises:
      ConfigError: the configuration names no such data set.
      InputError: its files cannot be opened, or the cache folder cannot be written.
    """
    entry = config.entry(name)
    source = make_source(entry, name=name, seed=seed, image_size=config.image_size)
    shape = BatchShape(1, config.length, config.images, config.frames, config.image_size)
    rule = _Rule(shape, config.layout, entry.limits(key_of(seed, name)))
    options = {key: value for key, value in to_tree(entry.settings(name)).items() if key not in PLACES}
    states = _states(source, (DECODER, entry.kind, sorted(options.items()), tokenizer.fingerprint, rule))
    if again:
        states[:] = _UNREAD
    parts = _Parts(states)
    read, bad = 0, []
    work = functools.partial(check_part, source, tokenizer, rule)
    for number, (found, findings) in run_shared(work, parts, what=f"checking {name}", processes=processes, least=3):
        states[parts.records(number)] = found
        read += len(found)
        bad += findings
    return Checked(
        name,
        len(source),
        read,
        int((states == _GOOD).sum()),
        int((states == _FILTERED).sum()),
        tuple(finding for _, finding in sorted(bad)),
    )


class _Parts(Sequence):
    """The tasks of a check: records, some at a time, that are not known to be good; listed when they are asked for."""

    def __init__(self, states: UInt8[np.ndarray, " S"]):
        self._states = states
        self._starts = [start for start in range(0, len(states), _PART) if len(self._unknown(start))]

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, number: int) -> tuple[list[int]]:
        return (self.records(number).tolist(),)

    def records(self, number: int) -> Int[np.ndarray, " N"]:
        """The records of a task, until their states are set."""
        return self._unknown(self._starts[number])

    def _unknown(self, start):
        part = self._states[start : start + _PART]
        return start + np.flatnonzero((part == _UNREAD) | (part == _BAD))


def check_part(
    source: ExampleSource, tokenizer: Tokenizer, rule: _Rule, part: list[int]
) -> tuple[list[int], list[tuple[int, Finding]]]:
    """Reads some records: the state of each, and what is wrong with those that cannot be used, by their number."""
    states, findings = [], []
    for index in part:
        try:
            _read(source, tokenizer, rule, index)
            states.append(_GOOD)
        except DataError as error:
            states.append(_FILTERED if error.kind == "filtered" else _BAD)
            if error.kind != "filtered":
                findings.append((index, _finding(source, index, error.kind, str(error))))
        except Exception as error:  # a mistake in a reader, which would end a run: named, and the check goes on
            states.append(_BAD)
            findings.append((index, _finding(source, index, "uncaught", f"{type(error).__name__}: {error}")))
    return states, findings


def _read(source, tokenizer, rule, index):
    example = source.load(index, 0)
    text = tokenize(example.segments, tokenizer, layout=rule.layout, max_tokens=rule.limits.max_tokens)
    text = rule.limits.thinned(text, index, tokenizer)
    rule.limits.check(index, text.images, picture_last=ends_at_picture(text, tokenizer))
    if len(text.tokens) > rule.shape.length or text.images > rule.shape.images:
        raise DataError(
            f"{example.id} has {len(text.tokens)} tokens and {text.images} images, a row holds {rule.shape.length} and "
            f"{rule.shape.images}",
            kind="too_long",
        )
    read_example(
        example, tokenizer, rule.shape, next_image=False, layout=rule.layout, max_tokens=rule.limits.max_tokens
    )


def _finding(source, index, kind, message):
    file = source.file_of(index) if isinstance(source, FileReader) else ""
    return Finding(f"{source.name}:0:{index}", kind, message, file)


def _states(source, decided_by):
    """What is known of each record, mapped from its file for a data set of files."""
    if not isinstance(source, StoredSource):
        return np.zeros(len(source), np.uint8)
    key = hashlib.sha256(repr((source.fingerprint, len(source), decided_by)).encode()).hexdigest()[:24]
    path = Path(source.cache) / f"checked-{key}.npy"
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged
        states = np.load(path, mmap_mode="r+", allow_pickle=False)
        if states.shape == (len(source),) and states.dtype == np.uint8:
            return states
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(len(source),))
    except OSError as error:
        raise InputError(
            f"what was checked of {source.name} cannot be kept in {path.parent} ({error.strerror}): give the option "
            "cache a folder for it"
        ) from None
