"""The items of a benchmark as questions of the harness."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.arrays import Int
from mmjax.core.errors import DataError, InputError
from mmjax.data.keyed import key_of, shuffled
from mmjax.evaluation.benchmark import Answer, Benchmark, Item
from mmjax.evaluation.controls import applies, controlled
from mmjax.evaluation.question import BadPicture, Form, Method, Part, Query, Reply
from mmjax.evaluation.questions import Decode, Judged
from mmjax.evaluation.rices import Embed, cached_features
from mmjax.evaluation.selection import Pool
from mmjax.evaluation.settings import Options, Setting
from mmjax.evaluation.templates import answer_text, asked_segments

# Demonstrations of a prompt at 0 shots, as text alone (Alayrac et al. 2022, appendix A.2).
TEXT_SHOTS = 2


class BenchmarkQuestions:
    """Questions of one benchmark in `folder`.

    embed, encoder: vectors of pictures for "rices", and what their weights are. cache: a folder for the vectors.
    method: "generate" or "rank" instead of the benchmark's own.
    """

    chunk = (256, 2048)
    pictured = False

    def __init__(
        self,
        benchmark: Benchmark,
        folder: Path,
        options: Options,
        *,
        embed: Embed,
        encoder: Callable[[], str],
        cache: Path | None,
        method: Method | None = None,
    ):
        self.name = benchmark.name
        self.benchmark, self.folder = benchmark, folder
        self.official = _Official(self)
        self.items = list(benchmark.read(folder, "test"))
        self._options = options
        self._asked = asked_items(benchmark.drawn_by, len(self.items), options.queries)
        self._method: Method = method or ("generate" if benchmark.method == "generate" else "rank")
        if self._method == "rank" and any(len(set(item.candidates)) < 2 for item in self.items):
            raise InputError(f"{self.name} has items without two different candidates to rank; answers must be written")
        self._features = lambda media: cached_features(media, embed, encoder=encoder(), folder=cache)
        self._kept = all(item.support for item in self.items)

    def settings(self) -> list[Setting]:
        """All numbers of shots with all selections, each with the controls that it is asked with."""
        options = self._options
        tried = sorted(set(options.shots)) or [0]
        selections = options.selections or ("random",)
        settings = []
        for selection in selections[:1] if self._kept else selections:
            once = selection != selections[0]  # without shots there is nothing to pick
            for shots in tried:
                if shots or not once:
                    settings.append(Setting(self.name, shots, selection))
            for control in options.controls:
                at = tried if options.control_shots == "all" else [max(tried)]
                settings += [
                    Setting(self.name, shots, selection, control)
                    for shots in at
                    if control != "none" and applies(control, shots) and (shots or not once)
                ]
        if any(setting.shots for setting in settings) and not self._kept:
            for selection in {setting.selection for setting in settings}:
                self._pool.check(selection)
        return settings

    def seeds(self, setting: Setting) -> int:
        """One where nothing is drawn."""
        drawn = setting.control in ("shuffled", "relabelled")
        if setting.shots:
            drawn |= setting.selection != "rices" and not self._kept
        else:
            drawn |= self._options.zero_shot == "text"
        return self._options.seeds if drawn else 1

    def count(self, setting: Setting) -> int:
        """The same items under every setting and seed."""
        return len(self._asked)

    def make(self, setting: Setting, seed: int, number: int, decode: Decode) -> Query:
        """Query `number`: its item, after demonstrations whose pictures can be decoded."""
        place, bad = int(self._asked[number]), []
        item = self.items[place]
        form = functools.partial(
            Query,
            setting,
            seed,
            item.id,
            method=self._method,
            references=item.answers,
            judge=functools.partial(self._judge, item),
            candidates=item.candidates if self._method == "rank" else (),
            finish=self.benchmark.finish,
            max_tokens=self.benchmark.max_tokens,
            stop=self.benchmark.stop,
        )
        try:
            read = _decoded(item, decode)
        except DataError as error:
            return form(forms=(), bad=(BadPicture(item.id, error.kind, str(error)),))
        shots = self._shots(setting, seed, place, decode, bad)
        templates = self.benchmark.templates
        templates = templates if self._options.templates == "all" else templates[:1]
        text_only = setting.shots == 0 and bool(shots)
        forms = tuple(
            controlled(_form(template, read, shots, text_only), setting.control, f"{self.name}/{seed}/{item.id}")
            for template in templates
        )
        return form(forms=forms, bad=tuple(bad))

    def digest(self) -> str:
        """Changes with the items, and with those that may be shown before them."""
        shown = any(self._options.shots) or self._options.zero_shot == "text"
        return digest_of_items([*self.items, *(self._pool.items if shown and not self._kept else ())])

    def chance(self, judged: Sequence[Judged]) -> float | None:
        """As the benchmark says, in shares."""
        return self.benchmark.chance_share

    def _judge(self, item: Item, reply: Reply) -> float | None:
        return self.benchmark.judge(Answer(item, reply.text, reply.answer, reply.log_likelihoods))

    def _shots(self, setting, seed, place, decode, bad) -> list[Item]:
        wanted, item = setting.shots, self.items[place]
        if self._kept:
            return [_decoded(shown, decode) for shots in item.support[:wanted] for shown in shots]
        text_only = wanted == 0 and self._options.zero_shot == "text"
        if not wanted and not text_only:
            return []
        pool, chosen, read = self._pool, [], {}
        selection = "random" if text_only else setting.selection
        count = TEXT_SHOTS if text_only else wanted
        for number in pool.order(selection, seed, item.id, place):
            try:
                read[number] = pool.items[number] if text_only else _decoded(pool.items[number], decode)
            except DataError as error:
                bad.append(BadPicture(pool.items[number].id, error.kind, str(error)))
                continue
            chosen.append(number)
            if len(chosen) == count:
                break
        if len(chosen) < count:
            raise InputError(f"{self.name} has {len(pool.items)} training items, too few for {count} demonstrations")
        return [read[number] for number in pool.arranged(selection, seed, item.id, chosen)]

    @functools.cached_property
    def _pool(self) -> Pool:
        return Pool(self.benchmark.drawn_by, list(self.benchmark.read(self.folder, "train")), self._vectors)

    @functools.cache  # noqa: B019 (as long as the questions are asked)
    def _vectors(self):
        if not all(item.media for item in self.items):
            raise InputError(f"{self.name} has items without pictures, so rices cannot pick by similarity")
        return tuple(self._features([item.media[0] for item in items]) for items in (self._pool.items, self.items))


class _Official:
    """The data set's own evaluation of one setting and seed."""

    def __init__(self, questions: BenchmarkQuestions):
        self.main_score = questions.benchmark.main_score
        self.scale = questions.benchmark.scale
        self.results = questions.benchmark.results
        self._questions = questions
        self._items: dict[str, Item] = {}

    def score(self, rows: Sequence[Mapping[str, Any]], path: Path) -> Mapping[str, float | None]:
        """As `Official.score`."""
        benchmark = self._questions.benchmark
        self._items = self._items or {item.id: item for item in self._questions.items}
        answers = [self._answer(row) for row in rows]
        benchmark.write_results(answers, path)
        return benchmark.score(path, self._questions.folder)

    def _answer(self, row: Mapping[str, Any]) -> Answer:
        item = self._items[row["id"]]
        told = tuple((row["candidates"] or dict.fromkeys(item.candidates, 0.0)).values())
        return Answer(item, row["text"], row["prediction"], told)


def digest_of_items(items: Iterable[Item]) -> str:
    """Changes with what is asked and what counts as right."""
    state = hashlib.blake2b(digest_size=12)
    for item in items:
        state.update(repr((item.id, dict(item.fields), item.answers, item.candidates, item.label)).encode())
    return state.hexdigest()


def asked_items(name: str, count: int, most: int | None) -> Int[np.ndarray, " items"]:
    """Which items are asked, in the order of the file: a random part of them where not all are."""
    if most is None or most >= count:
        return np.arange(count)
    return np.sort(shuffled(key_of("queries", name), count)[:most])


def _decoded(item: Item, decode: Decode) -> Item:
    if not item.media:
        return item
    return dataclasses.replace(item, media=tuple(decode(medium) for medium in item.media))


def _form(template, item: Item, shots: Sequence[Item], text_only: bool) -> Form:
    shown = tuple(_part(template, shot) for shot in shots)
    if text_only:
        shown = tuple(part.with_media(()) for part in shown)
    return Form(shown, _part(template, item))


def _part(template, item: Item) -> Part:
    answer = item.answers[0] if item.answers else ""
    return Part(item.id, asked_segments(template, item), answer, functools.partial(answer_text, template, item))
