"""The batch stream: a pure function of (configuration, seed, step). Its position is the step, a number.

Global batch b is rows [b B, (b+1) B) of the mixture, in an order that spreads their images evenly. A process reads the
rows of it that its devices hold, or, where no devices are asked, rows [p B/P, (p+1) B/P) as process p of P. Which
examples a row holds is planned from their lengths, so it does not depend on processes, workers or where the stream was
started.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import grain
import numpy as np

from mmjax.core.batch import Batch
from mmjax.core.config import to_tree
from mmjax.core.errors import DataError, InputError, TrainingError
from mmjax.data.assemble import BatchShape, ReadExample, ReadText, assemble, read_text, room_for
from mmjax.data.config import DataConfig, make_source
from mmjax.data.images import DECODER
from mmjax.data.keyed import Dice, key_of
from mmjax.data.left_out import left_out_records
from mmjax.data.lengths import Measured, measure
from mmjax.data.mixture import Phase
from mmjax.data.plan import Row, RowPlan, Start
from mmjax.data.source import ExampleSource, Lengths
from mmjax.data.sources.options import PLACES
from mmjax.data.stages import shown
from mmjax.text.tokenizer import Tokenizer

# The share of bad records is judged over at least this many examples, so that an early one does not stop a run.
MIN_EXAMPLES_JUDGED = 1000
_ENDLESS = 1 << 40
_Texts = Mapping[tuple[int, int, int], "ReadText | DataError"]  # by data set, epoch and number
_DECIDES_NOTHING = ("workers", "from_step")


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


class BatchStream:
    """Iterates over the batches of one process, from `start_step` on, without end or for the epochs of the config.

    Attributes:
      config, seed, batch_size, begun: what it was made with.
      plan: which examples the rows of each batch hold.
      dataset_names: the names that `Batch.dataset_ids` count.
      loss_weights: the loss weight of each data set, in the same order.
      bad_records: how many records were replaced so far, by kind.
      unusable: how many records are left out since they could not be measured, by kind.
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
        rows: Sequence[int] | None = None,
        workers: int | None = None,
        sources: Mapping[str, ExampleSource] | None = None,
        begun: Start | None = None,
    ):
        """`batch_size` is global. `rows`: the places in the batch that are read, instead of an even share of them.

        `workers` replaces the config's; `sources` replaces those of the config by name. `begun`: where the stream
        begins, if it goes on for another (`mmjax.data.segments`); `start_step` is the first step that is read.
        """
        if batch_size < 1 or process_count < 1 or (rows is None and batch_size % process_count):
            raise InputError(f"batch_size {batch_size} cannot be shared evenly by {process_count} processes")
        if not 0 <= process_index < process_count:
            raise InputError(f"process {process_index} is not one of {process_count}: they are counted from 0")
        self.config, self._tokenizer, self.seed, self.batch_size = config, tokenizer, seed, batch_size
        self._start_step = start_step
        self._workers = config.workers if workers is None else workers
        if self._workers < 0:
            raise InputError(f"workers must be 0 or more, not {self._workers}")
        per_process = batch_size // process_count
        if rows is None:
            rows = range(process_index * per_process, (process_index + 1) * per_process)
        if not rows or not all(0 <= row < batch_size for row in rows):
            raise InputError(f"the rows of a batch of {batch_size} are 0 to {batch_size - 1}, not {list(rows)[:8]}")
        self._mine = tuple(rows)
        self._shape = BatchShape(len(self._mine), config.length, config.images, config.frames, config.image_size)
        self.dataset_names = tuple(sorted(config.sources))
        self.loss_weights = tuple(config.sources[name].loss_weight for name in self.dataset_names)
        self.bad_records: collections.Counter[str] = collections.Counter()
        self.unusable: collections.Counter[str] = collections.Counter()
        self._seen = 0
        self._sources = [
            sources[name]
            if sources and name in sources
            else make_source(config.sources[name], name=name, seed=seed, image_size=config.image_size)
            for name in self.dataset_names
        ]
        self._limits = [config.sources[name].limits(key_of(seed, name)) for name in self.dataset_names]
        self._measured = [
            measure(source, tokenizer, config.layout, limits)
            for source, limits in zip(self._sources, self._limits, strict=True)
        ]
        # Plain views of what is mapped: an item of a numpy.memmap costs ten times as much.
        self._lengths = [Lengths(*map(np.asarray, measured.lengths)) for measured in self._measured]
        for named in zip(self.dataset_names, self._measured, strict=True):
            self._refuse_unusable(*named)
        self.begun = begun or Start()
        self.plan = RowPlan(
            self.dataset_names, config, self._measured, batch_size=batch_size, seed=seed, start=self.begun
        )
        self.bad_records["too_long"] = sum(map(self._too_long, range(len(self.dataset_names))))

    def __iter__(self) -> Iterator[StreamItem]:
        end = _ENDLESS if self.plan.steps is None else self.plan.steps
        if self._start_step >= end:
            return
        steps = grain.MapDataset.range(self._start_step, end).map(self.read)
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
        phase, room = self.plan.phase(step), room_for(self._shape)
        # Texts before pictures: decoding sweeps the caches that the interpreter lives from.
        texts = {(row.dataset, row.epoch, index): self._text(row, index) for row in planned for index in row.indices}
        rows = [self._read_row(phase, row, bad, texts, place) for row, place in zip(planned, room, strict=True)]
        batch = assemble(
            rows,
            [row.dataset for row in planned],
            [self.loss_weights[row.dataset] for row in planned],
            self._shape,
            self._tokenizer,
            no_loss_before_first_image=self.config.no_loss_before_first_image,
            room=room,
        )
        ids = tuple("+".join(example.id for example in row) for row in rows)
        return StreamItem(step, batch, ids, tuple(bad))

    def padding_share(self, steps: int) -> float:
        """Share of this process's tokens in its first `steps` batches that are padding, as planned. Reads nothing."""
        steps = min(steps, self.plan.steps or steps)
        rows = [row for step in range(steps) for row in self._rows(step)]
        useful = sum(int(self._lengths[row.dataset].tokens[index]) for row in rows for index in row.indices)
        return 1.0 - useful / (len(rows) * self.config.length)

    def unusable_records(self, most: int = 1000) -> list[BadRecord]:
        """The records that no row holds, unusable or too long, and why: the first `most` of each data set.

        Nothing replaces them.
        """
        bounds = {"length": self.config.length, "images": self.config.images}
        return [
            BadRecord(f"{name}:0:{index}", error.kind, str(error), "")
            for name, source, measured in zip(self.dataset_names, self._sources, self._measured, strict=True)
            for index, error in itertools.islice(left_out_records(source, measured.lengths, **bounds), most)
        ]

    def fingerprint(self) -> str:
        """A hash of all that decides what a step holds; two streams that share it give the same batches.

        Where files lie is no part of it, since they may be moved; the lengths of their examples are.
        """
        what = {
            "seed": self.seed,
            "batch_size": self.batch_size,
            "config": _without_places(to_tree(self.config)),
            "decoder": DECODER,
            "vocabulary": [self._tokenizer.vocab_size, dict(self._tokenizer.special)],
            "lengths": [measured.digest for measured in self._measured],
            "begun": to_tree(self.begun),
        }
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()

    def sizes(self) -> list[dict[str, Any]]:
        """Examples, rows an epoch, share of their token places that are used, and records left out, by data set."""
        table = []
        for place, (name, measured) in enumerate(zip(self.dataset_names, self._measured, strict=True)):
            packed, tokens = self.plan.whole(place), measured.lengths.tokens
            fits = (tokens > 0) & (tokens <= self.config.length) & (measured.lengths.images <= self.config.images)
            left_out = {kind: count for kind, count in measured.left_out.items() if count}
            if packed.too_long:
                left_out["too_long"] = left_out.get("too_long", 0) + packed.too_long
            table.append(
                {
                    "name": name,
                    "examples": len(tokens),
                    "rows": packed.rows,
                    "used": float(tokens[fits].sum() / (packed.rows * self.config.length)),
                    "left_out": left_out,
                }
            )
        return table

    def _too_long(self, dataset: int) -> int:
        return self.plan.whole(dataset).too_long

    def _refuse_unusable(self, name: str, measured: Measured) -> None:
        """Counts the records that cannot be used, found when they were measured. Raises past their share."""
        bad = {kind: count for kind, count in measured.left_out.items() if kind != "filtered"}
        count, all_of_them = sum(bad.values()), len(measured.lengths.tokens)
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(bad.items()))
        if count > self.config.max_bad_share * all_of_them:
            raise InputError(
                f"{count} of {all_of_them} records of {name} cannot be used ({kinds}): mend them, or raise "
                f"data.max_bad_share ({self.config.max_bad_share}); the first: {self._first_bad(name, measured)}"
            )
        self.unusable.update(bad)

    def _first_bad(self, name: str, measured: Measured) -> str:
        source = self._sources[self.dataset_names.index(name)]
        first = next(left_out_records(source, measured.lengths), None)
        return str(first[1]) if first else "is readable now"

    def _rows(self, step: int) -> list[Row]:
        return self.plan.batch(step, self._mine)

    def _ids(self, row: Row) -> str:
        return "+".join(f"{self.dataset_names[row.dataset]}:{row.epoch}:{index}" for index in row.indices)

    def _read_row(
        self, phase: Phase, row: Row, bad: list[BadRecord], texts: _Texts, room: np.ndarray
    ) -> list[ReadExample]:
        examples: list[ReadExample] = []
        used = 0
        for index in row.indices:
            examples.append(self._read(phase, row, index, bad, texts, room[used:]))
            used += len(examples[-1].media)
        return examples

    def _read(
        self, phase: Phase, row: Row, index: int, bad: list[BadRecord], texts: _Texts, room: np.ndarray
    ) -> ReadExample:
        """The example, or the next of its data set that fits its place in the row and can be read."""
        first: DataError | None = None
        for candidate in self._successors(row.dataset, index):
            try:
                text = texts.get((row.dataset, row.epoch, candidate)) or self._text(row, candidate)
                if isinstance(text, DataError):
                    raise text
                example = shown(text.decoded(self._shape, room), phase, self.seed)
            except DataError as error:
                first = first or error
                continue
            if first:
                planned = f"{self.dataset_names[row.dataset]}:{row.epoch}:{index}"
                bad.append(BadRecord(planned, first.kind, str(first), example.id))
            return example
        raise TrainingError(f"no record of {self.dataset_names[row.dataset]} can be read; the first: {first}")

    def _text(self, row: Row, index: int) -> ReadText | DataError:
        """An example without its pictures, or what is wrong with it."""
        try:
            example = self._sources[row.dataset].load(index, row.epoch)
            share = self.config.next_image_probability
            following = bool(share) and Dice(key_of(self.seed, example.id, "next image")).uniform() < share
            read = read_text(
                example,
                self._tokenizer,
                next_image=following,
                layout=self.config.layout,
                max_tokens=self._limits[row.dataset].max_tokens,
            )
            thinned = self._limits[row.dataset].thinned(read.text, index, self._tokenizer)
            if thinned is not read.text:
                read = dataclasses.replace(read, text=thinned)
        except DataError as error:
            return error
        tokens, images = self._lengths[row.dataset]
        if len(read.text.tokens) > tokens[index] or read.text.images > images[index]:
            return DataError(f"{example.id} is longer than it was when it was measured", kind="length_changed")
        return read

    def _successors(self, dataset: int, index: int) -> Iterator[int]:
        yield index
        tokens, images = self._lengths[dataset]
        for step in range(1, len(tokens)):
            candidate = (index + step) % len(tokens)
            if 0 < tokens[candidate] <= tokens[index] and images[candidate] <= images[index]:
                yield candidate

    def _judge(self, item: StreamItem) -> None:
        self._seen += sum(row.count("+") + 1 for row in item.ids if row)
        self.bad_records.update(record.kind for record in item.bad_records)
        bad = sum(count for kind, count in self.bad_records.items() if kind != "too_long")
        if bad > self.config.max_bad_share * max(self._seen, MIN_EXAMPLES_JUDGED):
            kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.bad_records.items()) if count)
            raise TrainingError(
                f"{bad} of {self._seen} records could not be used ({kinds}), more than data.max_bad_share = "
                f"{self.config.max_bad_share}; the last: {item.bad_records[-1].id}: {item.bad_records[-1].message}"
            )


def _without_places(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration's tree without the settings that decide no batch."""
    sources = {
        name: {**entry, "options": {key: value for key, value in entry["options"].items() if key not in PLACES}}
        for name, entry in config["sources"].items()
    }
    return {**{key: value for key, value in config.items() if key not in _DECIDES_NOTHING}, "sources": sources}
