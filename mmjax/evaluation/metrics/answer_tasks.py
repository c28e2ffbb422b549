"""Answers to questions: VQAv2 and its kin, DocVQA, ChartQA, GQA, NLVR2, SNLI-VE, POPE and MME."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmjax.core.errors import InputError
from mmjax.evaluation.metrics import answers, rankings
from mmjax.evaluation.metrics.layout import Inputs, Scores
from mmjax.evaluation.metrics.records import Pair, by_id, field, pair, read_json, read_records, read_text, text_field

_QUESTION = ("question_id", "questionId")
_ANSWER = ("answer",)


def score_vqa(inputs: Inputs) -> Scores:
    """VQA accuracy of VQAv2 and OK-VQA in percent, of all and by type of answer, rounded to 0.01 as officially.

    Raises:
      InputError: files of another layout, ids that do not match, or questions other than the annotated ones.
    """
    path = inputs.reference_file()
    rows = by_id(((field(row, _QUESTION, path), row) for row in _listed(path, "annotations")), path)
    if inputs.questions is not None:
        asked = _listed(inputs.questions, "questions")
        asked_ids = by_id(((field(row, _QUESTION, inputs.questions), row) for row in asked), inputs.questions)
        other = sorted(set(asked_ids) ^ set(rows))
        if other:
            raise InputError(
                f"{inputs.questions} and {path} are not of the same questions: {len(other)} are in one alone, "
                f"{other[0]} for one"
            )
    pairs = pair(_predicted(inputs.predictions, _QUESTION, _ANSWER), rows, subset=inputs.subset)
    scored = [(_vqa_of_one(found, path), found.reference.get("answer_type")) for found in pairs]
    kinds = dict.fromkeys(kind for _, kind in scored if kind)
    by_kind = {f"accuracy_{kind.replace('/', '_')}": [value for value, own in scored if own == kind] for kind in kinds}
    shares = {"accuracy": [value for value, _ in scored], **by_kind}
    return Scores({name: _percent(values) for name, values in shares.items()}, len(pairs))


def _vqa_of_one(found: Pair, path: Path) -> float:
    return answers.vqa_accuracy(found.prediction, _people(found.reference, path))


def _people(row: dict[str, Any], path: Path) -> list[str]:
    """The answers that people gave: records, as in the official files, or bare texts."""
    given = field(row, ["answers"], path)
    return [one if isinstance(one, str) else text_field(one, _ANSWER, path) for one in given]


def score_textvqa(inputs: Inputs) -> Scores:
    """VQA accuracy as TextVQA's authors compute it, in percent.

    Raises:
      InputError: files of another layout, or ids that do not match.
    """
    return _mean_over_answers(inputs, answers.textvqa_accuracy, _percent, "accuracy")


def score_docvqa(inputs: Inputs) -> Scores:
    """ANLS with the threshold 0.5, from 0 to 1.

    Raises:
      InputError: files of another layout, or ids that do not match.
    """
    return _mean_over_answers(inputs, answers.anls, _mean, "ANLS")


def _mean_over_answers(
    inputs: Inputs,
    metric: Callable[[str, Sequence[str]], float],
    average: Callable[[Sequence[float]], float],
    name: str,
) -> Scores:
    path = inputs.reference_file()
    rows = _listed(path, "data")
    known = by_id(((field(row, _QUESTION, path), _texts(field(row, ["answers"], path), path)) for row in rows), path)
    pairs = pair(_predicted(inputs.predictions, _QUESTION, _ANSWER), known, subset=inputs.subset)
    return Scores({name: average([metric(found.prediction, found.reference) for found in pairs])}, len(pairs))


def score_vizwiz(inputs: Inputs) -> Scores:
    """VQA accuracy as VizWiz computes it, in percent; the pictures' names are the ids.

    Raises:
      InputError: files of another layout, or ids that do not match.
    """
    path = inputs.reference_file()
    known = by_id(((field(row, ["image"], path), _people(row, path)) for row in read_records(path)), path)
    pairs = pair(_predicted(inputs.predictions, ["image"], _ANSWER), known, subset=inputs.subset)
    shares = [answers.vizwiz_accuracy(found.prediction, found.reference) for found in pairs]
    return Scores({"accuracy": _percent(shares)}, len(pairs))


def score_chartqa(inputs: Inputs) -> Scores:
    """Relaxed accuracy in percent. Without question ids, picture and question together are one.

    The references may be the official folder of a split: then questions by people (test_human.json) and those by
    machine (test_augmented.json) are scored together and by themselves. What stands there twice counts once.

    Raises:
      InputError: files of another layout, or ids that do not match.
    """
    path = inputs.reference_file()
    parts = _chart_parts(path)
    known = {key: label for part in parts.values() for key, label in part.items()}
    rows = read_records(inputs.predictions)
    given = by_id(
        ((_chart_id(row, inputs.predictions), text_field(row, _ANSWER, inputs.predictions)) for row in rows),
        inputs.predictions,
    )
    pairs = pair(given, known, subset=inputs.subset)
    shares = {found.id: answers.relaxed_match(found.prediction, found.reference) for found in pairs}
    scores = {"relaxed_accuracy": _percent(list(shares.values()))}
    for name, part in parts.items():
        own = [shares[key] for key in part if key in shares]
        if name and own:
            scores[f"relaxed_accuracy_{name}"] = _percent(own)
    return Scores(scores, len(pairs))


def _chart_parts(path: Path) -> dict[str, dict[str, str]]:
    """The right answers by id, of each file of a folder; of a file alone under the name ""."""
    if not path.is_dir():
        return {"": by_id(_chart_labels(path), path)}
    parts: dict[str, dict[str, str]] = {}
    seen: set[str] = set()
    for name in ("human", "augmented"):
        labels = _chart_labels(path / f"{path.name}_{name}.json")
        parts[name] = {key: label for key, label in reversed(labels) if key not in seen}
        seen.update(parts[name])
    return parts


def _chart_labels(path: Path) -> list[tuple[str, str]]:
    return [(_chart_id(row, path), text_field(row, ["label", "answer"], path)) for row in read_records(path)]


def _chart_id(row: dict[str, Any], path: Path) -> str:
    if row.get("question_id") is not None:
        return str(row["question_id"])
    return f"{field(row, ['imgname'], path)}: {field(row, ['query'], path)}"


def score_gqa(inputs: Inputs) -> Scores:
    """Accuracy of the balanced questions in percent, of all, of yes-or-no and choices ("binary"), and of open ones.

    Raises:
      InputError: files of another layout, or ids that do not match.
    """
    path = inputs.reference_file()
    questions = read_json(path)
    if not isinstance(questions, dict) or not all(isinstance(row, dict) for row in questions.values()):
        raise InputError(f"{path} must be GQA's questions: {{question id: {{answer, ...}}}}")
    balanced = {key: row for key, row in questions.items() if row.get("isBalanced", True)}
    given = _predicted(inputs.predictions, ["questionId"], ["prediction"])
    # Answers to the questions that are not balanced may be there; they are not scored.
    given = {key: text for key, text in given.items() if key in balanced or key not in questions}
    pairs = pair(given, balanced, subset=inputs.subset)
    shares: dict[str, list[bool]] = defaultdict(list)
    for found in pairs:
        right = found.prediction == text_field(found.reference, _ANSWER, path)
        shares["accuracy"].append(right)
        kind = found.reference.get("types", {}).get("structural")
        if kind is not None:
            shares["open" if kind == "query" else "binary"].append(right)
    return Scores({name: 100 * _mean(values) for name, values in shares.items()}, len(pairs))


def score_nlvr2(inputs: Inputs) -> Scores:
    """Accuracy, and consistency: the share of sentences that are right for all their pictures; from 0 to 1.

    Raises:
      InputError: files of another layout, or ids that do not match.
    """
    path = inputs.reference_file()
    rows = read_records(path)
    known = by_id(((field(row, ["identifier"], path), text_field(row, ["label"], path)) for row in rows), path)
    pairs = pair(_nlvr2_predicted(inputs.predictions), known, subset=inputs.subset)
    right, sentences = [], defaultdict(list)
    for found in pairs:
        # An id is split-set-pair-sentence: its third part tells the pairs of pictures of one sentence apart.
        parts = found.id.split("-")
        right.append(found.prediction.lower() == found.reference.lower())
        sentences[*parts[:2], *parts[3:]].append(right[-1])
    consistent = [all(values) for values in sentences.values()]
    return Scores({"accuracy": _mean(right), "consistency": _mean(consistent)}, len(pairs))


def _nlvr2_predicted(path: Path) -> dict[str, str]:
    """Records, or the official lines "identifier,prediction" without a heading."""
    if path.suffix not in (".csv", ".txt"):
        return _predicted(path, ["identifier"], ["prediction"])
    lines = [line.strip().split(",") for line in read_text(path).splitlines() if line.strip()]
    wrong = [number for number, line in enumerate(lines, 1) if len(line) != 2]
    if wrong or not lines:
        where = f"line {wrong[0]} is not" if wrong else "there is none"
        raise InputError(f"{path} must have a line identifier,prediction for each sentence; {where}")
    return by_id(lines, path)


def score_snli_ve(inputs: Inputs) -> Scores:
    """Accuracy of SNLI-VE, from 0 to 1.

    Raises:
      InputError: files of another layout, or ids that do not match.
    """
    path = inputs.reference_file()
    rows = read_records(path)
    known = by_id(((field(row, ["pairID"], path), text_field(row, ["gold_label"], path)) for row in rows), path)
    given = _predicted(inputs.predictions, ["pairID"], ["prediction", "gold_label"])
    pairs = pair(given, known, subset=inputs.subset)
    return Scores({"accuracy": _mean([found.prediction == found.reference for found in pairs])}, len(pairs))


def score_pope(inputs: Inputs) -> Scores:
    """POPE's accuracy, precision, recall, F1 and share of yes, from 0 to 1.

    Answers without question ids are in the order of the labels, as in the official files.

    Raises:
      InputError: files of another layout, or ids or numbers of lines that do not match.
    """
    path = inputs.reference_file()
    labels, given = read_records(path), read_records(inputs.predictions)
    if any("question_id" in row for row in given):
        known = by_id(((field(row, _QUESTION, path), text_field(row, ["label"], path)) for row in labels), path)
        predicted = _predicted(inputs.predictions, _QUESTION, ("answer", "text"))
        pairs = [found[1:] for found in pair(predicted, known, subset=inputs.subset)]
    elif len(labels) == len(given):
        texts = (text_field(row, ("answer", "text"), inputs.predictions) for row in given)
        pairs = list(zip(texts, (text_field(row, ["label"], path) for row in labels), strict=True))
    else:
        raise InputError(f"{len(given)} answers without question_id cannot be matched with {len(labels)} labels")
    found = rankings.yes_no([rankings.says_yes(answer) for answer, _ in pairs], [label != "no" for _, label in pairs])
    reasons = {name: "nothing to divide by: no yes" for name, value in found._asdict().items() if value is None}
    return Scores(found._asdict(), len(pairs), reasons)


MME_CATEGORIES = {
    "perception": (
        *("existence", "count", "position", "color", "posters"),
        *("celebrity", "scene", "landmark", "artwork", "OCR"),
    ),
    "cognition": ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning"),
}


def score_mme(inputs: Inputs) -> Scores:
    """MME: for each category 100 x (accuracy + share of pictures with both questions right), and the sums of them.

    The predictions are the official folder: a file CATEGORY.txt each, with tab-separated lines of picture, question,
    right answer and answer, two lines a picture. An answer counts by its first four letters.

    Raises:
      InputError: there is no such folder, none of the categories, or lines of another form.
    """
    scores: dict[str, float | None] = {}
    count = 0
    for part, categories in MME_CATEGORIES.items():
        for category in categories:
            path = inputs.predictions / f"{category}.txt"
            if path.exists():
                scores[category], lines = _mme_category(path)
                scores[part] = (scores.get(part) or 0.0) + scores[category]
                count += lines
    if not scores:
        raise InputError(
            f"{inputs.predictions} is no folder with files of MME's categories (existence.txt, count.txt, ...)"
        )
    return Scores(scores, count)


def _mme_category(path: Path) -> tuple[float, int]:
    lines = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    for number, line in enumerate(lines, 1):
        if len(line) != 4 or line[2].lower() not in ("yes", "no"):
            raise InputError(f"{path}: line {number} must be picture, question, yes or no, answer, with tabs between")
    if not lines or len(lines) % 2 or any(a[0] != b[0] for a, b in zip(lines[::2], lines[1::2], strict=True)):
        raise InputError(f"{path} must have two lines for each picture, one after the other")
    right = [_mme_answer(answer) == label.lower() for _, _, label, answer in lines]
    both = [one and other for one, other in zip(right[::2], right[1::2], strict=True)]
    return 100 * (_mean(right) + _mean(both)), len(lines)


def _mme_answer(answer: str) -> str:
    start = answer.lower()[:4]
    return "yes" if "yes" in start else "no" if "no" in start else "other"


def _listed(path: Path, name: str) -> list[dict[str, Any]]:
    """The records of an official file, which has them in a list of that name, or of a file that is the list."""
    whole = read_json(path) if path.suffix == ".json" else read_records(path)
    rows = whole.get(name) if isinstance(whole, dict) else whole
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise InputError(f'{path} must have records in a list "{name}"')
    return rows


def _predicted(path: Path, ids: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    return by_id(((field(row, ids, path), text_field(row, texts, path)) for row in read_records(path)), path)


def _texts(values: Any, path: Path) -> list[str]:
    if not isinstance(values, list) or not values or not all(isinstance(value, str) for value in values):
        raise InputError(f"{path}: answers must be a list of texts, not {values!r}")
    return values


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _percent(shares: Sequence[float]) -> float:
    """In percent with two decimals, as the official VQA code rounds."""
    return round(100 * float(sum(shares)) / len(shares), 2)
