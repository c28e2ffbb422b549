"""Questions of several options: MMBench by circular evaluation, and MMMU, which has open questions too.

Layouts: MMBench (Liu et al. 2023), one table mmbench_dev_*.tsv or MMBench_DEV_*.tsv: index, question, hint, A to D,
answer, category, l2-category, image (a JPEG in base64; in VLMEvalKit's files repeated rows hold the index of the row
that has it). MMMU (Yue et al. 2024), folders of subjects with Parquet files validation-*.parquet and dev-*.parquet, or
validation.json and dev.json, whose pictures are paths; the options are a list in Python's spelling.
"""

from __future__ import annotations

import ast
import base64
import binascii
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.core.errors import DataError, InputError
from mmjax.core.example import Media
from mmjax.data.sources.columns import parquet_table
from mmjax.evaluation.benchmark import Answer, Benchmark, Item, Split, Template
from mmjax.evaluation.benchmarks.official import (
    WholePicture,
    no_training,
    official_file,
    picture,
    scorer,
    write_json,
)
from mmjax.evaluation.metrics.choice_tasks import mmmu_right, mmmu_scores, read_mmbench, score_mmbench
from mmjax.evaluation.metrics.choices import LETTERS, ROTATION, mmmu_choice, options_of
from mmjax.evaluation.metrics.records import read_json, read_records, text_field

_MMBENCH = ("mmbench_dev_*.tsv", "MMBench_DEV_*.tsv", "mmbench.tsv")
_LONGEST_REFERENCE = 64  # characters; a longer field is a picture
_PICTURES = tuple(f"image_{number}" for number in range(1, 8))


def read_mmbench_items(folder: Path) -> list[Item]:
    """Every question once for each rotation of its options, one after the other.

    Raises:
      InputError: there is no such table, it has no labels, or a row has no picture.
    """
    path = official_file(folder, *_MMBENCH)
    rows = read_mmbench(path)
    pictures = {str(row["index"]): row["image"] for row in rows if len(row.get("image") or "") > _LONGEST_REFERENCE}
    items = []
    for row in rows:
        key, held = str(row["index"]), row.get("image") or ""
        place = key if len(held) > _LONGEST_REFERENCE else held or str(int(key) % ROTATION)
        if place not in pictures:
            raise InputError(f"{path}: the row {key} has no picture")
        media = Media((WholePicture(functools.partial(_decoded, pictures[place]), f"row {key} of {path.name}"),))
        options = options_of(row)
        fields = {
            "question": row["question"].strip(),
            "hint": f"{row['hint'].strip()}\n" if (row.get("hint") or "").strip() not in ("", "nan") else "",
            "options": "\n".join(f"{letter}. {words}" for letter, words in options.items()),
        }
        items.append(Item(key, (media,), fields, (row["answer"],), tuple(options), row.get("category") or ""))
    return items


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise DataError(f"a picture that is not base64: {error}", kind="corrupt") from None


def write_mmbench(answers: Sequence[Answer], path: Path) -> None:
    """[{index, prediction}], as the model answered."""
    write_json([{"index": int(one.item.id), "prediction": one.answer} for one in answers], path)


def read_mmmu(folder: Path, split: Split) -> list[Item]:
    """MMMU's validation set with all its pictures before the question; for demonstrations the set "dev".

    Raises:
      InputError: there are no such files, or they are of another layout.
    """
    items = []
    for path, row, pictures in _mmmu_rows(folder, {"test": "validation", "train": "dev"}[split]):
        key, kind = text_field(row, ["id"], path), text_field(row, ["question_type"], path)
        options = dict(zip(LETTERS, _spelled_list(row.get("options"), key, path), strict=False))
        answers = _spelled_answers(text_field(row, ["answer"], path))
        choice = kind == "multiple-choice"
        if choice and (not options or answers[0] not in options):
            raise InputError(f"{path}: {key} needs options and the letter of the right one, not {answers[0]!r}")
        fields = {
            "question": text_field(row, ["question"], path).strip(),
            "options": "".join(f"({letter}) {words}\n" for letter, words in options.items()) if choice else "",
        }
        subject = "_".join(key.split("_")[1:-1])
        record = {"question_type": kind, "options": options}
        items.append(Item(key, pictures, fields, answers, tuple(options) if choice else (), subject, record))
    return items


def _mmmu_rows(folder: Path, part: str) -> Iterator[tuple[Path, dict[str, Any], tuple[Media, ...]]]:
    """The records of all subjects, with their pictures."""
    found = sorted([*folder.glob(f"*/{part}-*.parquet"), *folder.glob(f"*/{part}.json")])
    if not found:
        raise InputError(f"{folder} must hold SUBJECT/{part}-*.parquet (or SUBJECT/{part}.json), such as Accounting/")
    for path in found:
        if path.suffix == ".json":
            for row in read_records(path):
                names = [row[name] for name in _PICTURES if row.get(name)]
                places = [[f"{path.parent.name}/{name}", str(name)] for name in names]
                yield path, row, tuple(picture(folder, where, f"{row.get('id')} of {path}") for where in places)
            continue
        table = parquet_table(str(path))
        held = [name for name in _PICTURES if name in table.column_names]
        for number, row in enumerate(table.drop_columns(held).to_pylist()):
            what = f"{row.get('id')} of {path}"
            there = [name for name in held if table[name][number].is_valid]
            yield (
                path,
                row,
                tuple(Media((WholePicture(functools.partial(_cell, table, name, number), what),)) for name in there),
            )


def _cell(table: Any, name: str, number: int) -> bytes:
    held = table[name][number].as_py()
    data = held.get("bytes") if isinstance(held, dict) else held
    if not isinstance(data, bytes):
        raise DataError(f"{name} holds no picture", kind="missing")
    return data


def _spelled_list(value: Any, key: str, path: Path) -> list[str]:
    """A list, or one in Python's spelling."""
    try:
        value = ast.literal_eval(value) if isinstance(value, str) else value or []
    except (ValueError, SyntaxError):
        value = None
    if not isinstance(value, list):
        raise InputError(f"{path}: the options of {key} must be a list")
    return [str(one) for one in value]


def _spelled_answers(text: str) -> tuple[str, ...]:
    """Several right answers are a list in Python's spelling."""
    if text.startswith("["):
        try:
            return tuple(str(one) for one in ast.literal_eval(text)) or (text,)
        except (ValueError, SyntaxError, TypeError):
            pass
    return (text,)


def _mmmu_answer(answer: Answer) -> str:
    """What is scored: the letter that a multiple choice means, or the text of an open answer."""
    record = answer.item.record
    if record["question_type"] != "multiple-choice":
        return answer.answer
    return mmmu_choice(answer.answer, record["options"], id=answer.item.id)


def write_mmmu(answers: Sequence[Answer], path: Path) -> None:
    """MMMU's {id: answer}, of multiple choice the letter."""
    write_json({one.item.id: _mmmu_answer(one) for one in answers}, path)


def score_mmmu_file(results: Path, folder: Path) -> Mapping[str, float | None]:
    """Accuracy of all, of disciplines and of subjects.

    Raises:
      InputError: files that are not there or of another layout, or answers to unknown questions.
    """
    right = {item.id: (item.record["question_type"], item.answers) for item in read_mmmu(folder, "test")}
    return mmmu_scores(read_json(results), right, subset=True).scores


def _mmmu_one(answer: Answer) -> float:
    return float(mmmu_right(_mmmu_answer(answer), answer.item.record["question_type"], answer.item.answers))


CHOICES = (
    Benchmark(
        "mmbench",
        no_training(read_mmbench_items, "mmbench"),
        "mmbench_dev_*.tsv or MMBench_DEV_*.tsv, with labels",
        (
            Template("{image}{hint}Question: {question}\nOptions:\n{options}\nAnswer with the letter of the option:"),
            Template("{image}{hint}{question}\n{options}\nThe right option is"),
        ),
        "generate",
        write_mmbench,
        scorer(score_mmbench, *_MMBENCH),
        main_score="accuracy",
        scale=100.0,
        max_tokens=16,
    ),
    Benchmark(
        "mmmu",
        read_mmmu,
        "SUBJECT/validation-*.parquet (or validation.json); for shots dev-*.parquet",
        (
            Template("{image}{question}\n{options}Answer with the letter of the option, or with a word or number:"),
            Template("{image}Question: {question}\n{options}Answer:"),
        ),
        "generate",
        write_mmmu,
        score_mmmu_file,
        main_score="accuracy",
        score_one=_mmmu_one,
        scale=100.0,
        max_tokens=32,
    ),
)
