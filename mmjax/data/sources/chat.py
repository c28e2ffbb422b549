"""`llava` and `chat`: files of conversations about pictures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from mmjax.core.errors import DataError
from mmjax.core.example import Segment
from mmjax.data.sources.conversation import ROLES, Message, Shown, conversation_segments, parts_of
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.lines import parse_json, read_span, scan_json
from mmjax.data.sources.options import ChatOptions, LlavaOptions
from mmjax.data.sources.reader import IndexedReader
from mmjax.data.sources.templated import templated_segments
from mmjax.data.sources.videos import Videos
from mmjax.text.model_template import open_template
from mmjax.text.tokenizer import PICTURE_WORDS


class Chat(IndexedReader):
    """A conversation a record; see the options of the kind for its fields."""

    _LISTS = (("messages", "role", "content"), ("conversations", "from", "value"))

    def __init__(self, options: ChatOptions | LlavaOptions, **settings):
        super().__init__(options, **settings)
        self._index = FileIndex(self._paths, scan_json, cache=self.cache, version="json 1")
        beside = os.path.dirname(self._paths[0]) or "."
        places = {"images": options.images, "beside": beside, "cache": self.cache}
        self._makers = {
            "image": self._pictures(options.images),
            "video": Videos(options, self._image_size, sampling=options.video, **places),
        }
        self._template = open_template(options.chat_template, PICTURE_WORDS) if options.chat_template else None

    @property
    def files_key(self) -> str:
        return f"{super().files_key} {self._template.fingerprint if self._template else ''}"

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, span, what = self._located(index)
        record = parse_json(read_span(path, span), what)
        named = {kind: _listed(record, kind) for kind in self._makers}
        shown = Shown(self._makers, named, self._markers(named), what)
        messages = [self._message(*turn, shown, what) for turn in self._turns(record, what)]
        left = shown.left()
        if left:  # named, but marked in no text: they come before the first words of the user
            messages = _shown_first(messages, left)
        if self._template:
            return templated_segments(messages, self._template, self._options.system, what)
        return conversation_segments(messages, self._options, what)

    def _markers(self, named: Mapping[str, list[Any]]) -> dict[str, str]:
        """What stands for a picture or a video in the texts of a record that names such media."""
        markers = {self._options.marker: "image"}
        return markers | ({self._options.video_marker: "video"} if named["video"] else {})

    def _turns(self, record, what):
        for name, role, content in self._LISTS:
            turns = record.get(name)
            if isinstance(turns, list) and turns:
                if not all(isinstance(turn, dict) for turn in turns):
                    break
                return [(turn.get(role), turn.get(content), turn.get("loss")) for turn in turns]
        raise DataError(f"{what} has no list of {' or '.join(name for name, *_ in self._LISTS)}", kind="bad_record")

    def _message(self, role: Any, content: Any, loss: Any, shown: Shown, what: str) -> Message:
        if not isinstance(role, str) or role not in ROLES:
            raise DataError(f"{what}: {str(role)[:50]!r} is not a role ({', '.join(ROLES)})", kind="bad_record")
        if loss is not None and not isinstance(loss, bool):
            raise DataError(f"{what}: loss must be true or false", kind="bad_record")
        return Message(ROLES[role], parts_of(content, shown, what), loss)


class Llava(Chat):
    """Records of `image` and `conversations`. A single picture stands before the words, with a line break between."""

    _LISTS = (("conversations", "from", "value"),)

    def _markers(self, named):
        alone = named["video"] and not named["image"]
        return super()._markers(named) | ({self._options.marker: "video"} if alone else {})

    def _message(self, role, content, loss, shown, what):
        markers = [marker for marker in shown.markers if isinstance(content, str) and marker in content]
        if len(markers) == 1 and content.count(markers[0]) == 1:
            content = f"{markers[0]}\n{content.replace(markers[0], '').strip()}"
        return super()._message(role, content, loss, shown, what)


def _listed(record, kind):
    named = record.get(f"{kind}s") or record.get(kind) or []
    return named if isinstance(named, list) else [named]


def _shown_first(messages, left):
    for number, message in enumerate(messages):
        if message.role == "user":
            shown = Message("user", (*left, *message.parts), message.loss)
            return [*messages[:number], shown, *messages[number + 1 :]]
    return messages
