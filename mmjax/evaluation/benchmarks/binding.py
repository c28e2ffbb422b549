"""Fast binding: new words for things, from demonstrations that belong to each question. After Frozen and VL-ICL.

Layouts: the archives of Frozen (Tsimpoukelli et al. 2021), such as open_ended_mi/ with
open_ended_mi_shots_5_ways_2_all_questions.json: a list of {question_image, question, answer, image_1, caption_1,
...}, and the pictures beside it. VL-ICL (Zong et al. 2024), a folder of tasks, each with query.json and support.json,
whose pictures lie below the folder.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmjax.core.errors import InputError
from mmjax.data.keyed import Dice, key_of
from mmjax.evaluation.benchmark import Answer, Benchmark, Item, Split, Template
from mmjax.evaluation.benchmarks.official import first_line, no_training, official_file, picture, write_json
from mmjax.evaluation.metrics import choice_tasks
from mmjax.evaluation.metrics.layout import Inputs, Scores
from mmjax.evaluation.metrics.records import field, read_records, text_field

# Of a task whose demonstrations depend on the question, so many rounds are drawn for each.
ROUNDS = 32
_OPERATORS = {"+": 0, "-": 1, "x": 2}


def read_frozen(folder: Path, *, task: str, ways: int) -> list[Item]:
    """The questions of the file with the most shots of a task of Frozen, with their support sets.

    A demonstration's caption that begins as the question does ("This is a dax." of "This is a") is split there.

    Raises:
      InputError: there is no such file, or it is of another layout.
    """
    path = next(
        (
            folder / name
            for shots in (5, 3, 1)
            if (folder / (name := f"{task}_shots_{shots}_ways_{ways}_all_questions.json")).exists()
        ),
        None,
    )
    if path is None:
        raise InputError(f"{folder} must hold {task}_shots_5_ways_{ways}_all_questions.json (or shots_3, shots_1)")
    items = []
    for number, row in enumerate(read_records(path)):
        key, answer = str(row.get("question_id", number)), field(row, ["answer"], path)
        answers = tuple(map(str, answer)) if isinstance(answer, list) else (str(answer),)
        question = str(row.get("question") or "").strip()
        shown = [
            _frozen_shot(folder, row, place, question, key, path)
            for place in range(1, 1 + sum(name.startswith("caption_") for name in row))
        ]
        media = picture(folder, [text_field(row, ["question_image"], path)], f"question {key} of {path.name}")
        record = {"question_id": key, "question": question}
        fields = {"question": question}
        items.append(Item(key, (media,), fields, _bare(answers), record=record, support=_in_rounds(shown)))
    return items


def _frozen_shot(folder: Path, row: dict[str, Any], place: int, question: str, key: str, path: Path) -> Item:
    caption = text_field(row, [f"caption_{place}"], path).strip()
    name = text_field(row, [f"image_{place}"], path)
    begins = bool(question) and caption.lower().startswith(question.lower())
    asked, answer = (question, caption[len(question) :].strip()) if begins else ("", caption)
    media = picture(folder, [name], f"picture {place} of question {key} of {path.name}")
    return Item(f"{key}/{place}", (media,), {"question": asked}, (answer,), label=caption)


def _bare(answers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(answer.strip().rstrip(".") for answer in answers)


def _in_rounds(shown: Sequence[Item]) -> tuple[tuple[Item, ...], ...]:
    """Demonstrations with one of each class a round, in the order in which they come."""
    rounds: list[list[Item]] = []
    for item in shown:
        for found in rounds:
            if all(item.label != other.label for other in found):
                found.append(item)
                break
        else:
            rounds.append([item])
    return tuple(map(tuple, rounds))


def read_vl_icl(folder: Path, split: Split, *, task: str) -> list[Item]:
    """The queries of a task of VL-ICL; for demonstrations its support set, where that does not depend on the query.

    Raises:
      InputError: there are no such files, they are of another layout, or each query has demonstrations of its own.
    """
    path = official_file(folder, f"{task}/query.json")
    own = _SUPPORTS.get(task)
    if split == "train" and own:
        raise InputError(f"the demonstrations of {task} belong to each query: there is no training data")
    beside = folder / task / "support.json"
    support = read_records(beside) if task != "open_mi" else []
    if split == "train":
        return [_vl_icl_item(folder, row, number, beside) for number, row in enumerate(support)]
    items = []
    for number, row in enumerate(read_records(path)):
        rounds = own(folder, row, support, path, Dice(key_of("vl_icl", task, number))) if own else ()
        items.append(_vl_icl_item(folder, row, number, path, rounds))
    return items


def _vl_icl_item(
    folder: Path,
    row: Mapping[str, Any],
    number: int,
    path: Path,
    support: tuple[tuple[Item, ...], ...] = (),
) -> Item:
    key = str(row.get("id", number))
    names = field(row, ["image"], path)
    names = names if isinstance(names, list) else [names]
    media = tuple(picture(folder, [name, f"{path.parent.name}/{name}"], f"{key} of {path}") for name in names)
    fields = {"question": text_field(row, ["question"], path)}
    record = {"id": key, "question": fields["question"]}
    return Item(key, media, fields, (str(field(row, ["answer"], path)),), record=record, support=support)


def _classes(folder, row, support, path, dice):
    """Pictures of the query's class and of another one that is drawn, each with its name, in an order that is drawn."""
    right, sets = text_field(row, ["answer"], path), field(row, ["support"], path)
    others = [name for name in field(row, ["classes"], path) if name != right]
    if right not in sets or not others:
        raise InputError(f"{path}: a query has no pictures of its class {right!r} and of another")
    pair = [right, dice.choice(others)]
    dice.shuffle(pair)
    shots = min(len(field(sets[name], ["images"], path)) for name in pair)
    asked = [
        [{"image": sets[name]["images"][number], "answer": name, "question": "This is a"} for name in pair]
        for number in range(shots)
    ]
    return tuple(tuple(_vl_icl_item(folder, one, number, path) for one in found) for number, found in enumerate(asked))


def _operators(folder, row, support, path, dice):
    """Demonstrations of the query's operator: of each record of the support set its result by that one."""
    operator = text_field(row, ["operator"], path)
    if operator not in _OPERATORS:
        raise InputError(f"{path}: the operator must be one of {' '.join(_OPERATORS)}, not {operator!r}")
    drawn = dice.sample(support, min(ROUNDS, len(support)))
    beside = path.with_name("support.json")
    return tuple(
        (_vl_icl_item(folder, {**one, "answer": _result(one, operator, beside)}, number, beside),)
        for number, one in enumerate(drawn)
    )


def _result(row, operator, path):
    results = field(row, ["answer"], path)
    if not isinstance(results, list) or len(results) != len(_OPERATORS):
        raise InputError(f"{path}: answer must be the results by {' '.join(_OPERATORS)}")
    return results[_OPERATORS[operator]]


def _matches(folder, row, support, path, dice):
    """Each round a pair that is the same and one that differs."""
    drawn = dice.sample(support, min(ROUNDS, len(support)))
    beside = path.with_name("support.json")
    return tuple(
        tuple(_vl_icl_item(folder, field(one, [kind], beside), number, beside) for kind in ("same", "diff"))
        for number, one in enumerate(drawn)
    )


_SUPPORTS: dict[str, Callable[..., tuple[tuple[Item, ...], ...]]] = {
    "open_mi": _classes,
    "operator_induction": _operators,
    "operator_induction_interleaved": _operators,
    "matching_mi": _matches,
}


def write_binding(answers: Sequence[Answer], path: Path) -> None:
    """As VL-ICL keeps them: the queries with their answer and the prediction."""
    write_json([{**one.item.record, "answer": one.item.answers[0], "prediction": one.answer} for one in answers], path)


def _binding(name, read, files, template, score: Callable[[Inputs], Scores], right: Callable[[str, str], bool]):
    def score_file(results: Path, folder: Path) -> Mapping[str, float | None]:
        return score(Inputs(results)).scores

    def score_one(answer: Answer) -> float:
        return float(right(answer.answer, answer.item.answers[0]))

    return Benchmark(
        name,
        read,
        files,
        (template,),
        "generate",
        write_binding,
        score_file,
        main_score="accuracy",
        score_one=score_one,
        scale=100.0,
        finish=first_line,
        max_tokens=15,
    )


def _frozen(task, ways, name):
    return _binding(
        name,
        no_training(functools.partial(read_frozen, task=task, ways=ways), name),
        f"the folder {task}: {task}_shots_5_ways_{ways}_all_questions.json (or shots_3, shots_1) and its pictures",
        Template("{image}{question}"),
        choice_tasks.score_binding,
        choice_tasks.binding_right,
    )


_EXACT = (choice_tasks.score_binding, choice_tasks.binding_right)
_NUMBER = (choice_tasks.score_operator, choice_tasks.operator_right)
_YES_NO = (choice_tasks.score_matching, choice_tasks.matching_right)
_VL_ICL = {
    "open_mi": ("{image}{question}", _EXACT),
    "clevr": ("{image}Question: {question} Answer:", _EXACT),
    "textocr": ("{image}Question: {question} Answer:", _EXACT),
    "operator_induction": ("{image}Question: {question} Answer:", _NUMBER),
    "operator_induction_interleaved": ("{image}Question: {question} Answer:", _NUMBER),
    "matching_mi": ("{image}Question: {question} Answer:", _YES_NO),
}

BINDING = (
    _frozen("open_ended_mi", 2, "open_miniimagenet_2way"),
    _frozen("open_ended_mi", 5, "open_miniimagenet_5way"),
    _frozen("real_name_mi", 2, "real_name_miniimagenet_2way"),
    _frozen("real_name_mi", 5, "real_name_miniimagenet_5way"),
    _frozen("fast_vqa", 2, "fast_vqa"),
    _frozen("guided_vqa", 2, "guided_vqa"),
    *(
        _binding(
            f"vl_icl_{task}",
            functools.partial(read_vl_icl, task=task),
            f"the folder VL-ICL: {task}/query.json"
            + ("" if task == "open_mi" else f", {task}/support.json")
            + ", pictures",
            Template(template),
            *scored,
        )
        for task, (template, scored) in _VL_ICL.items()
    ),
)
