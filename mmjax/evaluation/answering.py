"""Queries to replies: what a model writes, or which candidate it finds likeliest, over all forms of a question."""

from __future__ import annotations

import collections
from collections.abc import Sequence

import numpy as np

from mmjax.core.errors import InputError
from mmjax.evaluation.models.model import EvaluatedModel, Progress, Rated
from mmjax.evaluation.question import Query, Reply


def answer(model: EvaluatedModel, queries: Sequence[Query], *, beams: int, normalize: bool, progress: Progress):
    """A reply for each query; one without a form gets an empty one.

    Raises:
      InputError: the model cannot do what a query asks.
    """
    replies: dict[int, Reply] = {number: query.known for number, query in enumerate(queries) if query.known}
    for method, take in (("generate", _write), ("rank", _rank), ("exact", _look)):
        chosen = {number: query for number, query in enumerate(queries) if query.forms and query.method == method}
        if chosen:
            taken = take(model, list(chosen.values()), beams, normalize, progress)
            replies.update(zip(chosen, taken, strict=True))
    return [replies.get(number, Reply("", "")) for number in range(len(queries))]


def most_frequent(answers: Sequence[str]) -> str:
    """The answer of an ensemble; of equally frequent ones the first."""
    return max(answers, key=collections.Counter(answers).__getitem__)


def _write(model, queries, beams, normalize, progress):
    written = iter(
        model.write(
            [form.prompt for query in queries for form in query.forms],
            max_tokens=queries[0].max_tokens,
            stop=queries[0].stop,
            beams=beams,
            progress=progress,
        )
    )
    replies = []
    for query in queries:
        texts = [next(written) for _ in query.forms]
        finished = [query.finish(text) for text in texts]
        chosen = most_frequent(finished)
        replies.append(Reply(texts[finished.index(chosen)], chosen))
    return replies


def _rank(model, queries, beams, normalize, progress):
    replies = []
    for query, rated in zip(queries, _rated(model, queries, progress), strict=True):
        each = [_of_candidates(one, normalize) for one in rated]
        told = np.mean(each, axis=0)
        chosen = query.candidates[int(np.argmax(told))]
        replies.append(Reply(chosen, chosen, tuple(round(float(value), 4) for value in told)))
    return replies


def _of_candidates(rated: Rated, normalize):
    values = np.asarray(rated.log_likelihoods, np.float64)
    return values / np.array(rated.lengths) if normalize else values


def _look(model, queries, beams, normalize, progress):
    """Whether greedy decoding writes the right answer: one look at it tells."""
    replies = []
    for query, (rated,) in zip(queries, _rated(model, queries, progress), strict=True):
        if not rated.written:
            raise InputError(f"{model.name} does not tell what it would write; {query.setting.task} needs that")
        replies.append(Reply(rated.written[0], query.finish(rated.written[0]).removesuffix(".")))
    return replies


def _rated(model, queries, progress):
    """For each query what is rated of each of its forms."""
    forms = [(query, form) for query in queries for form in query.forms]
    continuations = [
        [form.query.write(text) for text in query.candidates or (form.query.answer,)] for query, form in forms
    ]
    rated = iter(model.rate([form.prompt for _, form in forms], continuations, progress=progress))
    return [[next(rated) for _ in query.forms] for query in queries]
