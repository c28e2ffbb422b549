"""What benchmarks share: finding official files, pictures that are decoded when needed, and files of results."""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmjax.core.arrays import UInt8
from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media
from mmjax.data.images import open_jpeg, read_other
from mmjax.data.sources.files import inside
from mmjax.evaluation.benchmark import Answer, Item, Split
from mmjax.evaluation.metrics.layout import Inputs, Scores
from mmjax.evaluation.metrics.records import read_json


@dataclasses.dataclass(frozen=True)
class WholePicture:
    """A frame at its full size, decoded when it is called. `read` gives the file: its bytes or its path.

    Calling it raises DataError for a file that is not there, or is no picture; `what` names the record.
    """

    read: Callable[[], bytes | str]
    what: str

    def __call__(self) -> UInt8[np.ndarray, "h w 3"]:
        try:
            source = self.read()
            jpeg = open_jpeg(source)
            return (read_other(source) if jpeg is None else jpeg.decoded(jpeg.height, jpeg.width)).pixels
        except DataError as error:
            raise DataError(f"{self.what}: {error}", kind=error.kind) from None


def picture(folder: Path, names: Sequence[str], what: str) -> Media:
    """The picture of the first of these names that there is in the folder, looked for when it is needed."""
    return Media((WholePicture(functools.partial(_first_there, str(folder), tuple(names)), what),))


def held_picture(data: bytes, what: str) -> Media:
    """A picture whose file's bytes a record holds."""
    return Media((WholePicture(functools.partial(bytes, data), what),))


def _first_there(folder: str, names: tuple[str, ...]) -> str:
    for name in names[:-1]:
        try:
            return inside(folder, name)
        except DataError as error:
            if error.kind != "missing":
                raise
    return inside(folder, names[-1])


def official_file(folder: Path, *names: str) -> Path:
    """The first of these files that the folder has; a name may hold `*`, if it then means one file.

    Raises:
      InputError: there is none of them, or several are meant.
    """
    for name in names:
        found = sorted(folder.glob(name))
        if len(found) > 1:
            raise InputError(f"{folder} has several files {name}: {', '.join(path.name for path in found)}; leave one")
        if found:
            return found[0]
    raise InputError(f"{folder} must hold {' or '.join(names)}")


def listed(path: Path, member: str) -> list[dict[str, Any]]:
    """The records in a list of that name of an official file.

    Raises:
      InputError: there is no such file or list, or it holds something else.
    """
    whole = read_json(path)
    rows = whole.get(member) if isinstance(whole, dict) else None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{path} must have records in a list "{member}"')
    return rows


def number_field(value: Any, name: str, path: Path) -> int:
    """A whole number of a record, also as text.

    Raises:
      InputError: it is none.
    """
    try:
        return int(value)
    except (TypeError, ValueError):
        raise InputError(f"{path}: {name} must be a number, not {value!r}") from None


def no_training(read: Callable[[Path], list[Item]], name: str) -> Callable[[Path, Split], list[Item]]:
    """A reader of a benchmark that has no training data."""

    def read_split(folder: Path, split: Split) -> list[Item]:
        if split == "train":
            raise InputError(f"{name} has no training data to take demonstrations from: give 0 shots")
        return read(folder)

    return read_split


def by_frequency(answers: Sequence[str]) -> tuple[str, ...]:
    """The answers of people, those given most often first; of a tie the first. A demonstration shows the first."""
    counts = collections.Counter(answers)
    return tuple(sorted(answers, key=lambda answer: -counts[answer]))


def write_json(value: Any, path: Path) -> None:
    """Writes a file of results as JSON."""
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_lines(lines: Sequence[str], path: Path) -> None:
    """Writes a file of results, a text a line."""
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def record_writer(id_name: str, answer_name: str) -> Callable[[Sequence[Answer], Path], None]:
    """Writes results as a JSON list of objects of these two members.

    The id is what the item's record has by that name (a number stays one), else the item's own.
    """

    def write(answers: Sequence[Answer], path: Path) -> None:
        rows = [
            {id_name: answer.item.record.get(id_name, answer.item.id), answer_name: answer.answer} for answer in answers
        ]
        write_json(rows, path)

    return write


def scorer(
    score: Callable[[Inputs], Scores], *references: str, questions: str = ""
) -> Callable[[Path, Path], Mapping[str, float | None]]:
    """The official score of a file of results, by the first of these references that the folder has.

    What has no prediction is left out: an evaluation may ask a part of the questions.
    """

    def of_file(results: Path, folder: Path) -> Mapping[str, float | None]:
        asked = official_file(folder, questions) if questions else None
        return score(Inputs(results, official_file(folder, *references), asked, subset=True)).scores

    return of_file


def right_answer(answer: Answer) -> float:
    """1 if the answer is the first of the item's own, else 0."""
    return float(answer.answer == answer.item.answers[0])


def one_line(text: str) -> str:
    """A text on one line, with single spaces."""
    return " ".join(text.split())


def first_line(text: str) -> str:
    """The first line that holds anything, without a full stop at its end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].rstrip(".").strip() if lines else ""
