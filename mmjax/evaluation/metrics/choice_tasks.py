"""Tasks of several options, and of fast binding: MMBench, MMMU, VL-ICL and the tasks of Frozen."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmjax.core.errors import InputError
from mmjax.evaluation.metrics import choices
from mmjax.evaluation.metrics.layout import Inputs, Scores
from mmjax.evaluation.metrics.records import by_id, field, pair, read_json, read_records, read_text, text_field


def read_mmbench(path: Path) -> list[dict[str, Any]]:
    """The rows of MMBench's table (.tsv), with all rotations of the options.

    Raises:
      InputError: there is no such file, or it is no such table.
    """
    limit = csv.field_size_limit(sys.maxsize)  # a field holds a picture
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path), newline=""), delimiter="\t"))
    except csv.Error as error:
        raise InputError(f"{path} is not a table with tabulators: {error}") from None
    finally:
        csv.field_size_limit(limit)
    missing = [name for name in ("index", "question", "answer", "A", "B") if not rows or name not in rows[0]]
    if missing:
        raise InputError(f"{path} must be MMBench's table with labels; it has no column {', '.join(missing)}")
    for row in rows:
        if not (row["index"] or "").isdigit() or row["answer"] not in choices.options_of(row):
            raise InputError(f"{path}: the row {row['index']!r} must have an index, and an answer among its options")
    return choices.circular_rows(rows)


def score_mmbench(inputs: Inputs) -> Scores:
    """MMBench in percent: circular accuracy, that is of questions right in every rotation of their options.

    vanilla_accuracy is of the options as they stand first. For each part of `l2-category` (else `category`) its own
    circular accuracy. With `subset`, questions of which a rotation has no prediction are left out.

    Raises:
      InputError: files of another layout, or ids that do not match.
    """
    path = inputs.reference_file()
    rows = {str(row["index"]): row for row in read_mmbench(path)}
    given = by_id(
        (
            (field(row, ["index"], inputs.predictions), text_field(row, ["prediction"], inputs.predictions))
            for row in read_records(inputs.predictions)
        ),
        inputs.predictions,
    )
    questions: dict[int, list[bool]] = defaultdict(list)
    for found in pair(given, rows, subset=inputs.subset):
        letter = choices.mmbench_choice(found.prediction, choices.options_of(found.reference))
        questions[int(found.id) % choices.ROTATION].append(letter == found.reference["answer"])
    turns: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for key, row in rows.items():
        turns[int(key) % choices.ROTATION].append(row)
    whole = {number: right for number, right in questions.items() if len(right) == len(turns[number])}
    if not whole:
        raise InputError(f"{inputs.predictions} has no question with all rotations of its options")
    shares = defaultdict(list)
    for number, right in whole.items():
        shares["accuracy"].append(all(right))
        shares["vanilla_accuracy"].append(right[0])
        part = turns[number][0].get("l2-category") or turns[number][0].get("category")
        if part:
            shares[f"accuracy_{part}"].append(all(right))
    return Scores({name: 100 * sum(right) / len(right) for name, right in shares.items()}, len(whole))


# The disciplines of MMMU and their subjects.
MMMU_SUBJECTS = {
    "Art_and_Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health_and_Medicine": (
        "Basic_Medical_Science",
        "Clinical_Medicine",
        "Diagnostics_and_Laboratory_Medicine",
        "Pharmacy",
        "Public_Health",
    ),
    "Humanities_and_Social_Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech_and_Engineering": (
        "Agriculture",
        "Architecture_and_Engineering",
        "Computer_Science",
        "Electronics",
        "Energy_and_Power",
        "Materials",
        "Mechanical_Engineering",
    ),
}


def score_mmmu(inputs: Inputs) -> Scores:
    """MMMU in percent: accuracy over all questions, of each discipline, and of each subject that is there.

    Predictions are {id: answer}: of multiple choice a letter, of an open question any text. References are the official
    {id: {question_type, ground_truth}}.

    Raises:
      InputError: files of another layout, or ids that do not match.
    """
    path = inputs.reference_file()
    known = read_json(path)
    if not isinstance(known, dict):
        raise InputError(f"{path} must be {{id: {{question_type, ground_truth}}}}")
    right = {key: (text_field(row, ["question_type"], path), _right(row, path)) for key, row in known.items()}
    given = read_json(inputs.predictions)
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise InputError(f"{inputs.predictions} must be {{id: answer}}")
    return mmmu_scores(given, right, subset=inputs.subset)


def mmmu_scores(
    given: Mapping[str, str], right: Mapping[str, tuple[str, tuple[str, ...]]], *, subset: bool = False
) -> Scores:
    """As `score_mmmu`, of answers by id and of (kind of question, right answers) by id.

    Raises:
      InputError: ids that do not match.
    """
    pairs = pair(given, right, subset=subset)
    shares = defaultdict(list)
    for found in pairs:
        kind, answers = found.reference
        correct = mmmu_right(found.prediction, kind, answers)
        subject = "_".join(found.id.split("_")[1:-1])
        shares["accuracy"].append(correct)
        shares[subject].append(correct)
        for discipline, subjects in MMMU_SUBJECTS.items():
            if subject in subjects:
                shares[discipline].append(correct)
    order = ["accuracy", *MMMU_SUBJECTS, *sorted(set(shares) - set(MMMU_SUBJECTS) - {"accuracy"})]
    return Scores({name: 100 * sum(shares[name]) / len(shares[name]) for name in order if name in shares}, len(pairs))


def mmmu_right(answer: str, kind: str, answers: tuple[str, ...]) -> bool:
    """Whether MMMU takes an answer for right: the letter of a multiple choice, or what an open answer says."""
    if kind == "multiple-choice":
        return answer in answers
    return choices.mmmu_open_match(choices.mmmu_open(answer), answers)


def _right(row: Any, path: Path) -> tuple[str, ...]:
    truth = field(row, ["ground_truth"], path)
    return tuple(map(str, truth)) if isinstance(truth, list) else (str(truth),)


def score_binding(inputs: Inputs) -> Scores:
    """Accuracy in percent of answers that must be exact but for capitals, as VL-ICL computes it (Zong et al. 2024).

    An answer counts up to the first line break, else up to the first full stop.

    Raises:
      InputError: a file of another layout.
    """
    return _binding(inputs, binding_right)


def score_operator(inputs: Inputs) -> Scores:
    """As `score_binding`, of the first number in each answer: VL-ICL's induction of operators.

    Raises:
      InputError: a file of another layout.
    """
    return _binding(inputs, operator_right)


def score_matching(inputs: Inputs) -> Scores:
    """As `score_binding`, of answers that say yes or do not: VL-ICL's matching.

    Raises:
      InputError: a file of another layout.
    """
    return _binding(inputs, matching_right)


def binding_right(answer: str, right: str) -> bool:
    """Whether an answer is the right one but for capitals."""
    return _cut(answer).lower() == right.lower()


def operator_right(answer: str, right: str) -> bool:
    """Whether the first number of an answer is the right one."""
    found = re.search(r"\d+", _cut(answer))
    return found is not None and found[0] == right


def matching_right(answer: str, right: str) -> bool:
    """Whether an answer says yes where that is right, and does not where it is not."""
    return ("yes" in _cut(answer).lower()) == (right.lower() == "yes")


def _cut(answer: str) -> str:
    answer = answer.strip()
    place = answer.find("\n")
    if place <= 0:
        place = answer.find(".")
    return answer[:place] if place > 0 else answer


def _binding(inputs, right):
    rows = read_records(inputs.predictions)
    path = inputs.predictions
    shares = [right(text_field(row, ["prediction"], path), str(field(row, ["answer"], path))) for row in rows]
    return Scores({"accuracy": 100 * sum(shares) / len(shares)}, len(shares))
