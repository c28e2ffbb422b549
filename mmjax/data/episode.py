"""An episode: turns that show something, then a query. Training and evaluation lay it out by the same functions."""

from __future__ import annotations

import dataclasses
from typing import Literal

from mmjax.core.example import Media, Segment, Text

LossOn = Literal["all", "query", "repeated"]


@dataclasses.dataclass(frozen=True)
class Turn:
    """A medium, a question about it, and the answer. `media` None: the question is about the medium before."""

    media: Media | None
    question: str
    answer: str


@dataclasses.dataclass(frozen=True)
class Episode:
    """`demonstrations` come first, `query` is to be answered; `candidates` are the answers to rank,
    empty where there are too many to list.

    `kind` is the question's kind, for scores by kind.
    """

    id: str
    demonstrations: tuple[Turn, ...]
    query: Turn
    candidates: tuple[str, ...]
    kind: str


def answer_segment(turn: Turn, answer: str, *, loss: bool = True) -> Text:
    """`answer` as it is written after the question of `turn`; the chunk ends with it."""
    return Text(f" {answer}." if turn.question else f"{answer}.", loss=loss, end_of_chunk=True)


def question_segments(turn: Turn) -> tuple[Segment, ...]:
    media = () if turn.media is None else (turn.media,)
    return (*media, Text(turn.question)) if turn.question else media


def prompt_segments(episode: Episode) -> tuple[Segment, ...]:
    """The episode up to where the answer of the query is to be written (tokenize it with `eos=False`)."""
    shown = [segment for turn in episode.demonstrations for segment in _turn_segments(turn, False)]
    return (*shown, *question_segments(episode.query))


def training_segments(episode: Episode, loss_on: LossOn) -> tuple[Segment, ...]:
    """The whole episode. The loss is on all answers, on the query's, or also on those repeated.

    "repeated" adds each answer that an earlier turn has already given: the others cannot be known.
    """
    segments: list[Segment] = []
    seen: set[str] = set()
    for turn in episode.demonstrations:
        learned = loss_on == "all" or (loss_on == "repeated" and turn.answer in seen)
        segments += _turn_segments(turn, learned)
        seen.add(turn.answer)
    return (*segments, *_turn_segments(episode.query, True))


def _turn_segments(turn, learned):
    return (*question_segments(turn), answer_segment(turn, turn.answer, loss=learned))
