"""The turns of a conversation as the prompt of a model: who talks to it need not know how it spells them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

from mmjax.core.example import Media
from mmjax.data.sources.conversation import Message, open_conversation
from mmjax.decoding.prompt import Prompt, open_picture
from mmjax.decoding.readers import Prepared, Reader, RunReader
from mmjax.text.chat import Spelling


class Dialogue(Protocol):
    """A model that answers.."""

    reader: Reader

    def prepare(self, messages: Sequence[Message]) -> Prepared:
        """All turns, the last of them the user's, up to where the model is to answer.

        Raises:
          InputError: the model cannot read them.
        """

    def open_picture(self, source: str | os.PathLike | bytes) -> Media:
        """The picture of a file, as a part of a message. Raises InputError where it is none."""

    def said(self, text: str) -> str:
        """What was answered, without what every answer begins with."""


class RunDialogue:
    """A model that was trained here, whose turns are spelled as in its training; without words around them by default.

    Between answers stands the end of a chunk, where the spelling has no word for the end.
    """

    def __init__(self, reader: RunReader, *, picture_size: int, spelling: Spelling = Spelling()):  # noqa: B008 (frozen)
        self.reader, self._size, self._spelling = reader, picture_size, spelling

    def prepare(self, messages: Sequence[Message]) -> Prepared:
        """See `Dialogue`."""
        return self.reader.prepare(Prompt(open_conversation(messages, self._spelling)))

    def open_picture(self, source: str | os.PathLike | bytes) -> Media:
        """At the size that the model reads."""
        return open_picture(source, size=self._size)

    def said(self, text: str) -> str:
        """See `Dialogue`."""
        return text.removeprefix(self._spelling.answer)
