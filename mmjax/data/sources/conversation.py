"""Conversations: turns of a user and an assistant with pictures in them, and how they are spelled."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mmjax.core.errors import DataError
from mmjax.core.example import Media, Segment, Text
from mmjax.data.sources.options import ConversationOptions
from mmjax.data.sources.pictures import Pictures
from mmjax.data.sources.reader import usable_text, valid_text
from mmjax.data.sources.videos import Videos
from mmjax.text.chat import SPELLINGS, Spelling

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}


@dataclasses.dataclass(frozen=True)
class Message:
    """A turn: texts and pictures in order. `loss` None: learned if the assistant says it."""

    role: str
    parts: tuple[str | Media, ...]
    loss: bool | None = None


def conversation_segments(messages: Sequence[Message], options: ConversationOptions, what: str) -> tuple[Segment, ...]:
    """The turns as the template spells them; the loss is on the answers and on the token that ends each.

    Raises:
      DataError: of kind "bad_record" where the assistant says nothing or two answers follow each other.
    """
    spelling = SPELLINGS[options.template]
    first, messages = _ordered(messages, what)
    answers = [number for number, message in enumerate(messages) if message.role == "assistant"]
    if not answers or answers[0] == 0:
        raise DataError(f"{what} has no answer to a user", kind="bad_record")
    turns = messages[: answers[-1] + 1]
    return _joined(_spelled(first, turns, spelling, options.system, options.end_of_chunk, what, last=answers[-1]))


def open_conversation(
    messages: Sequence[Message], spelling: Spelling, *, system: str | None = None
) -> tuple[Segment, ...]:
    """The turns up to where the assistant is to answer; what it says next begins with `spelling.answer`.

    system: replaces the words that the spelling has for it.

    Raises:
      DataError: of kind "bad_record" where turns are out of order, or the last one is not a user's.
    """
    first, turns = _ordered(messages, "the conversation")
    if not turns or turns[-1].role != "user":
        raise DataError("the conversation does not end with what a user says", kind="bad_record")
    return _joined([*_spelled(first, turns, spelling, system, True, None, last=None), *spelling.assistant])


def _ordered(messages, what):
    """The system's message, if there is one, and the others."""
    first = messages[0] if messages and messages[0].role == "system" else None
    messages = messages[1:] if first else messages
    for number, message in enumerate(messages):
        again = message.role == "assistant" and number and messages[number - 1].role == "assistant"
        if message.role == "system" or again:
            raise DataError(f"{what}: turn {number + 1} is out of order ({message.role})", kind="bad_record")
    return first, messages


def _spelled(first, turns, spelling: Spelling, system, end_of_chunk, what, *, last):
    """what: whose answers are looked at before they are learned; None: they stay as they are. last: number of the
    answer that ends the text, if one does."""
    segments = _system(first, system, spelling)
    begun: list[Segment] = []
    if spelling.system_in_user:
        segments, begun = [], segments
    for number, message in enumerate(turns):
        if message.role == "user":
            segments += _user(message, spelling, begun)
            begun = []
            continue
        segments += spelling.assistant
        said = "".join(part for part in message.parts if isinstance(part, str))
        learned = True if message.loss is None else message.loss
        ends = end_of_chunk and number != last and not spelling.end
        said = said if what is None else usable_text(said, what)
        segments.append(Text(spelling.answer + said, loss=learned, end_of_chunk=ends))
        segments += [dataclasses.replace(word, loss=learned) for word in spelling.end]
        segments += () if number == last else spelling.between
    return segments


class Shown:
    """The media of one record: those it names, which its texts take in order, and those that its texts name."""

    def __init__(
        self,
        makers: Mapping[str, Pictures],
        named: Mapping[str, Sequence[Any]],
        markers: Mapping[str, str],
        what: str,
    ):
        """`makers` make media of what is named, `named` are those of the record, both by "image" and "video".

        `markers` are words that stand for the next medium in a text, and which of the two each stands for.
        """
        self._makers, self.markers, self._what = makers, markers, what
        self._waiting = {kind: [self.parts(kind, name) for name in named.get(kind, ())] for kind in makers}

    def parts(self, kind: str, name: Any) -> tuple[str | Media, ...]:
        """The parts of a message that a picture or a video becomes."""
        maker = self._makers[kind]
        medium = maker.media(name, self._what)
        return maker.parts(medium) if isinstance(maker, Videos) else (medium,)

    def next(self, kind: str) -> tuple[str | Media, ...]:
        """The parts of the next one that the record names. Raises DataError where there is none."""
        if not self._waiting[kind]:
            raise DataError(f"{self._what} speaks of more {kind}s than it names", kind="bad_record")
        return self._waiting[kind].pop(0)

    def left(self) -> tuple[str | Media, ...]:
        """The parts of all that no text has taken."""
        return tuple(part for waiting in self._waiting.values() for parts in waiting for part in parts)


def parts_of(content: Any, shown: Shown, what: str) -> tuple[str | Media, ...]:
    """The parts of a message: a text in which markers stand for the next medium, or a list of typed parts.

    Raises DataError for a content of another form, or a marker without a medium.
    """
    if isinstance(content, list):
        parts: list[str | Media] = []
        for item in content:
            kind = item.get("type") if isinstance(item, dict) else None
            if kind == "text" and isinstance(item.get("text"), str):
                parts.append(valid_text(item["text"], what))
            elif kind in ("image", "image_url", "video"):
                parts += _typed(item, shown)
            else:
                raise DataError(
                    f"{what}: a part of a message is of type text, image or video, not {kind!r}", kind="bad_record"
                )
        return tuple(parts)
    if not isinstance(content, str):
        raise DataError(f"{what}: a message of type {type(content).__name__}", kind="bad_record")
    parts = []
    for piece in re.split(f"({'|'.join(map(re.escape, shown.markers))})", valid_text(content, what)):
        parts += shown.next(shown.markers[piece]) if piece in shown.markers else (piece,)
    return tuple(part for part in parts if part != "")


def _typed(item, shown):
    """{"type": "image", "image": ...}, also under "path", "url" or "image_url"; without any, the next of the record."""
    kind = "video" if item["type"] == "video" else "image"
    keys = (kind, "path", "url", f"{kind}_url")
    named = next((item[key] for key in keys if item.get(key)), None)
    if isinstance(named, dict):
        named = named.get("url") or named
    return shown.next(kind) if named is None else shown.parts(kind, named)


def _system(message: Message | None, system: str | None, spelling: Spelling) -> list[Segment]:
    words = spelling.system if system is None else system
    if message:
        words = "".join(part for part in message.parts if isinstance(part, str))
    words = words.strip() if spelling.trimmed else words
    before, after = spelling.around_system
    if not before and (message or spelling.system_in_user):
        after = (Text(spelling.after_system),)
    return [*before, Text(words), *after] if words else []


def _user(message, spelling, begun):
    before, after = spelling.user
    parts = [part if isinstance(part, Media) else Text(part) for part in message.parts]
    if spelling.trimmed:
        parts = _trimmed(parts)
    said: list[Segment] = [*begun]
    for part in parts:
        if isinstance(part, Media):
            said.append(part)
        elif spelling.asked and part.text.strip():
            said.append(part if spelling.breaks else Text(part.text.strip("\n")))
    spoken = any(isinstance(part, Text) for part in said)
    return [*before, *said, *(after if spoken or before else ())]


def _trimmed(parts):
    """Without the white space that the message begins and ends with."""
    parts = list(parts)
    for place, strip in ((0, str.lstrip), (-1, str.rstrip)):
        if parts and isinstance(parts[place], Text):
            parts[place] = Text(strip(parts[place].text))
    return parts


def _joined(segments):
    """Texts in a row that are treated alike are one, so that a tokenizer sees words whole."""
    joined: list[Segment] = []
    for segment in segments:
        last = joined[-1] if joined else None
        if _plain(segment) and _plain(last):
            joined[-1] = Text(last.text + segment.text)
        else:
            joined.append(segment)
    return tuple(joined)


def _plain(segment):
    return isinstance(segment, Text) and not segment.loss and not segment.control
