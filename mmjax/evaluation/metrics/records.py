"""Reading files of predictions and references, and matching them by id; what is wrong is one error that names it."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmjax.core.errors import InputError

_NAMED = 5


def read_text(path: Path) -> str:
    """The text of a file in UTF-8.

    Raises:
      InputError: there is no such file, or it is no text.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}") from error


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
      InputError: there is no such file, or it is no JSON.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}") from error


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file: a JSON list of objects, one object a line (.jsonl), or CSV with a first line of names.

    Raises:
      InputError: there is no such file, it is none of these, or it has no records.
    """
    text = read_text(path)
    if path.suffix == ".csv":
        rows = list(csv.DictReader(text.splitlines()))
    else:
        rows = _json_lines(path, text) if path.suffix == ".jsonl" or _is_lines(text) else read_json(path)
    if not isinstance(rows, list):
        raise InputError(f"{path} must be a list of records, not {_kind(rows)}")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise InputError(f"{path}: record {number} must be an object with names, not {_kind(row)}")
    if not rows:
        raise InputError(f"{path} has no records")
    return rows


def _is_lines(text: str) -> bool:
    """Whether it is one JSON object a line, whatever the file's name."""
    first, _, rest = text.lstrip().partition("\n")
    return first.startswith("{") and first.rstrip().endswith("}") and rest.lstrip().startswith("{")


def _json_lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise InputError(f"{path}: line {number} is not JSON: {error.msg}") from error
    return rows


def read_array(path: Path, dimensions: int) -> np.ndarray:
    """The numbers of a .npy file, which may hold no pickled objects; JSON lists and .txt with a number a line as well.

    Raises:
      InputError: there is no such file, it holds no numbers, or has not `dimensions` axes.
    """
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        elif path.suffix == ".txt":
            values = np.array([float(word) for word in read_text(path).split()])
        else:
            values = np.array(read_json(path))
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{path} is not an array of numbers: {error}") from error
    if not isinstance(values, np.ndarray):
        raise InputError(f"{path} holds several arrays; give one, as numpy.save writes it")
    if not np.issubdtype(values.dtype, np.number) or values.ndim != dimensions:
        raise InputError(
            f"{path} must hold numbers along {dimensions} axes, not {values.dtype} of shape {values.shape}"
        )
    return values


def read_indices(path: Path) -> np.ndarray:
    """Whole numbers from 0, by `read_array`.

    Raises:
      InputError: as `read_array`, or one of them is not a whole number.
    """
    values = read_array(path, 1)
    whole = values.astype(np.int64)
    if not np.array_equal(whole, values):
        raise InputError(f"{path} must hold whole numbers")
    return whole


def field(record: Mapping[str, Any], names: Sequence[str], path: Path) -> Any:
    """The value of the first of `names` that the record has.

    Raises:
      InputError: it has none of them, or is no record.
    """
    if not isinstance(record, Mapping):
        raise InputError(f"{path}: a record with {' or '.join(names)} is expected, not {_kind(record)}")
    for name in names:
        if record.get(name) is not None:
            return record[name]
    raise InputError(f"{path}: a record has no {' or '.join(names)}: {_brief(record)}")


def text_field(record: Mapping[str, Any], names: Sequence[str], path: Path) -> str:
    """As `field`, of a text.

    Raises:
      InputError: it has none of them, or another kind of value.
    """
    value = field(record, names, path)
    if not isinstance(value, str):
        raise InputError(f"{path}: {names[0]} must be text, not {_kind(value)}: {_brief(record)}")
    return value


def by_id(pairs: Iterable[tuple[Any, Any]], path: Path) -> dict[str, Any]:
    """Values by their ids; an id is its text, so that 7 and "7" are one.

    Raises:
      InputError: an id occurs more than once.
    """
    listed = [(str(key), value) for key, value in pairs]
    repeated = [key for key, count in Counter(key for key, _ in listed).items() if count > 1]
    if repeated:
        raise InputError(f"{path}: {_counted(repeated, 'id')} more than once: {_names(repeated)}")
    return dict(listed)


class Pair(NamedTuple):
    """A prediction and the reference of the same id."""

    id: str
    prediction: Any
    reference: Any


def pair(predictions: Mapping[str, Any], references: Mapping[str, Any], *, subset: bool = False) -> list[Pair]:
    """Each reference with its prediction, in the order of the references.

    Args:
      subset: references without a prediction are left out; otherwise they are an error.

    Raises:
      InputError: predictions without a reference, references without a prediction, or nothing in both.
    """
    extra = [key for key in predictions if key not in references]
    missing = [] if subset else [key for key in references if key not in predictions]
    problems = []
    if extra:
        problems.append(f"{len(extra)} of {len(predictions)} predictions have no reference: {_names(extra)}")
    if missing:
        problems.append(f"{len(missing)} of {len(references)} references have no prediction: {_names(missing)}")
    if problems:
        hint = " (--subset scores only what is predicted)" if missing and not extra else ""
        raise InputError(f"{'; '.join(problems)}{hint}")
    pairs = [Pair(key, predictions[key], value) for key, value in references.items() if key in predictions]
    if not pairs:
        raise InputError("there is nothing to score: no reference has a prediction")
    return pairs


def _counted(items: Sequence, noun: str) -> str:
    return f"1 {noun} occurs" if len(items) == 1 else f"{len(items)} {noun}s occur"


def _names(keys: Sequence[str]) -> str:
    more = len(keys) - _NAMED
    return ", ".join(keys[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    return names.get(type(value), f"{value!r}")


def _brief(record: Mapping[str, Any]) -> str:
    text = json.dumps(record, ensure_ascii=False, default=str)
    return text if len(text) <= 100 else f"{text[:100]}..."
