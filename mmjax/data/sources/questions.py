"""`vqa`, `textvqa` and `nlvr2`: questions about pictures, in the files that the benchmarks are given in."""

from __future__ import annotations

import collections
import os
import re
from collections.abc import Sequence
from typing import Any

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Segment, Text
from mmjax.data.sources.benchmarks import Nlvr2Options, QuestionOptions, TextVqaOptions, VqaOptions
from mmjax.data.sources.captions import first_there
from mmjax.data.sources.files import find_files
from mmjax.data.sources.index import FileIndex
from mmjax.data.sources.lines import parse_json, read_span, scan_json
from mmjax.data.sources.listed import KeyedList
from mmjax.data.sources.reader import FileReader, IndexedReader, usable_text

_SPLIT = re.compile(r"(?:train|val|test)\d*")


def question_segments(shown: Sequence[Segment], options: QuestionOptions, **values: str) -> tuple[Segment, ...]:
    """What is shown, the question as the template spells it, and the answer, which is learned.

    `values` are the texts that stand for {question}, {answer} and whatever else the templates may hold.
    """
    asked, answered = fill(options.question, values), fill(options.answer, values)
    return (*shown, Text(asked), Text(answered, loss=True, end_of_chunk=options.end_of_chunk))


def fill(template: str, values: dict[str, str]) -> str:
    """A template with its {names} replaced; braces within the values mean nothing."""
    return re.sub(r"\{(\w+)\}", lambda found: values.get(found[1], found[0]), template)


def most_frequent(answers: Any, what: str) -> str:
    """The answer that is given most often, the first of those. Each is a text, or {"answer": text}.

    Raises:
      DataError: of kind "bad_record" for something else, "empty_text" where there is none.
    """
    if not isinstance(answers, list):
        raise DataError(f"{what} has no list of answers", kind="bad_record")
    texts = [answer.get("answer") if isinstance(answer, dict) else answer for answer in answers]
    said = collections.Counter(text.strip() for text in texts if isinstance(text, str) and text.strip())
    if not said:
        raise DataError(f"{what} has no answer", kind="empty_text")
    return usable_text(said.most_common(1)[0][0], what)


class Vqa(FileReader):
    """An item of `questions`, and the item of `annotations` of the same `question_id`."""

    def __init__(self, options: VqaOptions, **settings):
        super().__init__(options, **settings)
        for path in self._paths if "{split" in options.picture else ():
            split_of(path)
        self._questions = KeyedList(self._paths, "questions", "question_id", cache=self.cache)
        self._answers = KeyedList(find_files(options.annotations), "annotations", "question_id", cache=self.cache)
        self._images = self._pictures(options.images)

    @property
    def files_key(self) -> str:
        return f"{self._questions.key} {self._answers.key}"

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def indices(self) -> tuple[FileIndex, ...]:
        return self._questions.index, self._answers.index

    def file_of(self, index: int) -> str:
        return self._questions.file_of(index)

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, asked = self._questions[index]
        what = f"{self._what(index)} in {path}"
        question = usable_text(asked.get("question"), what)
        answer = most_frequent(self._answers.find(asked.get("question_id"), what).get("answers"), what)
        media = self._images.media(self._name(path, asked.get("image_id"), what), what)
        return question_segments([media], self._options, question=question, answer=answer)

    def _name(self, path, number, what):
        template = self._options.picture
        try:
            return template.format(split=split_of(path) if "{split" in template else "", image_id=number)
        except (ValueError, TypeError) as error:
            raise DataError(f"{what}: image_id {str(number)[:50]!r}: {error}", kind="bad_record") from None


class TextVqa(FileReader):
    """An item of `data`; perhaps with the words of the item of the same `image_id` of the files of `ocr`."""

    def __init__(self, options: TextVqaOptions, **settings):
        super().__init__(options, **settings)
        self._questions = KeyedList(self._paths, "data", "question_id", cache=self.cache)
        self._words = KeyedList(find_files(options.ocr), "data", "image_id", cache=self.cache) if options.ocr else None
        self._images = self._pictures(options.images)

    @property
    def files_key(self) -> str:
        return f"{self._questions.key} {self._words.key if self._words else ''}"

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def indices(self) -> tuple[FileIndex, ...]:
        return (self._questions.index, *([self._words.index] if self._words else []))

    def file_of(self, index: int) -> str:
        return self._questions.file_of(index)

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, asked = self._questions[index]
        what = f"{self._what(index)} in {path}"
        name = asked.get("image_id")
        if not isinstance(name, str) or not name:
            raise DataError(f"{what} has no image_id", kind="missing")
        values = {
            "question": usable_text(asked.get("question"), what),
            "answer": most_frequent(asked.get("answers"), what),
        }
        if self._words:
            values["ocr"] = self._read_words(name, what)
        media = self._images.media(fill(self._options.picture, {"image_id": name}), what)
        return question_segments([media], self._options, **values)

    def _read_words(self, name, what):
        words = self._words.find(name, what).get("ocr_tokens")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise DataError(f"{what}: the words of {name[:50]} are not a list of texts", kind="bad_record")
        text = ", ".join(words[: self._options.max_ocr])
        return usable_text(text, what) if text.strip() else ""


class Nlvr2(IndexedReader):
    """A line: `sentence`, `label`, and pictures named by the `identifier` without its last part."""

    def __init__(self, options: Nlvr2Options, **settings):
        super().__init__(options, **settings)
        self._index = FileIndex(self._paths, scan_json, cache=self.cache, version="json 1")
        self._images = self._pictures(options.images)

    def segments(self, index: int) -> tuple[Segment, ...]:
        path, span, what = self._located(index)
        record = parse_json(read_span(path, span), what)
        sentence = usable_text(record.get("sentence"), what)
        label, name, folder = (record.get(key) for key in ("label", "identifier", "directory"))
        if str(label).lower() not in ("true", "false") or not isinstance(name, str) or "-" not in name:
            raise DataError(f"{what} needs an identifier, and a label True or False", kind="bad_record")
        stem = name.rpartition("-")[0]
        shown: list[Segment] = []
        for side in range(2):
            file = f"{stem}-img{side}.png"
            names = [file] if folder is None else [f"{folder}/{file}", file]
            shown.append(first_there(self._images, names, what))
            shown += [Text(self._options.after[side])] if self._options.after[side] else []
        word = self._options.words[str(label).lower() == "false"]
        return question_segments(shown, self._options, question=sentence, answer=word)


def split_of(path: str) -> str:
    """The part of a benchmark that a file has in its name: train2014, val2014, test2015, test-dev2015, train, ...

    Raises:
      InputError: a name without one.
    """
    found = _SPLIT.search(os.path.basename(path))
    if not found:
        raise InputError(
            f"{path} has no train2014, val2014, ... in its name: give the option picture without {{split}}"
        )
    return found[0]
