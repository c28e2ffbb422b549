"""Questions to be answered with yes or no: POPE and MME.

Layouts: POPE (Li et al. 2023), `coco_pope_random.json` and its kin, a record a line, beside COCO's val2014; MME (Fu et
al. 2023), the folder MME_Benchmark_release_version: of each category pictures with a text file each, two lines
`question`, tabulator, `Yes` or `No`, side by side or in images/ and questions_answers_YN/.
"""

from __future__ import annotations

import collections
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmjax.core.errors import InputError
from mmjax.evaluation.benchmark import Answer, Benchmark, Item, Template
from mmjax.evaluation.benchmarks.official import (
    first_line,
    no_training,
    official_file,
    one_line,
    picture,
    scorer,
    write_lines,
)
from mmjax.evaluation.metrics.answer_tasks import MME_CATEGORIES, score_mme, score_pope
from mmjax.evaluation.metrics.layout import Inputs
from mmjax.evaluation.metrics.rankings import says_yes
from mmjax.evaluation.metrics.records import field, read_records, read_text, text_field

_EXTENSIONS = (".jpg", ".png", ".jpeg")
_TEMPLATES = (
    Template("{image}Question: {question} Short answer:"),
    Template("{image}{question} Answer yes or no:"),
)


def read_pope(folder: Path, *, file: str) -> list[Item]:
    """The questions of one of POPE's three kinds.

    Raises:
      InputError: files that are not there, or of another layout.
    """
    path = official_file(folder, file, f"output/coco/{file}")
    items = []
    for row in read_records(path):
        key, name = field(row, ["question_id"], path), text_field(row, ["image"], path)
        label = text_field(row, ["label"], path)
        if label not in ("yes", "no"):
            raise InputError(f"{path}: the label of {key} must be yes or no, not {label!r}")
        media = picture(folder, [f"val2014/{name}", name], f"question {key} of {path.name}")
        fields = {"question": one_line(text_field(row, ["text"], path))}
        record = {"question_id": key, "question": row["text"]}
        items.append(Item(str(key), (media,), fields, (label,), ("yes", "no"), label=label, record=record))
    return items


def write_pope(answers: Sequence[Answer], path: Path) -> None:
    """POPE's results, a record a line, with the id of the question as well."""
    rows = [{**one.item.record, "answer": one.answer} for one in answers]
    write_lines([json.dumps(row, ensure_ascii=False) for row in rows], path)


def read_mme(folder: Path) -> list[Item]:
    """The questions of all categories that the folder has, two a picture.

    Raises:
      InputError: none of the categories, a text file without its picture, or lines of another form.
    """
    items = []
    for category in (name for names in MME_CATEGORIES.values() for name in names):
        texts = sorted((folder / category).glob("questions_answers_YN/*.txt")) or sorted(
            (folder / category).glob("*.txt")
        )
        for text in texts:
            name = _picture_beside(text, folder / category)
            lines = [line.split("\t") for line in read_text(text).splitlines() if line.strip()]
            if len(lines) != 2 or any(len(line) != 2 or line[1].strip() not in ("Yes", "No") for line in lines):
                raise InputError(f"{text} must have two lines: a question, a tabulator, and Yes or No")
            media = picture(folder, [f"{category}/{name}"], f"{category}/{text.name}")
            for number, (question, label) in enumerate(lines, 1):
                short = Path(name).name
                record = {"category": category, "picture": short, "question": question, "label": label.strip()}
                fields = {"question": one_line(question), "category": category}
                answer = label.strip().lower()
                key = f"{category}/{short}/{number}"
                items.append(Item(key, (media,), fields, (answer,), ("yes", "no"), label=answer, record=record))
    if not items:
        raise InputError(f"{folder} must hold MME's folders of categories: existence, count, ...")
    return items


def _picture_beside(text: Path, category: Path) -> str:
    """The picture of a text file, in the folder of its category."""
    beside = category / "images" if text.parent != category else category
    for extension in _EXTENSIONS:
        found = beside / f"{text.stem}{extension}"
        if found.exists():
            return str(found.relative_to(category))
    raise InputError(f"{text} has no picture {beside}/{text.stem}.jpg")


def write_mme(answers: Sequence[Answer], path: Path) -> None:
    """The official folder, a file CATEGORY.txt each: picture, question, label and answer with tabulators between.

    A picture of which only one question was asked is left out, since it has no accuracy+.
    """
    path.mkdir(parents=True, exist_ok=True)
    pictures: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    for one in answers:
        record = one.item.record
        line = "\t".join([record["picture"], record["question"], record["label"], one_line(one.answer)])
        pictures[record["category"], record["picture"]].append(line)
    categories: dict[str, list[str]] = collections.defaultdict(list)
    for (category, _), lines in pictures.items():
        if len(lines) == 2:
            categories[category] += lines
    for category, lines in categories.items():
        write_lines(lines, path / f"{category}.txt")


def score_mme_folder(results: Path, folder: Path) -> Mapping[str, float | None]:
    """The scores of a folder that `write_mme` wrote.

    Raises:
      InputError: as `score_mme`.
    """
    return score_mme(Inputs(results)).scores


def _says_right(answer: Answer) -> float:
    return float(says_yes(answer.answer) == (answer.item.answers[0] == "yes"))


def _pope(kind):
    name = f"pope_{kind}"
    file = f"coco_{name}.json"
    return Benchmark(
        name,
        no_training(functools.partial(read_pope, file=file), name),
        f"{file}; val2014/",
        _TEMPLATES,
        "generate",
        write_pope,
        scorer(score_pope, file, f"output/coco/{file}"),
        main_score="accuracy",
        score_one=_says_right,
        chance=0.5,
        finish=first_line,
        max_tokens=10,
        results="results.jsonl",
    )


YES_NO = (
    *(_pope(kind) for kind in ("random", "popular", "adversarial")),
    Benchmark(
        "mme",
        no_training(read_mme, "mme"),
        "the folder MME_Benchmark_release_version: existence/, count/, ... with pictures and their .txt",
        (Template("{image}{question} Answer:"), *_TEMPLATES),
        "generate",
        write_mme,
        score_mme_folder,
        main_score="perception",
        scale=2000.0,
        chance=750.0,
        finish=first_line,
        max_tokens=10,
        results="",
    ),
)
