"""Conversations as the chat template of a model's folder writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from mmjax.core.errors import DataError
from mmjax.core.example import Media, Segment, Text
from mmjax.data.sources.conversation import Message
from mmjax.data.sources.reader import usable_text
from mmjax.text.jinja_child import GENERATED
from mmjax.text.model_template import MARKS, MEDIUM, ModelTemplate, RenderError, mended
from mmjax.text.tokenizer import PICTURE_WORDS

_GENERATED = re.compile(f"{GENERATED[0]}(.*?){GENERATED[1]}", re.DOTALL)
_PICTURE = re.compile("|".join(map(re.escape, (MEDIUM, *PICTURE_WORDS))))


def templated_segments(
    messages: Sequence[Message], template: ModelTemplate, system: str | None, what: str
) -> tuple[Segment, ...]:
    """The turns as the template writes them, up to the last answer; answers are learned, and what ends them.

    What the template marks by `{% generation %}` is learned. Where it marks nothing, an answer is what the rendering
    grows by from the turns before it, with the answer begun, to those with it; white space after its last control word
    is not learned. The first token is left out: the layout writes it.

    system: stands first where the conversation has no such turn.

    Raises:
      DataError: of kind "bad_record" for turns that the template does not take, or writes otherwise when others follow.
    """
    if system and not (messages and messages[0].role == "system"):
        messages = [Message("system", (system,)), *messages]
    answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
    if not answers or answers[0] == 0:
        raise DataError(f"{what} has no answer to a user", kind="bad_record")
    messages = messages[: answers[-1] + 1]
    for number in answers:
        usable_text("".join(part for part in messages[number].parts if isinstance(part, str)), what)
    media = [part for message in messages for part in message.parts if isinstance(part, Media)]
    turns = [_turn(message, template, what) for message in messages]
    requests = [(turns, False)]
    for number in answers:
        requests += [(turns[:number], True), (turns[: number + 1], False)]
    try:
        whole, *parts = template.render(requests)
    except RenderError as error:
        raise DataError(f"{what}: the chat template does not take its turns: {error}", kind="bad_record") from None
    learned = [messages[number].loss is not False for number in answers]
    if GENERATED[0] in whole:
        spans = [found.span(1) for found in _GENERATED.finditer(whole)]
        if len(spans) != len(answers):
            raise DataError(f"{what}: {len(answers)} answers, of which {len(spans)} are marked", kind="bad_record")
    else:
        spans = [_span(whole, *parts[place : place + 2], what) for place in range(0, len(parts), 2)]
        spans = [(start, start + _end(template, whole[start:stop])) for start, stop in spans]
    segments = list(_segments(whole, spans, learned, template))
    if isinstance(segments[-1], Text) and not segments[-1].loss and not segments[-1].text.strip():
        segments.pop()  # a line break after the last turn
    return tuple(_with_media(segments, media, what))


def _turn(message: Message, template: ModelTemplate, what: str) -> dict[str, Any]:
    """A message as templates take it; what people say spells no token."""
    parts = []
    for part in message.parts:
        if isinstance(part, Media):
            parts.append({"type": "image"} if template.pictures else {"type": "text", "text": MEDIUM})
            continue
        if not MARKS.isdisjoint(part):
            raise DataError(f"{what}: a text holds a code point that no text may hold", kind="bad_text")
        parts.append({"type": "text", "text": template.broken(part)})
    if template.typed:
        return {"role": message.role, "content": parts}
    return {"role": message.role, "content": "".join(part["text"] for part in parts)}


def _span(whole, before, after, what):
    if not (whole.startswith(before) and whole.startswith(after) and len(before) < len(after)):
        raise DataError(
            f"{what}: the chat template writes an answer otherwise when it is asked for, or when others follow it: "
            "take one that marks answers by {% generation %}, or one of the option template",
            kind="bad_record",
        )
    return len(before), len(after)


def _end(template, text):
    """Where the last control word of an answer ends, if nothing but white space follows it."""
    pieces = template.pieces(text)
    if len(pieces) > 1 and not pieces[-1][1] and not pieces[-1][0].strip():
        return len(text) - len(pieces[-1][0])
    return len(text)


def _segments(whole, spans, learned, template) -> Iterator[Text]:
    place = len(template.bos) if template.bos and whole.startswith(template.bos) else 0
    edges = [(place, False)]
    for (start, stop), learn in zip(spans, learned, strict=True):
        edges += [(start, learn), (stop, False)]
    stops = [start for start, _ in edges[1:]] + [len(whole)]
    for (start, learn), stop in zip(edges, stops, strict=True):
        for piece, control in template.pieces(whole[start:stop]):
            text = piece.strip("".join(GENERATED))
            if text:
                yield Text(text, loss=learn, control=control)


def _with_media(segments: Sequence[Text], media: Sequence[Media], what: str) -> list[Segment]:
    """Pictures in their places, and the words that people say whole again."""
    shown: list[Segment] = []
    waiting = list(media)
    for segment in segments:
        place = 0
        for found in _PICTURE.finditer(segment.text) if segment.control or MEDIUM in segment.text else ():
            _add(shown, segment, segment.text[place : found.start()])
            if not waiting:
                raise DataError(f"{what}: the chat template shows more pictures than there are", kind="bad_record")
            shown.append(waiting.pop(0))
            place = found.end()
        _add(shown, segment, segment.text[place:])
    if waiting:
        raise DataError(f"{what}: the chat template leaves {len(waiting)} pictures out", kind="bad_record")
    return shown


def _add(shown, segment, text):
    """Texts in a row that are not learned are one, so that a tokenizer sees words whole."""
    if not text:
        return
    text, last = mended(text), shown[-1] if shown else None
    if _joins(segment) and isinstance(last, Text) and _joins(last):
        shown[-1] = Text(last.text + text)
    else:
        shown.append(Text(text, loss=segment.loss, control=segment.control))


def _joins(text):
    return not text.loss and not text.control
