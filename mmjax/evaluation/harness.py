"""The few-shot harness: tasks x shots x selections x controls x seeds, asked in chunks, to predictions and scores.

Everything is a function of (task, setting, seed, number of the query), and a chunk holds the same queries whoever asks
it, so that an evaluation that was interrupted, or is shared by several processes, comes to the same predictions.
"""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mmjax.core.errors import DataError
from mmjax.core.example import Media
from mmjax.core.progress import progress_bar
from mmjax.data.show import picture_uri
from mmjax.evaluation.answering import answer
from mmjax.evaluation.models.model import EvaluatedModel
from mmjax.evaluation.predictions import MemoryStore, Row, Store
from mmjax.evaluation.question import Query, prediction
from mmjax.evaluation.questions import Judged, Questions
from mmjax.evaluation.scores import Score, official_scores, score_row
from mmjax.evaluation.settings import Options, Setting
from mmjax.parallel import peers

# Of each setting this many right and as many wrong predictions keep their pictures, where these are small.
PICTURED = 3
# Broken pictures are judged as a share of at least so many items.
MIN_ITEMS_JUDGED = 100
_THREADS = 8


class Evaluation(NamedTuple):
    """`rows`: one a setting. `bad`: items with broken pictures, each once. Both empty on all processes but the first.

    An item whose own picture is broken counts as wrong; as a demonstration the next choice stands in its place.
    """

    rows: list[Score]
    bad: list[dict[str, Any]]


class Asked(NamedTuple):
    """One query of the plan, to be made when its turn comes."""

    questions: Questions
    setting: Setting
    seed: int
    number: int


def evaluate(
    model: EvaluatedModel,
    tasks: Sequence[Questions],
    options: Options,
    *,
    store: Store | None = None,
    together: bool = True,
    results: Path | None = None,
    progress: bool = True,
) -> Evaluation:
    """Asks `model` everything, keeps the predictions in the `store` of process 0, and scores them.

    Args:
      together: all processes ask the same, of a model that lies on the devices of all; otherwise each has a model of
        its own, and takes its share of the chunks.
      results: a folder for files in official layouts; without it there are no official scores.
      progress: whether to draw a bar on a terminal.

    Raises:
      InputError: the model or a task cannot do what is asked.
      DataError: more broken pictures than `options.max_bad_share`.
    """
    writes = jax.process_index() == 0
    store = MemoryStore() if store is None or not writes else store
    settings = [(task, setting) for task in tasks for setting in task.settings()]
    chunks = plan_chunks(settings)
    done = int(_exchange(str(store.resume([len(chunk) for chunk in chunks])))[0])
    keeper = _Keeper(options, store, settings)
    for row, asked in zip(store.rows(), itertools.chain(*chunks[:done]), strict=True) if writes else ():
        keeper.note(row, asked)
    share, index = (1, 0) if together else (jax.process_count(), jax.process_index())
    total, before = (sum(map(len, part)) for part in (chunks, chunks[:done]))
    with progress_bar(total=total, initial=before, what="evaluate", unit="query") as bar:
        bar.disable |= not (progress and writes)
        for start in range(done, len(chunks), share):
            round_ = chunks[start : start + share]
            rows = ask(model, round_[index], options, bar.update) if index < len(round_) else []
            told = [json.loads(text) for text in _exchange(json.dumps(rows))] if share > 1 else [rows]
            for chunk, found in zip(round_, told, strict=False):
                keeper.keep(found, chunk)
    if not writes:
        return Evaluation([], [])
    rows = [score_row(setting, task, keeper.judged[setting]) for task, setting in settings]
    if results is not None:
        official_scores(rows, settings, store.rows(), results, strict=options.queries is None)
    store.finish()
    return Evaluation(rows, list(keeper.bad.values()))


def plan_chunks(settings: Sequence[tuple[Questions, Setting]]) -> list[list[Asked]]:
    """All queries in the order of the predictions, cut as each task wants it; the cut depends on nothing else."""
    chunks: list[list[Asked]] = []
    room, pictures, kind = 0, 0, None
    for task, setting in settings:
        for seed in range(task.seeds(setting)):
            for number in range(task.count(setting)):
                if kind != task.chunk or room < 1 or pictures < 1:
                    kind = task.chunk
                    room, pictures = kind
                    chunks.append([])
                chunks[-1].append(Asked(task, setting, seed, number))
                room -= 1
                pictures -= setting.shots + 1
    return chunks


def ask(model: EvaluatedModel, chunk: Sequence[Asked], options: Options, progress: Callable[[int], Any]) -> list[Row]:
    """The rows of predictions of some queries, whose pictures are decoded together."""
    decode = Decoder()
    # What a setting makes once for all (the vectors of pictures) is not to be made by several threads.
    for first in {one.setting: one for one in reversed(chunk)}.values():
        make(first, decode)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        queries = list(threads.map(lambda one: make(one, decode), chunk))
    counted = _by_query(queries, progress)
    replies = answer(model, queries, beams=options.beams, normalize=options.normalize, progress=counted)
    return [prediction(query, reply) for query, reply in zip(queries, replies, strict=True)]


def make(asked: Asked, decode: Callable[[Media], Media]) -> Query:
    """The query itself."""
    return asked.questions.make(asked.setting, asked.seed, asked.number, decode)


class Decoder:
    """Media -> the same with their frames decoded, each once; a second broken picture is not opened again."""

    def __init__(self):
        self._done: dict[int, tuple[Media, Media | DataError]] = {}
        self._lock = threading.Lock()

    def __call__(self, medium: Media) -> Media:
        """Raises DataError, each time that it is asked for a broken picture."""
        with self._lock:
            kept = self._done.get(id(medium))
        if kept is None:
            try:
                found: Media | DataError = Media(medium.load())
            except DataError as error:
                found = error
            with self._lock:
                kept = self._done.setdefault(id(medium), (medium, found))  # the medium is kept: its id is the key
        if isinstance(kept[1], DataError):
            raise DataError(str(kept[1]), kind=kept[1].kind)
        return kept[1]


class _Keeper:
    """What becomes of the rows: the store, what the scores need of them, and which pictures were broken."""

    def __init__(self, options: Options, store: Store, settings: Sequence[tuple[Questions, Setting]]):
        self.judged: dict[Setting, list[Judged]] = {setting: [] for _, setting in settings}
        self.bad: dict[tuple[str, str], dict[str, Any]] = {}
        self._options, self._store = options, store
        self._items = {setting.task: task.count(setting) for task, setting in reversed(settings)}
        self._pictured: collections.Counter = collections.Counter()

    def keep(self, rows: Sequence[Row], chunk: Sequence[Asked]) -> None:
        """Adds pictures to a few of the rows, and stores them all."""
        for row, asked in zip(rows, chunk, strict=True):
            kept = self._pictured[asked.setting, row["correct"]]
            if asked.questions.pictured and row["control"] == "none" and kept < PICTURED:
                _draw(row, make(asked, Decoder()))
            self.note(row, asked)
        self._store.append(rows)

    def note(self, row: Row, asked: Asked) -> None:
        """Raises DataError where too many pictures are broken."""
        setting = asked.setting
        self._pictured[setting, row["correct"]] += row["image"] is not None
        candidates = len(row["candidates"] or ())
        self.judged[setting].append(Judged(row["seed"], row["id"], row["score"], row["answer"], candidates))
        for bad in row.get("bad", ()):
            self.bad.setdefault((setting.task, bad["id"]), {"task": setting.task, **bad})
            own = [one for (task, _), one in self.bad.items() if task == setting.task]
            if len(own) > self._options.max_bad_share * max(self._items[setting.task], MIN_ITEMS_JUDGED):
                kinds = collections.Counter(one["kind"] for one in own)
                raise DataError(
                    f"{len(own)} pictures of {setting.task} cannot be decoded "
                    f"({', '.join(f'{count} {kind}' for kind, count in sorted(kinds.items()))}), more than "
                    f"{self._options.max_bad_share:g} of its items; the last: {bad['message']}. Mend them, or raise "
                    "--max-bad-share",
                    kind="too_many",
                )


def _draw(row: Row, query: Query) -> None:
    form = query.forms[0]
    for part, place in zip((*form.shots, form.query), (*row["demonstrations"], row), strict=True):
        if part.media:
            place["image"] = picture_uri(np.asarray(part.media[0].load()[0]))


def _by_query(queries: Sequence[Query], progress: Callable[[int], Any]) -> Callable[[int], None]:
    """Progress in prompts as progress in queries, each of which has as many prompts as forms."""
    forms = max((len(query.forms) for query in queries), default=1) or 1
    left = 0

    def counted(prompts: int) -> None:
        nonlocal left
        left += prompts
        progress(left // forms)
        left %= forms

    return counted


def _exchange(text: str) -> list[str]:
    """What every process says, in their order."""
    return [text] if peers.current() is None else peers.current().exchange(text)
