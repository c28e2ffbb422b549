"""Benchmarks of two towers: pictures compared with the names of classes, or with the texts of all items."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.arrays import Float
from mmjax.core.errors import DataError, InputError
from mmjax.evaluation.benchmark import Answer, Benchmark, Item
from mmjax.evaluation.benchmark_questions import asked_items, digest_of_items
from mmjax.evaluation.models.model import EvaluatedModel
from mmjax.evaluation.question import BadPicture, Form, Part, Query, Reply
from mmjax.evaluation.questions import Decode, Judged
from mmjax.evaluation.rices import cached_features
from mmjax.evaluation.settings import Options, Setting
from mmjax.evaluation.templates import answer_text, asked_segments
from mmjax.evaluation.towers import caption_texts, class_scores, class_texts, retrieval_scores


def compares_texts(model: EvaluatedModel) -> bool:
    """Whether the model has vectors of texts."""
    try:
        model.embed_texts(["a"], progress=lambda count: None)
    except InputError:
        return False
    return True


class TowerQuestions:
    """A benchmark of the method "classes" or "retrieval": one setting, without shots.

    The vectors of all pictures and texts are made once, those of pictures kept in `cache` under `encoder`, so that each
    question is a row of cosines.
    """

    chunk = (4096, 1 << 16)
    pictured = False

    def __init__(
        self,
        benchmark: Benchmark,
        folder: Path,
        options: Options,
        *,
        model: EvaluatedModel,
        encoder: Callable[[], str],
        cache: Path | None,
    ):
        self.name = benchmark.name
        self.benchmark, self.folder = benchmark, folder
        self.official = _Official(self)
        items = list(benchmark.read(folder, "test"))
        self.items = [items[place] for place in asked_items(benchmark.drawn_by, len(items), options.queries)]
        self._model, self._encoder, self._cache = model, encoder, cache

    @functools.cached_property
    def names(self) -> list[str]:
        """The answer that each text stands for."""
        if self.benchmark.method == "classes":
            return list(self.items[0].candidates)
        return [text for item in self.items for text in item.answers]

    @functools.cached_property
    def scores(self) -> Float[np.ndarray, "items texts"]:
        """Cosines of each item's first picture with every text; rows of NaN for pictures that cannot be decoded."""
        pictures = cached_features(
            [item.media[0] for item in self.items],
            functools.partial(self._model.embed_pictures, progress=lambda count: None),
            encoder=self._encoder(),
            folder=self._cache,
        )
        good = np.isfinite(pictures).all(axis=1)
        if self.benchmark.method == "classes":
            forms = class_texts(self.items, self.benchmark.templates)
            found = class_scores(pictures[good], np.stack([self._embed(texts) for texts in forms]))
        else:
            texts = self._embed(caption_texts(self.items, self.benchmark.templates[0]))
            found = retrieval_scores(pictures[good], texts)
        scores = np.full((len(self.items), len(self.names)), np.nan, np.float32)
        scores[good] = found
        return scores

    def _embed(self, texts: Sequence[str]) -> Float[np.ndarray, "M D"]:
        return self._model.embed_texts(texts, progress=lambda count: None)

    def settings(self) -> list[Setting]:
        """One."""
        return [Setting(self.name, 0, "random")]

    def seeds(self, setting: Setting) -> int:
        """Nothing is drawn."""
        return 1

    def count(self, setting: Setting) -> int:
        """All items that are asked."""
        return len(self.items)

    def digest(self) -> str:
        """Changes with the items."""
        return digest_of_items(self.items)

    def make(self, setting: Setting, seed: int, number: int, decode: Decode) -> Query:
        """One item, with the reply that its row of cosines is."""
        item, row = self.items[number], self.scores[number]
        query = functools.partial(
            Query,
            setting,
            seed,
            item.id,
            method="compare",
            references=item.answers,
            judge=functools.partial(self._judge, item),
            candidates=item.candidates,
        )
        if np.isnan(row).any():
            try:
                decode(item.media[0])
            except DataError as error:
                return query(forms=(), bad=(BadPicture(item.id, error.kind, str(error)),))
            raise InputError(f"the picture of {item.id} could not be decoded before, and can be now; start again")
        best = self.names[int(np.argmax(row))]
        told = tuple(round(float(value), 6) for value in row) if item.candidates else ()
        template = self.benchmark.templates[0]
        answer = item.answers[0] if item.answers else ""
        part = Part(item.id, asked_segments(template, item), answer, functools.partial(answer_text, template, item))
        return query(forms=(Form((), part),), known=Reply(best, best, told))

    def chance(self, judged: Sequence[Judged]) -> float | None:
        """As the benchmark says, in shares."""
        return self.benchmark.chance_share

    def _judge(self, item: Item, reply: Reply) -> float | None:
        return self.benchmark.judge(Answer(item, reply.text, reply.answer, reply.log_likelihoods))


class _Official:
    """The data set's own evaluation, from the rows of cosines."""

    def __init__(self, questions: TowerQuestions):
        self.main_score, self.scale = questions.benchmark.main_score, questions.benchmark.scale
        self.results = questions.benchmark.results
        self._questions = questions

    def score(self, rows: Sequence[Mapping[str, Any]], path: Path) -> Mapping[str, float | None]:
        """As `Official.score`. A picture that cannot be decoded is like no text at all."""
        questions = self._questions
        told = np.nan_to_num(questions.scores, nan=-1.0)
        answers = [
            Answer(item, row["text"], row["prediction"], told[number])
            for number, (item, row) in enumerate(zip(questions.items, rows, strict=True))
        ]
        questions.benchmark.write_results(answers, path)
        return questions.benchmark.score(path, questions.folder)
