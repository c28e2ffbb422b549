"""How long examples are, measured without decoding a picture, and kept for data sets of files.

What was measured lies in the cache folder of the data set as one array of [tokens, images], mapped into memory: a
data set of 10^8 examples costs 800 MB of disk, and of memory what is looked at. It is found by a key of all that
decides it, measured by all cores, and what was interrupted goes on where it stood.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import platform
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media, Segment, Text
from mmjax.data.keyed import Dice, key_of
from mmjax.data.source import ExampleSource, Lengths, StoredSource
from mmjax.data.transforms.words import tokens_kept
from mmjax.data.workers import run_shared
from mmjax.text.prompt import Layout, Tokenized, ends_itself, tokenize
from mmjax.text.tokenizer import Tokenizer

# Why a record is left out: place k has -1 - k tokens.
KINDS = (
    "other",
    "filtered",
    "missing",
    "empty_text",
    "bad_text",
    "bad_json",
    "bad_record",
    "too_long",
    "truncated",
    "corrupt",
    "hostile_path",
    "address",
    "not_a_video",
    "too_large",
)
_CHUNK = 4096
_VERSION = 2  # of the rules by which examples are left out


@dataclasses.dataclass(frozen=True)
class Limits:
    """What of a source is used: see `mmjax.data.config.SourceEntry`. `key` decides which single pictures are kept, and
    which tokens are dropped.

    Where some are not, a single picture right at the cut is left out too: no text follows it (OpenFlamingo).
    """

    max_tokens: int = 0
    min_images: int = 0
    keep_single_image: float = 1.0
    key: int = 0
    drop_tokens: float = 0.0

    def thinned(self, text: Tokenized, index: int, tokenizer: Tokenizer) -> Tokenized:
        """The tokens of example `index` without those that are dropped."""
        if not self.drop_tokens:
            return text
        special = {*tokenizer.special.values(), *tokenizer.words.values()}
        dice = Dice(key_of(self.key, index, "dropped tokens"))
        kept = tokens_kept(text.tokens, dice, share=self.drop_tokens, special=special)
        return Tokenized(text.tokens[kept], text.loss[kept], text.media_number[kept], text.images)

    def check(self, index: int, images: int, *, picture_last: bool = False) -> None:
        """Raises DataError of kind "filtered" where example `index`, of so many media, is left out.

        picture_last: whether it is cut right after a picture (`ends_at_picture`).
        """
        if images < self.min_images:
            raise DataError(f"{images} pictures, fewer than {self.min_images}", kind="filtered")
        if images == 1 and self.keep_single_image < 1.0:
            draw = Dice(key_of(self.key, index, "single image")).uniform()
            if draw >= self.keep_single_image:
                raise DataError("a single picture", kind="filtered")
            if picture_last:
                raise DataError("a single picture, with no text after it before the cut", kind="filtered")


class Measured(NamedTuple):
    """Lengths, their digest, how many examples are left out by kind, and the file of kept lengths."""

    lengths: Lengths
    digest: str
    left_out: Mapping[str, int]
    kept: Path | None = None


def measure(
    source: ExampleSource,
    tokenizer: Tokenizer,
    layout: Layout = Layout(),  # noqa: B008 (frozen)
    limits: Limits = Limits(),  # noqa: B008 (frozen)
) -> Measured:
    """The exact length of every example as `mmjax.text.prompt.tokenize` makes it, without decoding a picture.

    Lengths of a source over files are kept in its cache folder.

    Raises:
      InputError: the cache folder cannot be written.
    """
    if not isinstance(source, StoredSource):
        table = measure_part(source, tokenizer, layout, limits, range(len(source)))
        return Measured(Lengths(*table), **_facts(table))
    decided_by = (source.fingerprint, tokenizer.fingerprint, layout, limits, KINDS, len(source), _VERSION)
    path = source.cache / f"lengths-{hashlib.sha256(repr(decided_by).encode()).hexdigest()[:24]}.npy"
    table, facts = _stored(path, source, (tokenizer, layout, limits))
    return Measured(Lengths(*table), **facts, kept=path)


def measure_part(
    source: ExampleSource, tokenizer: Tokenizer, layout: Layout, limits: Limits, part: range
) -> Int[np.ndarray, "2 S"]:
    """Tokens and images of some examples."""
    count = functools.lru_cache(maxsize=_CHUNK)(lambda text: len(tokenizer.encode(text)))
    table = np.empty((2, len(part)), np.int32)
    for place, index in enumerate(part):
        picture_last = False
        try:
            segments = source.load(index, 0).segments
            tokens, images = _whole(segments, count, layout)
            tokens -= ends_itself(segments, tokenizer)
            cut = limits.max_tokens and tokens > limits.max_tokens
            if cut or limits.drop_tokens:
                text = tokenize(segments, tokenizer, layout=layout, max_tokens=limits.max_tokens)
                text = limits.thinned(text, index, tokenizer)
                tokens, images = len(text.tokens), text.images
                picture_last = ends_at_picture(text, tokenizer)
            limits.check(index, images, picture_last=picture_last)
            table[:, place] = tokens, images
        except DataError as error:
            table[:, place] = -1 - (KINDS.index(error.kind) if error.kind in KINDS else 0), 0
    return table


def ends_at_picture(text: Tokenized, tokenizer: Tokenizer) -> bool:
    """Whether the last token before the end token is a picture's."""
    return len(text.tokens) > 1 and int(text.tokens[-2]) == tokenizer.special["image"]


def _whole(segments: Iterable[Segment], count: Callable[[str], int], layout: Layout) -> tuple[int, int]:
    """Tokens and media of an example that is not cut."""
    tokens = images = 0
    for segment in segments:
        if isinstance(segment, Media):
            images += 1
        elif isinstance(segment, Text):
            tokens += (1 if segment.control else count(segment.text)) + segment.end_of_chunk
    return tokens + layout.tokens_besides(images), images


def _facts(table: Int[np.ndarray, "2 S"]) -> dict[str, Any]:
    """The digest of all lengths, and what they leave out; a part at a time, as they may be more than memory holds."""
    state = hashlib.sha256()
    counts: collections.Counter[str] = collections.Counter()
    for row in table:
        for start in range(0, len(row), 1 << 22):
            part = row[start : start + (1 << 22)]
            state.update(part.tobytes())
            for code, count in zip(*np.unique(part[part < 0], return_counts=True), strict=True):
                counts[KINDS[-1 - int(code)]] += int(count)
    return {"digest": state.hexdigest(), "left_out": dict(sorted(counts.items()))}


def _stored(path: Path, source: StoredSource, how: tuple[Any, ...]) -> tuple[Int[np.ndarray, "2 S"], dict[str, Any]]:
    """The array at `path` and its facts, measured now if it is not there."""
    shape = (2, len(source))
    found = _read(path, shape)
    if found is not None:
        return found
    lock_path = path.with_suffix(".lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(lock_path, "wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # processes of one machine wait for the one that measures
            found = _read(path, shape)
            if found is None:
                _measure_into(path, shape, source, how)
                found = _read(path, shape)
        lock_path.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(
            f"the lengths of {source.name} cannot be kept in {path.parent} ({error.strerror}): give the option cache a "
            "folder for them"
        ) from None
    return found


def _measure_into(path, shape, source, how):
    """Fills an array on disk: where it holds 0 tokens is what nobody has measured yet."""
    partial = path.with_name(f"{path.name}.{platform.node()}.partial")
    table = _open_table(partial, shape, "r+")
    if table is None:
        table = np.lib.format.open_memmap(partial, mode="w+", dtype=np.int32, shape=shape)
    parts = [range(start, min(start + _CHUNK, shape[1])) for start in range(0, shape[1], _CHUNK)]
    lacking = [part for part in parts if not (table[0, part.start : part.stop] != 0).all()]
    work = functools.partial(measure_part, source, *how)
    for number, lengths in run_shared(work, [(part,) for part in lacking], what=f"measuring {source.name}", least=4):
        table[:, lacking[number].start : lacking[number].stop] = lengths
    table.flush()
    path.with_suffix(".json").write_text(json.dumps(_facts(table)), encoding="utf-8")
    partial.replace(path)


def _read(path, shape):
    table = _open_table(path, shape, "r")
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged
        facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        return None if table is None else (table, facts)
    return None


def _open_table(path, shape, mode):
    with contextlib.suppress(OSError, ValueError):  # not there, or damaged
        table = np.load(path, mmap_mode=mode, allow_pickle=False)
        if table.shape == shape and table.dtype == np.int32:
            return table
    return None
