"""A question as it is put to a model: demonstrations and the query, in one form or in several."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from mmjax.core.example import Media, Segment, Text
from mmjax.decoding.prompt import Prompt, as_text
from mmjax.evaluation.settings import Setting

# How an answer is had: written freely; written exactly as the right one or not, which one look tells; the likeliest
# of the candidates; the nearest of texts, which is known without asking more.
Method = Literal["generate", "exact", "rank", "compare"]


@dataclasses.dataclass(frozen=True)
class Part:
    """A demonstration, or the query: what is asked, the right answer, and how an answer is written after it."""

    id: str
    asked: tuple[Segment, ...]
    answer: str
    write: Callable[[str], Text]

    @property
    def media(self) -> tuple[Media, ...]:
        """Its pictures, in order."""
        return tuple(segment for segment in self.asked if isinstance(segment, Media))

    @property
    def shown(self) -> tuple[Segment, ...]:
        """The part with its answer."""
        return (*self.asked, self.write(self.answer))

    def with_media(self, media: tuple[Media, ...]) -> Part:
        """The same with other pictures; with none, without a place for them."""
        new = iter(media)
        kept = tuple(
            next(new) if isinstance(segment, Media) else segment
            for segment in self.asked
            if media or not isinstance(segment, Media)
        )
        return dataclasses.replace(self, asked=kept)


@dataclasses.dataclass(frozen=True)
class Form:
    """Demonstrations and the query, written by one template."""

    shots: tuple[Part, ...]
    query: Part

    @property
    def prompt(self) -> Prompt:
        """Everything up to where the answer is to be written."""
        return Prompt((*(segment for part in self.shots for segment in part.shown), *self.query.asked))


class BadPicture(NamedTuple):
    """An item whose picture cannot be decoded, and why."""

    id: str
    kind: str
    message: str


@dataclasses.dataclass(frozen=True)
class Query:
    """One question under one setting and seed.

    forms: one a template; none where the query's own picture is bad, so that it counts as wrong.
    references: what counts as right; `answer` of the query's part is the first. candidates: what is ranked.
    finish: makes the answer that is judged of the text that was written; judge: its score.
    known: the reply, where the model has given it already.
    bad: items whose pictures were bad: the query's, or those that would have been its demonstrations.
    """

    setting: Setting
    seed: int
    id: str
    forms: tuple[Form, ...]
    method: Method
    references: tuple[str, ...]
    judge: Callable[[Reply], float | None]
    candidates: tuple[str, ...] = ()
    finish: Callable[[str], str] = str.strip
    max_tokens: int = 20
    stop: tuple[str, ...] = ()
    bad: tuple[BadPicture, ...] = ()
    known: Reply | None = None


class Reply(NamedTuple):
    """What a model answered: the text as written, the answer that is judged, the scores of the candidates."""

    text: str
    answer: str
    log_likelihoods: tuple[float, ...] = ()


def prediction(query: Query, reply: Reply) -> dict[str, Any]:
    """A row of predictions.jsonl, without its pictures."""
    score = 0.0 if not query.forms else query.judge(reply)
    form = query.forms[0] if query.forms else None
    row = {
        **dataclasses.asdict(query.setting),
        "seed": query.seed,
        "id": query.id,
        "prompt": str(form.prompt) if form else "",
        "demonstrations": [{"id": part.id, "text": as_text(_texts(part.shown)), "image": None} for part in form.shots]
        if form
        else [],
        "image": None,
        "answer": query.references[0] if query.references else "",
        "references": list(query.references),
        "text": reply.text,
        "prediction": reply.answer,
        "score": None if score is None else round(float(score), 6),
        "correct": None if score is None else score >= 1,
        "candidates": dict(zip(query.candidates, reply.log_likelihoods, strict=True))
        if reply.log_likelihoods
        else None,
    }
    if query.bad:
        row["bad"] = [bad._asdict() for bad in query.bad]
    return row


def _texts(segments):
    return [segment for segment in segments if isinstance(segment, Text)]
