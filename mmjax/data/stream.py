"""The batch stream: a pure function of (configuration, seed, step). Its position is the step, a number.

Global batch b is rows [b B, (b+1) B) of the mixture; process p of P reads rows [p B/P, (p+1) B/P) of it. Which
examples a row holds is planned from their lengths, so it does not depend on processes, workers or where the stream was
started.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import grain

from mmjax.core.batch import Batch
from mmjax.core.config import build, nearest, to_tree
from mmjax.core.errors import ConfigError, DataError, InputError, TrainingError
from mmjax.data.assemble import BatchShape, ReadExample, assemble, read_example
from mmjax.data.digits import BindConfig, DigitsBind, DigitsRead, DigitsScene, ReadConfig, SceneConfig
from mmjax.data.keyed import Dice, key_of
from mmjax.data.mixture import Mixture, Phase
from mmjax.data.packing import PackedRows
from mmjax.data.source import ExampleSource, Lengths, measure
from mmjax.text.tokenizer import Tokenizer

SOURCES = {
    "digits_read": (ReadConfig, DigitsRead),
    "digits_bind": (BindConfig, DigitsBind),
    "digits_scene": (SceneConfig, DigitsScene),
}

# The share of bad records is judged over at least this many examples, so that an early one does not stop a run.
MIN_EXAMPLES_JUDGED = 1000
_ENDLESS = 1 << 40


@dataclasses.dataclass(frozen=True)
class SourceEntry:
    """A data set of the mixture. `weight`: its share of rows; `options`: the settings of its kind."""

    kind: str
    weight: float = 1.0
    loss_weight: float = 1.0
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def settings(self, name: str) -> Any:
        """The options as the dataclass of their kind. Raises ConfigError for an unknown kind or setting."""
        if self.kind not in SOURCES:
            raise ConfigError(
                f"config.data.sources.{name}.kind {self.kind!r} is not a kind of data{nearest(self.kind, SOURCES)}"
            )
        return build(SOURCES[self.kind][0], self.options, f"config.data.sources.{name}.options")


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """What the rows of a run are made of.

    sources: data sets by name. phases: other weights from later steps on.
    length, images, frames, image_size: a row's tokens, media, frames a medium, and pixels each way.
    pack: several examples a row; window: how many examples are packed among each other.
    next_image_probability: share of examples whose text looks at the next picture instead of the last.
    max_bad_share: share of unusable records past which the stream stops.
    workers: threads that read ahead; no result depends on it.
    """

    sources: Mapping[str, SourceEntry]
    phases: tuple[Phase, ...] = ()
    length: int = 256
    images: int = 8
    frames: int = 1
    image_size: int = 32
    pack: bool = True
    window: int = 1024
    no_loss_before_first_image: bool = True
    next_image_probability: float = 0.0
    max_bad_share: float = 0.01
    workers: int = 2

    def __post_init__(self):
        if not self.sources:
            raise ConfigError("sources is empty: name a data set")
        for name, least in (("length", 2), ("images", 1), ("frames", 1), ("image_size", 1), ("window", 1)):
            if getattr(self, name) < least:
                raise ConfigError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("next_image_probability", "max_bad_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} must be between 0 and 1, not {getattr(self, name)}")
        if self.workers < 0:
            raise ConfigError(f"workers must be 0 or more, not {self.workers}")

    def resolved(self) -> DataConfig:
        """The same with every option of every data set spelled out."""
        sources = {
            name: dataclasses.replace(entry, options=to_tree(entry.settings(name)))
            for name, entry in self.sources.items()
        }
        return dataclasses.replace(self, sources=sources)


def make_source(entry: SourceEntry, *, name: str, seed: int, image_size: int) -> ExampleSource:
    """The data set of one entry. Raises ConfigError for an unknown kind or setting."""
    settings = entry.settings(name)
    return SOURCES[entry.kind][1](settings, name=name, seed=seed, image_size=image_size)


class BadRecord(NamedTuple):
    """An example that could not be used, and the one that took its place."""

    id: str
    kind: str
    message: str
    replaced_by: str


class StreamItem(NamedTuple):
    """This process's part of the global batch of `step`; `ids` names the examples of each row, joined by "+"."""

    step: int
    batch: Batch
    ids: tuple[str, ...]
    bad_records: tuple[BadRecord, ...]


class _Row(NamedTuple):
    dataset: int
    epoch: int
    indices: list[int]


class BatchStream:
    """Iterates over the batches of one process, from `start_step` on, without end.

    Attributes:
      dataset_names: the names that `Batch.dataset_ids` count.
      loss_weights: the loss weight of each data set, in the same order.
      bad_records: how many records were replaced so far, by kind.
    """

    def __init__(
        self,
        config: DataConfig,
        tokenizer: Tokenizer,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        workers: int | None = None,
        sources: Mapping[str, ExampleSource] | None = None,
    ):
        """`batch_size` is global. `workers` replaces the config's; `sources` replaces those of the config by name."""
        if batch_size < 1 or process_count < 1 or batch_size % process_count:
            raise InputError(f"batch_size {batch_size} cannot be shared evenly by {process_count} processes")
        if not 0 <= process_index < process_count:
            raise InputError(f"process {process_index} is not one of {process_count}: they are counted from 0")
        self._config, self._tokenizer, self._seed, self._batch_size = config, tokenizer, seed, batch_size
        self._start_step = start_step
        self._workers = config.workers if workers is None else workers
        if self._workers < 0:
            raise InputError(f"workers must be 0 or more, not {self._workers}")
        per_process = batch_size // process_count
        self._mine = range(process_index * per_process, (process_index + 1) * per_process)
        self._shape = BatchShape(per_process, config.length, config.images, config.frames, config.image_size)
        self.dataset_names = tuple(sorted(config.sources))
        self.loss_weights = tuple(config.sources[name].loss_weight for name in self.dataset_names)
        self.bad_records: collections.Counter[str] = collections.Counter()
        self._seen = 0
        self._sources = [
            sources[name]
            if sources and name in sources
            else make_source(config.sources[name], name=name, seed=seed, image_size=config.image_size)
            for name in self.dataset_names
        ]
        self._lengths = [measure(source, tokenizer) for source in self._sources]
        self._packed = [self._pack(*named) for named in zip(self.dataset_names, self._lengths, strict=True)]
        weights = {name: config.sources[name].weight for name in self.dataset_names}
        phases = config.phases if config.phases and config.phases[0].first_step == 0 else ()
        phases = phases or (Phase(0, weights), *config.phases)
        self._mixture = Mixture(self.dataset_names, phases, batch_size=batch_size)

    def __iter__(self) -> Iterator[StreamItem]:
        steps = grain.MapDataset.range(self._start_step, _ENDLESS).map(self.read)
        ahead = grain.ReadOptions(num_threads=self._workers, prefetch_buffer_size=2 * self._workers)
        reader = iter(steps.to_iter_dataset(ahead))
        try:
            for item in reader:
                self._judge(item)
                yield item
        finally:
            reader.close()

    def row_ids(self, step: int) -> tuple[str, ...]:
        """Ids of the rows of this process at `step` as planned, before any bad record is replaced. Reads no picture."""
        return tuple(self._ids(row) for row in self._rows(step))

    def read(self, step: int) -> StreamItem:
        """This process's part of the batch of `step`, read now."""
        bad: list[BadRecord] = []
        planned = self._rows(step)
        rows = [[self._read(row, index, bad) for index in row.indices] for row in planned]
        batch = assemble(
            rows,
            [row.dataset for row in planned],
            [self.loss_weights[row.dataset] for row in planned],
            self._shape,
            self._tokenizer,
            no_loss_before_first_image=self._config.no_loss_before_first_image,
        )
        ids = tuple("+".join(example.id for example in row) for row in rows)
        return StreamItem(step, batch, ids, tuple(bad))

    def fingerprint(self) -> str:
        """A hash of all that decides what a step holds; two streams that share it give the same batches."""
        what = {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "config": {key: value for key, value in to_tree(self._config).items() if key != "workers"},
            "vocabulary": [self._tokenizer.vocab_size, dict(self._tokenizer.special)],
            "lengths": [hashlib.sha256(b"".join(map(bytes, lengths))).hexdigest() for lengths in self._lengths],
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def _pack(self, name: str, lengths: Lengths) -> PackedRows:
        config = self._config
        packed = PackedRows(
            lengths,
            name=name,
            seed=self._seed,
            length=config.length,
            images=config.images,
            window=config.window,
            pack=config.pack,
        )
        if len(packed.too_long) > config.max_bad_share * len(lengths.tokens):
            raise InputError(
                f"{len(packed.too_long)} of {len(lengths.tokens)} examples of {name} do not fit a row of "
                f"{config.length} tokens and {config.images} images (the longest has {lengths.tokens.max()} tokens, "
                f"the most images are {lengths.images.max()}): raise data.length, data.images or data.max_bad_share"
            )
        self.bad_records["too_long"] += len(packed.too_long)
        return packed

    def _rows(self, step: int) -> list[_Row]:
        rows = []
        for place in self._mine:
            slot = self._mixture[step * self._batch_size + place]
            rows.append(_Row(slot.dataset, *self._packed[slot.dataset][slot.row]))
        return rows

    def _ids(self, row: _Row) -> str:
        return "+".join(f"{self.dataset_names[row.dataset]}:{row.epoch}:{index}" for index in row.indices)

    def _read(self, row: _Row, index: int, bad: list[BadRecord]) -> ReadExample:
        """The example, or the next of its data set that fits its place in the row and can be read."""
        first: DataError | None = None
        for candidate in self._successors(row.dataset, index):
            try:
                example = self._read_one(row, candidate)
            except DataError as error:
                first = first or error
                continue
            if first:
                planned = f"{self.dataset_names[row.dataset]}:{row.epoch}:{index}"
                bad.append(BadRecord(planned, first.kind, str(first), example.id))
            return example
        raise TrainingError(f"no record of {self.dataset_names[row.dataset]} can be read; the first: {first}")

    def _read_one(self, row: _Row, index: int) -> ReadExample:
        example = self._sources[row.dataset].load(index, row.epoch)
        share = self._config.next_image_probability
        following = bool(share) and Dice(key_of(self._seed, example.id, "next image")).uniform() < share
        read = read_example(example, self._tokenizer, self._shape, next_image=following)
        tokens, images = self._lengths[row.dataset]
        if len(read.text.tokens) > tokens[index] or read.text.images > images[index]:
            raise DataError(f"{example.id} is longer than it was when it was measured", kind="length_changed")
        return read

    def _successors(self, dataset: int, index: int) -> Iterator[int]:
        tokens, images = self._lengths[dataset]
        for step in range(len(tokens)):
            candidate = (index + step) % len(tokens)
            if tokens[candidate] <= tokens[index] and images[candidate] <= images[index]:
                yield candidate

    def _judge(self, item: StreamItem) -> None:
        self._seen += sum(row.count("+") + 1 for row in item.ids)
        self.bad_records.update(record.kind for record in item.bad_records)
        bad = sum(count for kind, count in self.bad_records.items() if kind != "too_long")
        if bad > self._config.max_bad_share * max(self._seen, MIN_EXAMPLES_JUDGED):
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.bad_records.items()) if count)
            raise TrainingError(
                f"{bad} of {self._seen} records could not be used ({kinds}), more than data.max_bad_share = "
                f"{self._config.max_bad_share}; the last: {item.bad_records[-1].id}: {item.bad_records[-1].message}"
            )
