"""Conversations with the model of a folder in the layout of transformers, spelled by the folder's own chat template."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media
from mmjax.data.images import read_other
from mmjax.data.sources.conversation import Message, open_conversation
from mmjax.decoding.readers import Prepared
from mmjax.interop.processing.prompts import IN_FRONT, LISTED
from mmjax.interop.processing.settings import read_json
from mmjax.interop.reading import FolderPrompt, FolderReader
from mmjax.text.chat import Spelling
from mmjax.text.model_template import ModelTemplate, RenderError


def read_template(folder: str | Path, picture_words: Sequence[str] = ()) -> ModelTemplate | None:
    """The chat template of a folder; None if it has none.

    Raises:
      ConfigError: it has one that cannot be used.
    """
    folder = Path(folder)
    held = any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json"))
    if not held and not read_json(folder / "tokenizer_config.json").get("chat_template"):
        return None
    return ModelTemplate(str(folder), picture_words)


class FolderDialogue:
    """A model of a folder: by its chat template, or by `spelling` where it has none, or where that is given.

    Words of users that spell special tokens are these tokens, as in transformers.
    """

    def __init__(self, reader: FolderReader, folder: str | Path, *, spelling: Spelling | None = None):
        self.reader = reader
        self._tokenizer, self._processor = reader.tokenizer, reader.processor
        words = () if reader.processor is None else (reader.processor.placeholder, reader.processor.image_token)
        self._template = None if spelling is not None else read_template(folder, words)
        self._spelling = spelling or Spelling()

    @property
    def has_template(self) -> bool:
        """Whether the folder says how turns are spelled."""
        return self._template is not None

    def prepare(self, messages: Sequence[Message]) -> Prepared:
        """See `Dialogue`."""
        parts = [part for message in messages for part in message.parts]
        pictures = tuple(_picture(part) for part in parts if isinstance(part, Media))
        if pictures and self._processor is None:
            raise InputError("this model reads no pictures: its folder has no processor")
        if self._template is None:
            return self.reader.prepare(self._by_spelling(messages, pictures))
        try:
            [text] = self._template.render([([self._turn(message) for message in messages], True)])
        except RenderError as error:
            raise InputError(f"the model's chat template does not take this conversation: {error}") from None
        begin = self._tokenizer.named.get("bos_token")
        # The tokenizer puts it there itself.
        if begin and text.startswith(begin) and self._tokenizer.encode("")[:1] == [self._tokenizer.id_of(begin)]:
            text = text[len(begin) :]
        return self.reader.prepare(FolderPrompt(text, pictures))

    def open_picture(self, source: str | os.PathLike | bytes) -> Media:
        """At the size that its file has."""
        try:
            return Media((read_other(source).pixels,))
        except DataError as error:
            raise InputError(str(error)) from None

    def said(self, text: str) -> str:
        """See `Dialogue`."""
        return text.removeprefix(self._spelling.answer)

    def _turn(self, message):
        """A message as the template takes it."""
        parts = []
        for part in message.parts:
            if isinstance(part, Media) and self._template.pictures:
                parts.append({"type": "image"})
            else:
                parts.append({"type": "text", "text": part if isinstance(part, str) else self._placeholder()})
        content = parts if self._template.typed else "".join(part["text"] for part in parts)
        return {"role": message.role, "content": content}

    def _placeholder(self):
        """What stands for a picture in a text; nothing, where pictures stand before it whatever it says."""
        return "" if self._processor.name in IN_FRONT else self._processor.placeholder

    def _by_spelling(self, messages, pictures) -> FolderPrompt:
        end = self._tokenizer.named.get("eos_token", "")
        items: list[Any] = []
        for segment in open_conversation(messages, self._spelling):
            if isinstance(segment, Media):
                items.append(_picture(segment))
            else:
                items.append(segment.text + (end if segment.end_of_chunk else ""))
        if self._processor is not None and self._processor.name in LISTED:
            return FolderPrompt(items)
        return FolderPrompt("".join(item if isinstance(item, str) else self._placeholder() for item in items), pictures)


def _picture(media: Media) -> Image.Image:
    return Image.fromarray(np.asarray(media.load()[0]))
