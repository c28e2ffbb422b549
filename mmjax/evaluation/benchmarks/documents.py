"""Questions about documents, charts and scenes with one right answer: DocVQA, ChartQA and GQA.

Layouts: DocVQA (Mathew et al. 2021), task 1, `val_v1.0.json` beside documents/; ChartQA (Masry et al. 2022) with its
folders test/ and train/ of questions by people and by machine, pictures in png/; GQA (Hudson and Manning 2019),
`testdev_balanced_questions.json` beside images/.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from mmjax.core.errors import InputError
from mmjax.evaluation.benchmark import Answer, Benchmark, Item, Split, Template
from mmjax.evaluation.benchmarks.official import (
    by_frequency,
    first_line,
    listed,
    official_file,
    one_line,
    picture,
    record_writer,
    right_answer,
    scorer,
    write_json,
)
from mmjax.evaluation.benchmarks.vqa import SHORT_ANSWER_TEMPLATES, finish_short
from mmjax.evaluation.metrics.answer_tasks import score_chartqa, score_docvqa, score_gqa
from mmjax.evaluation.metrics.answers import anls, relaxed_match
from mmjax.evaluation.metrics.layout import Inputs
from mmjax.evaluation.metrics.records import field, read_json, read_records, text_field

_DOCVQA = {"test": ("val_v1.0.json", "val_v1.0_withQT.json"), "train": ("train_v1.0.json", "train_v1.0_withQT.json")}
_CHART_PARTS = ("human", "augmented")
_TEMPLATES = (
    Template("{image}Question: {question} Answer:"),
    Template("{image}Question: {question} Short answer:"),
    Template("{image}{question} Answer with a single word, number or phrase:"),
)


def read_docvqa(folder: Path, split: Split) -> list[Item]:
    """DocVQA's validation set, or its training set.

    Raises:
      InputError: files that are not there, or of another layout.
    """
    path = official_file(folder, *_DOCVQA[split])
    items = []
    for row in listed(path, "data"):
        key, name = field(row, ["questionId"], path), text_field(row, ["image"], path)
        places = [name, f"spdocvqa_images/{Path(name).name}", f"{path.name.partition('_')[0]}/{name}"]
        media = picture(folder, places, f"question {key} of {path.name}")
        answers = field(row, ["answers"], path)
        if not isinstance(answers, list) or not answers or not all(isinstance(one, str) for one in answers):
            raise InputError(f"{path}: question {key} has no list of answers")
        fields = {"question": one_line(text_field(row, ["question"], path))}
        items.append(Item(str(key), (media,), fields, by_frequency(answers), record={"questionId": key}))
    return items


def read_chartqa(folder: Path, split: Split) -> list[Item]:
    """ChartQA's questions by people, then those by machine; one that stands there twice is asked once.

    Raises:
      InputError: as `read_docvqa`.
    """
    items: dict[str, Item] = {}
    for part in _CHART_PARTS:
        path = official_file(folder, f"{split}/{split}_{part}.json")
        for row in read_records(path):
            name, question = text_field(row, ["imgname"], path), text_field(row, ["query"], path)
            media = picture(folder, [f"{split}/png/{name}", f"png/{name}"], f"{name} of {path.name}")
            items.setdefault(
                f"{name}: {question}",
                Item(
                    f"{name}: {question}",
                    (media,),
                    {"question": one_line(question)},
                    (text_field(row, ["label"], path),),
                    label=part,
                    record={"imgname": name, "query": question},
                ),
            )
    return list(items.values())


def write_chartqa(answers: Sequence[Answer], path: Path) -> None:
    """[{imgname, query, answer}]."""
    write_json([{**one.item.record, "answer": one.answer} for one in answers], path)


def score_chartqa_files(results: Path, folder: Path) -> Mapping[str, float | None]:
    """Relaxed accuracy, of all and of each kind of question.

    Raises:
      InputError: as `score_chartqa`.
    """
    official_file(folder, *(f"test/test_{_CHART_PARTS[0]}.json",))
    return score_chartqa(Inputs(results, folder / "test", subset=True)).scores


def read_gqa(folder: Path, split: Split) -> list[Item]:
    """GQA's balanced questions of testdev; for demonstrations those of train.

    Raises:
      InputError: as `read_docvqa`.
    """
    part = {"test": "testdev", "train": "train"}[split]
    name = f"{part}_balanced_questions.json"
    path = official_file(folder, name, f"questions/{name}")
    questions = read_json(path)
    if not isinstance(questions, dict) or not questions or not all(isinstance(row, dict) for row in questions.values()):
        raise InputError(f"{path} must be GQA's questions: {{question id: {{question, imageId, answer}}}}")
    items = []
    for key, row in questions.items():
        media = picture(folder, [f"images/{field(row, ['imageId'], path)}.jpg"], f"question {key} of {name}")
        fields = {"question": one_line(text_field(row, ["question"], path))}
        kind = str(row.get("types", {}).get("structural", ""))
        items.append(Item(key, (media,), fields, (text_field(row, ["answer"], path),), label=kind))
    return items


def _finish_gqa(text: str) -> str:
    return finish_short(text).rstrip(".").lower()


def _anls(answer: Answer) -> float:
    return anls(answer.answer, answer.item.answers)


def _relaxed(answer: Answer) -> float:
    return relaxed_match(answer.answer, answer.item.answers[0])


DOCUMENTS = (
    Benchmark(
        "docvqa",
        read_docvqa,
        "val_v1.0.json; documents/; for shots train_v1.0.json",
        _TEMPLATES,
        "generate",
        record_writer("questionId", "answer"),
        scorer(score_docvqa, *_DOCVQA["test"]),
        main_score="ANLS",
        score_one=_anls,
        finish=first_line,
        max_tokens=32,
    ),
    Benchmark(
        "chartqa",
        read_chartqa,
        "test/test_human.json, test/test_augmented.json; test/png/; for shots those of train/",
        _TEMPLATES,
        "generate",
        write_chartqa,
        score_chartqa_files,
        main_score="relaxed_accuracy",
        score_one=_relaxed,
        scale=100.0,
        finish=first_line,
        max_tokens=16,
    ),
    Benchmark(
        "gqa",
        read_gqa,
        "testdev_balanced_questions.json; images/; for shots train_balanced_questions.json",
        SHORT_ANSWER_TEMPLATES,
        "generate",
        record_writer("questionId", "prediction"),
        scorer(score_gqa, "testdev_balanced_questions.json", "questions/testdev_balanced_questions.json"),
        main_score="accuracy",
        score_one=right_answer,
        scale=100.0,
        finish=_finish_gqa,
        max_tokens=10,
    ),
)
