"""What a mixture is made of, in numbers: lengths, pictures, padding, shares, what cannot be used, duplicates.

Lengths and rows are those of all examples; what needs texts or pictures is taken from a sample, drawn by the seed.
"""

from __future__ import annotations

import collections
import functools
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.errors import DataError
from mmjax.core.example import Media
from mmjax.data.config import DataConfig, make_source
from mmjax.data.duplicates import groups_of_near, perceptual_hash
from mmjax.data.images import MAX_PIXELS
from mmjax.data.keyed import KeyedPermutation, key_of
from mmjax.data.lengths import Limits, ends_at_picture, measure
from mmjax.data.picture_sizes import kept_sizes
from mmjax.data.scaled import decode_scaled
from mmjax.data.source import ExampleSource
from mmjax.data.sources.pictures import PictureFile
from mmjax.data.stream import BatchStream
from mmjax.data.workers import run_shared
from mmjax.text.prompt import Layout, tokenize
from mmjax.text.tokenizer import Tokenizer

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
ROWS_FOR_SHARES = 4096
_PART = 64
_HASHED_SIDE = 64  # pixels that are decoded of a picture's shorter side, at least


class Looked(NamedTuple):
    """A picture of a sample. `file`: 64 bits of its file, or of its pixels; `look`: its perceptual hash."""

    example: int
    height: int
    width: int
    file: int
    look: int | None


class Sample(NamedTuple):
    """Examples of one data set: how many tokens they have and how many are learned, their pictures, the bad ones."""

    examples: int
    tokens: int
    learned: int
    pictures: tuple[Looked, ...]
    bad: dict[str, int]


class _How(NamedTuple):
    layout: Layout
    limits: Limits
    no_loss_before_first_image: bool
    max_pixels: int
    min_side: int


def statistics(
    config: DataConfig,
    tokenizer: Tokenizer,
    *,
    batch_size: int,
    seed: int,
    names: Sequence[str] | None = None,
    sample: int | None = 1000,
    distance: int = 4,
) -> dict[str, Any]:
    """{"sources": [...], "shares": [...], "duplicates": {...}}: plain values, as `mmjax data stats --json` prints them.

    names: the data sets that are looked at, by default all. sample: examples that are read of each; None: all of them.
    distance: pictures whose perceptual hashes differ in at most so many of their 64 bits look the same.

    Raises:
      InputError: the mixture cannot be opened: see `mmjax.data.stream.BatchStream`.
    """
    stream = BatchStream(config, tokenizer, batch_size=batch_size, seed=seed)
    sizes = {entry["name"]: entry for entry in stream.sizes()}
    names = tuple(sorted(config.sources)) if names is None else names
    table, samples, lengths = [], {}, {}
    for name in names:
        entry = config.entry(name)
        source = make_source(entry, name=name, seed=seed, image_size=config.image_size)
        limits, settings = entry.limits(key_of(seed, name)), entry.settings(name)
        lengths[name] = measure(source, tokenizer, config.layout, limits).lengths
        how = _How(
            config.layout,
            limits,
            config.no_loss_before_first_image,
            getattr(settings, "max_pixels", MAX_PIXELS),
            getattr(settings, "min_side", 1),
        )
        samples[name] = take_sample(source, tokenizer, how, seed=seed, count=sample)
        row = _of_source(config, sizes[name], lengths[name], samples[name])
        table.append(row | {"kind": entry.kind, "pictures": sides_of(kept_sizes(source))})
    return {
        "sources": table,
        "shares": _shares(config, stream, batch_size, lengths) if len(names) == len(config.sources) else [],
        "duplicates": duplicates({name: found.pictures for name, found in samples.items()}, distance),
    }


def take_sample(source: ExampleSource, tokenizer: Tokenizer, how: _How, *, seed: int, count: int | None) -> Sample:
    """Reads examples of a data set that are drawn by the seed, by all cores."""
    numbers = np.arange(len(source))
    if count is not None and count < len(source):
        order = KeyedPermutation(key_of(seed, source.name, "statistics"), len(source))
        numbers = np.sort(order.many(np.arange(count)))
    tasks = [(numbers[start : start + _PART].tolist(),) for start in range(0, len(numbers), _PART)]
    work = functools.partial(sample_part, source, tokenizer, how)
    parts = dict(run_shared(work, tasks, what=f"reading {source.name}", least=3))
    parts = [parts[number] for number in range(len(tasks))]
    bad = sum((collections.Counter(part.bad) for part in parts), collections.Counter())
    return Sample(
        len(numbers),
        sum(part.tokens for part in parts),
        sum(part.learned for part in parts),
        tuple(picture for part in parts for picture in part.pictures),
        dict(sorted(bad.items())),
    )


def sample_part(source: ExampleSource, tokenizer: Tokenizer, how: _How, part: Sequence[int]) -> Sample:
    """Reads some examples of a data set."""
    tokens = learned = 0
    pictures: list[Looked] = []
    bad: collections.Counter[str] = collections.Counter()
    for index in part:
        try:
            example = source.load(index, 0)
            text = tokenize(example.segments, tokenizer, layout=how.layout, max_tokens=how.limits.max_tokens)
            text = how.limits.thinned(text, index, tokenizer)
            how.limits.check(index, text.images, picture_last=ends_at_picture(text, tokenizer))
            media = [segment for segment in example.segments if isinstance(segment, Media)][: text.images]
            pictures += [look for medium in media for frame in medium.frames for look in _looks(index, frame, how)]
        except DataError as error:
            bad[error.kind] += 1
            continue
        counted = text.loss & (text.media_number > 0) if how.no_loss_before_first_image else text.loss
        tokens += len(text.tokens)
        learned += int(counted[1:].sum())
    return Sample(len(part), tokens, learned, tuple(pictures), dict(bad))


def _looks(index, frame, how):
    """What is to be seen of a frame: of its file as it is, or of the frames that it makes."""
    if isinstance(frame, PictureFile):
        data = frame.encoded()
        read = decode_scaled(data, _HASHED_SIDE, max_pixels=how.max_pixels, min_side=how.min_side)
        return [Looked(index, read.height, read.width, _digest(data), perceptual_hash(read.pixels))]
    made = frame() if callable(frame) else frame
    return [
        Looked(index, *picture.shape[:2], _digest(picture.tobytes()), perceptual_hash(picture))
        for picture in (made if made.ndim == 4 else made[None])
    ]


def _digest(data):
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def duplicates(pictures: dict[str, Sequence[Looked]], distance: int) -> dict[str, Any]:
    """Pictures of all data sets that are the same file as one before, or look the same as one before.

    groups: the largest, by the ids of their examples (the first eight).
    """
    listed = [(f"{name}:0:{picture.example}", picture) for name, found in pictures.items() for picture in found]
    files = np.array([picture.file for _, picture in listed], np.uint64)
    compared = [number for number, (_, picture) in enumerate(listed) if picture.look is not None]
    looks = groups_of_near(np.array([listed[number][1].look for number in compared], np.uint64), distance)
    sizes = np.bincount(looks)
    largest = [group for group in np.argsort(-sizes, kind="stable")[:10].tolist() if sizes[group] > 1]
    members = {group: np.flatnonzero(looks == group) for group in largest}
    return {
        "pictures": len(listed),
        "plain": len(listed) - len(compared),
        "same_file": len(files) - len(np.unique(files)),
        "same_look": len(compared) - len(sizes),
        "distance": distance,
        "groups": [
            {"pictures": int(sizes[group]), "ids": [listed[compared[place]][0] for place in places[:8].tolist()]}
            for group, places in members.items()
        ],
    }


def sides_of(table: Int[np.ndarray, "N 3"] | None) -> dict[str, Any] | None:
    """Of [example, height, width] of all pictures: how many there are, how many cannot be read, and their sides."""
    if table is None:
        return None
    read = table[table[:, 1] > 0, 1:]
    return {
        "measured": len(read),
        "unreadable": len(table) - len(read),
        "shorter_side": quantiles(np.bincount(read.min(axis=1, initial=1 << 30))),
        "longer_side": quantiles(np.bincount(read.max(axis=1, initial=0))),
        "megapixels": float(read.astype(np.int64).prod(axis=1).mean() / 1e6) if len(read) else 0.0,
    }


def _of_source(config, sizes, lengths, sample):
    tokens, images = _counts(lengths.tokens, lengths.tokens), _counts(lengths.images, lengths.tokens)
    fits = (lengths.tokens > 0) & (lengths.tokens <= config.length) & (lengths.images <= config.images)
    heights = np.array([picture.height for picture in sample.pictures], np.int64)
    widths = np.array([picture.width for picture in sample.pictures], np.int64)
    return {
        "name": sizes["name"],
        "examples": sizes["examples"],
        "left_out": sizes["left_out"],
        "tokens": {"mean": _mean(tokens), "quantiles": quantiles(tokens), "histogram": histogram(tokens)},
        "images": {"mean": _mean(images), "counts": {str(n): int(images[n]) for n in np.flatnonzero(images).tolist()}},
        "rows": sizes["rows"],
        "examples_a_row": int(fits.sum()) / sizes["rows"],
        "images_a_row": int(lengths.images[fits].sum()) / sizes["rows"],
        "padding": 1.0 - sizes["used"],
        "sample": {
            "examples": sample.examples,
            "learned": sample.learned / max(1, sample.tokens),
            "bad": sample.bad,
            "pictures": len(sample.pictures),
            "shorter_side": quantiles(np.bincount(np.minimum(heights, widths))),
            "longer_side": quantiles(np.bincount(np.maximum(heights, widths))),
            "megapixels": float((heights * widths).mean() / 1e6) if len(heights) else 0.0,
        },
    }


def _counts(values, tokens) -> Int[np.ndarray, " V"]:
    """How often each value occurs among usable examples; a part at a time, as lengths may be mapped from a disk."""
    total = np.zeros(1, np.int64)
    for start in range(0, len(values), 1 << 22):
        part = np.bincount(values[start : start + (1 << 22)][tokens[start : start + (1 << 22)] > 0])
        longer, shorter = (part, total) if len(part) > len(total) else (total, part)
        total = longer.astype(np.int64)
        total[: len(shorter)] += shorter
    return total


def _mean(counts):
    return float((counts * np.arange(len(counts))).sum() / max(1, counts.sum()))


def quantiles(counts: Int[np.ndarray, " V"]) -> list[int]:
    """The values below which QUANTILES of all lie, given how often each occurs; none of nothing."""
    total = int(counts.sum())
    if not total:
        return []
    ends = np.cumsum(counts)
    return [int(np.searchsorted(ends, max(1, np.ceil(share * total)))) for share in QUANTILES]


def histogram(counts: Int[np.ndarray, " V"]) -> list[dict[str, int]]:
    """Values in ranges [from, to) that double, with how many lie in each, from the first range that holds any."""
    ranges = []
    start, stop = 1, 2
    while start < len(counts):
        ranges.append({"from": start, "to": stop, "count": int(counts[start:stop].sum())})
        start, stop = stop, 2 * stop
    while ranges and not ranges[0]["count"]:
        ranges.pop(0)
    return ranges


def _shares(config, stream, batch_size, lengths):
    """What each data set has of rows, tokens, images and loss, over some steps from the beginning of each phase."""
    steps = -(-ROWS_FOR_SHARES // batch_size)
    first_steps = sorted({0, *(phase.first_step for phase in config.phases)})
    table = []
    for first, following in zip(first_steps, [*first_steps[1:], None], strict=True):
        stop = min(stop for stop in (first + steps, following, stream.plan.steps) if stop is not None)
        if stop <= first:  # a phase after the end of the last epoch
            break
        counted = _count_rows((stream.row_ids(step) for step in range(first, stop)), lengths)
        for name, row in counted.items():  # the loss is a weighted sum of the data sets' means
            row["loss"] = config.entry(name).loss_weight if row["rows"] else 0.0
        totals = {what: sum(row[what] for row in counted.values()) for what in ("rows", "tokens", "images", "loss")}
        table.append(
            {
                "first_step": first,
                "last_step": stop - 1,
                "sources": [
                    {"name": name, **{what: row[what] / (totals[what] or 1) for what in totals}}
                    for name, row in sorted(counted.items())
                ],
            }
        )
    return table


def _count_rows(batches: Iterable[Sequence[str]], lengths) -> dict[str, dict[str, float]]:
    """Rows, tokens and images of each data set in batches of rows, which are given by the ids of their examples."""
    counted: dict[str, dict[str, float]] = {name: {"rows": 0, "tokens": 0, "images": 0} for name in lengths}
    for row in (row for batch in batches for row in batch if row):
        ids = [example.rsplit(":", 2) for example in row.split("+")]
        here = counted[ids[0][0]]
        here["rows"] += 1
        for name, _, index in ids:
            here["tokens"] += int(lengths[name].tokens[int(index)])
            here["images"] += int(lengths[name].images[int(index)])
    return counted
