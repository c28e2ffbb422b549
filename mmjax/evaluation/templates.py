"""Items written by templates: segments of text and pictures, and answers."""

from __future__ import annotations

import itertools
import string

from mmjax.core.errors import InputError
from mmjax.core.example import Segment, Text
from mmjax.evaluation.benchmark import Item, Template


def asked_segments(template: Template, item: Item) -> tuple[Segment, ...]:
    """What stands before the answer: its pictures where `{image}` does, texts beside each other as one.

    The last `{image}` stands for all pictures that are left. Values of fields are put in as they are.

    Raises:
      InputError: the template names a field that the item has not, or has no place for a picture.
    """
    pieces = [(literal, field) for literal, field, _, _ in string.Formatter().parse(template.question)]
    left = sum(field == "image" for _, field in pieces)
    if item.media and not left:
        raise InputError(f"the template {template.question!r} has no {{image}}, and item {item.id} has pictures")
    media, parts = list(item.media), []
    for literal, field in pieces:
        parts.append(literal)
        if field == "image":
            left -= 1
            taken = len(media) if left == 0 else min(1, len(media))
            parts += media[:taken]
            del media[:taken]
        elif field is not None:
            parts.append(_value(template.question, item, field))
    segments: list[Segment] = []
    for is_text, run in itertools.groupby(parts, lambda part: isinstance(part, str)):
        if is_text:
            text = "".join(run)
            segments += [Text(text)] if text else []
        else:
            segments += run
    return tuple(segments)


def answer_text(template: Template, item: Item, answer: str) -> Text:
    """How an answer follows; the chunk of the item ends with it."""
    pieces = []
    for literal, field, _, _ in string.Formatter().parse(template.answer):
        pieces.append(literal)
        if field is not None:
            pieces.append(answer if field == "answer" else _value(template.answer, item, field))
    return Text("".join(pieces), end_of_chunk=True)


def _value(template: str, item: Item, field: str) -> str:
    if field not in item.fields:
        known = ", ".join(["image", *item.fields])
        raise InputError(f"the template {template!r} names {{{field}}}, and item {item.id} has {known}")
    return item.fields[field]
