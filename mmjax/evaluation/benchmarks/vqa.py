"""Questions with the answers of ten people: VQAv2, OK-VQA, TextVQA and VizWiz.

Layouts: VQAv2 (Goyal et al. 2017) and OK-VQA (Marino et al. 2019) as their pages give them, files of questions and of
annotations beside COCO's folders; TextVQA 0.5.1 (Singh et al. 2019), whose validation pictures lie in train_images;
VizWiz (Gurari et al. 2018), a list in val.json beside val/. Prompts and the cutting of answers as in OpenFlamingo.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmjax.core.errors import InputError
from mmjax.evaluation.benchmark import Answer, Benchmark, Item, Split, Template
from mmjax.evaluation.benchmarks.official import (
    by_frequency,
    listed,
    number_field,
    official_file,
    one_line,
    picture,
    record_writer,
    scorer,
)
from mmjax.evaluation.metrics.answer_tasks import score_textvqa, score_vizwiz, score_vqa
from mmjax.evaluation.metrics.answers import textvqa_accuracy, vizwiz_accuracy, vqa_accuracy
from mmjax.evaluation.metrics.records import by_id, field, read_records, text_field

SHORT_ANSWER_TEMPLATES = (
    Template("{image}Question: {question} Short answer:"),
    Template("{image}Question: {question} Answer:"),
    Template("{image}Answer the question in a word or two. {question}"),
    Template("{image}Q: {question} A:"),
)


def finish_short(text: str) -> str:
    """A short answer: up to the first comma, or to where the next question would begin."""
    text = re.split(r"Question:|Short answer:|Answer:|Q:", text, maxsplit=1)[0]
    return one_line(text.split(", ", maxsplit=1)[0])


def reader(questions: str, annotations: str) -> Callable[[Path, Split], list[Item]]:
    """A reader of VQAv2's layout. {split} in the names of files is val2014 or train2014.

    It raises InputError for files that are not there, of another layout, or that do not belong together.
    """

    def read(folder: Path, split: Split) -> list[Item]:
        part = {"test": "val2014", "train": "train2014"}[split]
        path = official_file(folder, questions.format(split=part))
        beside = official_file(folder, annotations.format(split=part))
        answered = by_id(((field(row, ["question_id"], beside), row) for row in listed(beside, "annotations")), beside)
        items = []
        for row in listed(path, "questions"):
            key, number = field(row, ["question_id"], path), field(row, ["image_id"], path)
            if str(key) not in answered:
                raise InputError(f"{beside} has no answers to question {key} of {path.name}")
            name = f"COCO_{part}_{number_field(number, 'image_id', path):012d}.jpg"
            media = picture(folder, [f"{part}/{name}", f"images/{name}", name], f"question {key} of {path.name}")
            fields = {"question": one_line(text_field(row, ["question"], path))}
            items.append(
                Item(
                    str(key),
                    (media,),
                    fields,
                    people(answered[str(key)], beside),
                    label=str(answered[str(key)].get("answer_type", "")),
                    record={"question_id": key},
                )
            )
        return items

    return read


def people(row: dict[str, Any], path: Path) -> tuple[str, ...]:
    """The answers that people gave, as records or bare texts, the most frequent first.

    Raises:
      InputError: there is none, or they are something else.
    """
    given = field(row, ["answers"], path)
    if not isinstance(given, list) or not given:
        raise InputError(f"{path}: a question has no list of answers")
    return by_frequency([one if isinstance(one, str) else text_field(one, ["answer"], path) for one in given])


def read_textvqa(folder: Path, split: Split) -> list[Item]:
    """TextVQA's validation set, or its training set.

    Raises:
      InputError: files that are not there, or of another layout.
    """
    path = official_file(folder, {"test": "TextVQA_0.5.1_val.json", "train": "TextVQA_0.5.1_train.json"}[split])
    items = []
    for row in listed(path, "data"):
        key, name = field(row, ["question_id"], path), f"{field(row, ['image_id'], path)}.jpg"
        media = picture(folder, [f"train_images/{name}", name], f"question {key} of {path.name}")
        fields = {"question": one_line(text_field(row, ["question"], path))}
        items.append(Item(str(key), (media,), fields, people(row, path), record={"question_id": key}))
    return items


def read_vizwiz(folder: Path, split: Split) -> list[Item]:
    """VizWiz's validation set, or its training set. A picture has one question; its name is the id.

    Raises:
      InputError: as `read_textvqa`.
    """
    part = {"test": "val", "train": "train"}[split]
    path = official_file(folder, f"{part}.json", f"Annotations/{part}.json")
    items = []
    for row in read_records(path):
        name = text_field(row, ["image"], path)
        media = picture(folder, [f"{part}/{name}", name], f"{name} of {path.name}")
        fields = {"question": one_line(text_field(row, ["question"], path))}
        items.append(Item(name, (media,), fields, people(row, path), label=str(row.get("answer_type", ""))))
    return items


def _vqa(name, read, files, write, score, accuracy: Callable[[str, Sequence[str]], float]):
    def score_one(answer: Answer) -> float:
        return accuracy(answer.answer, answer.item.answers)

    return Benchmark(
        name,
        read,
        files,
        SHORT_ANSWER_TEMPLATES,
        "generate",
        write,
        score,
        main_score="accuracy",
        score_one=score_one,
        scale=100.0,
        finish=finish_short,
        max_tokens=10,
    )


_WRITE = record_writer("question_id", "answer")
_VQAV2 = ("v2_OpenEnded_mscoco_{split}_questions.json", "v2_mscoco_{split}_annotations.json")
_OKVQA = ("OpenEnded_mscoco_{split}_questions.json", "mscoco_{split}_annotations.json")

VQA = (
    _vqa(
        "vqav2",
        reader(*_VQAV2),
        "v2_OpenEnded_mscoco_val2014_questions.json, v2_mscoco_val2014_annotations.json; val2014/; for shots those of "
        "train2014",
        _WRITE,
        scorer(score_vqa, _VQAV2[1].format(split="val2014"), questions=_VQAV2[0].format(split="val2014")),
        vqa_accuracy,
    ),
    _vqa(
        "okvqa",
        reader(*_OKVQA),
        "OpenEnded_mscoco_val2014_questions.json, mscoco_val2014_annotations.json; val2014/; for shots those of "
        "train2014",
        _WRITE,
        scorer(score_vqa, _OKVQA[1].format(split="val2014"), questions=_OKVQA[0].format(split="val2014")),
        vqa_accuracy,
    ),
    _vqa(
        "textvqa",
        read_textvqa,
        "TextVQA_0.5.1_val.json; train_images/; for shots TextVQA_0.5.1_train.json",
        _WRITE,
        scorer(score_textvqa, "TextVQA_0.5.1_val.json"),
        textvqa_accuracy,
    ),
    _vqa(
        "vizwiz",
        read_vizwiz,
        "val.json; val/; for shots train.json, train/",
        record_writer("image", "answer"),
        scorer(score_vizwiz, "val.json", "Annotations/val.json"),
        vizwiz_accuracy,
    ),
)
