"""Statements about pictures, of which the likeliest verdict is taken: NLVR2, SNLI-VE and Hateful Memes.

Layouts: NLVR2 (Suhr et al. 2019), test1.json and train.json, a record a line, pictures IDENTIFIER-img0.png and
-img1.png in folders of splits; SNLI-VE (Xie et al. 2019), snli_ve_test.jsonl beside Flickr30k's pictures; Hateful
Memes (Kiela et al. 2020), dev_seen.jsonl beside img/, with OpenFlamingo's prompt and its score of the likelihoods of
yes and no.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mmjax.core.errors import InputError
from mmjax.evaluation.benchmark import Answer, Benchmark, Item, Split, Template
from mmjax.evaluation.benchmarks.captions import FLICKR_FOLDERS
from mmjax.evaluation.benchmarks.official import (
    official_file,
    one_line,
    picture,
    right_answer,
    scorer,
    write_json,
    write_lines,
)
from mmjax.evaluation.metrics.answer_tasks import score_nlvr2, score_snli_ve
from mmjax.evaluation.metrics.ranking_tasks import score_hateful_memes
from mmjax.evaluation.metrics.records import field, read_records, text_field

_VERDICTS = {"entailment": "yes", "neutral": "maybe", "contradiction": "no"}
_GOLD = {word: verdict for verdict, word in _VERDICTS.items()}


def read_nlvr2(folder: Path, split: Split) -> list[Item]:
    """NLVR2's first test set (pictures test1/), or its training set (images/train/DIRECTORY/).

    Raises:
      InputError: files that are not there, or of another layout.
    """
    part = {"test": "test1", "train": "train"}[split]
    path = official_file(folder, f"{part}.json", f"data/{part}.json")
    items = []
    for row in read_records(path):
        key, label = text_field(row, ["identifier"], path), str(field(row, ["label"], path))
        if label.lower() not in ("true", "false"):
            raise InputError(f"{path}: the label of {key} must be True or False, not {label!r}")
        stem = key.rpartition("-")[0]
        where = [f"{row['directory']}/"] if row.get("directory") is not None else []
        media = tuple(
            picture(
                folder,
                [
                    f"{top}{within}{stem}-img{side}.png"
                    for top in (f"{part}/", f"images/{part}/", "")
                    for within in (*where, "")
                ],
                f"{key} of {path.name}",
            )
            for side in range(2)
        )
        fields = {"question": one_line(text_field(row, ["sentence"], path))}
        answer = label.capitalize()
        items.append(Item(key, media, fields, (answer,), ("True", "False"), label=answer))
    return items


def write_nlvr2(answers: Sequence[Answer], path: Path) -> None:
    """The official lines "identifier,prediction"; the file's name must end in .csv for the scorer to know them."""
    write_lines([f"{one.item.id},{one.answer}" for one in answers], path)


def read_snli_ve(folder: Path, split: Split) -> list[Item]:
    """SNLI-VE's test set, or its training set.

    Raises:
      InputError: as `read_nlvr2`.
    """
    path = official_file(folder, f"snli_ve_{split}.jsonl", f"data/snli_ve_{split}.jsonl")
    items = []
    for row in read_records(path):
        key, verdict = text_field(row, ["pairID"], path), text_field(row, ["gold_label"], path)
        if verdict not in _VERDICTS:
            raise InputError(f"{path}: gold_label of {key} must be one of {', '.join(_VERDICTS)}, not {verdict!r}")
        name = f"{field(row, ['Flickr30K_ID', 'Flikr30kID'], path)}.jpg"
        media = picture(folder, [*(f"{place}/{name}" for place in FLICKR_FOLDERS), name], f"{key} of {path.name}")
        fields = {"question": one_line(text_field(row, ["sentence2"], path))}
        items.append(Item(key, (media,), fields, (_VERDICTS[verdict],), tuple(_GOLD), label=verdict))
    return items


def write_snli_ve(answers: Sequence[Answer], path: Path) -> None:
    """[{pairID, prediction}], in the words of the official labels."""
    write_json([{"pairID": one.item.id, "prediction": _GOLD.get(one.answer, one.answer)} for one in answers], path)


def read_hateful_memes(folder: Path, split: Split) -> list[Item]:
    """The "seen" development set of Hateful Memes, whose labels are public; or its training set.

    Raises:
      InputError: as `read_nlvr2`.
    """
    path = official_file(folder, {"test": "dev_seen.jsonl", "train": "train.jsonl"}[split])
    items = []
    for row in read_records(path):
        key, label = field(row, ["id"], path), field(row, ["label"], path)
        if label not in (0, 1):
            raise InputError(f"{path}: the label of {key} must be 0 or 1, not {label!r}")
        media = picture(folder, [text_field(row, ["img"], path)], f"{key} of {path.name}")
        fields = {"question": one_line(text_field(row, ["text"], path))}
        answer = ("no", "yes")[label]
        items.append(Item(str(key), (media,), fields, (answer,), ("no", "yes"), label=answer))
    return items


def write_hateful_memes(answers: Sequence[Answer], path: Path) -> None:
    """The official table id,proba,label: the probability of "yes" among the two answers."""
    lines = ["id,proba,label"]
    for one in answers:
        if len(one.log_likelihoods) != 2:
            raise InputError(f"hateful_memes: the likelihoods of no and yes are needed, meme {one.item.id} has none")
        margin = float(one.log_likelihoods[1]) - float(one.log_likelihoods[0])
        probability = 0.5 * (1 + math.tanh(margin / 2))
        lines.append(f"{one.item.id},{probability!r},{int(one.answer == 'yes')}")
    write_lines(lines, path)


STATEMENTS = (
    Benchmark(
        "nlvr2",
        read_nlvr2,
        "test1.json; test1/ (or images/test1/); for shots train.json, images/train/",
        (
            Template("Left: {image} Right: {image} {question} True or false?"),
            Template("{image}{image}Statement about the two pictures: {question} True or False? Answer:"),
        ),
        "rank",
        write_nlvr2,
        scorer(score_nlvr2, "test1.json", "data/test1.json"),
        main_score="accuracy",
        score_one=right_answer,
        chance=0.5,
        results="results.csv",
    ),
    Benchmark(
        "snli_ve",
        read_snli_ve,
        "snli_ve_test.jsonl; flickr30k-images/; for shots snli_ve_train.jsonl",
        (
            Template("{image}Does the picture show that {question} Answer yes, maybe or no:"),
            Template("{image}Statement: {question} Is it true? yes, maybe or no? Answer:"),
        ),
        "rank",
        write_snli_ve,
        scorer(score_snli_ve, "snli_ve_test.jsonl", "data/snli_ve_test.jsonl"),
        main_score="accuracy",
        score_one=right_answer,
        chance=1 / 3,
    ),
    Benchmark(
        "hateful_memes",
        read_hateful_memes,
        "dev_seen.jsonl; img/; for shots train.jsonl",
        (
            Template("{image}is an image with: '{question}' written on it. Is it hateful? Answer:"),
            Template("{image}A meme that says: {question} Is it hateful, yes or no? Answer:"),
        ),
        "rank",
        write_hateful_memes,
        scorer(score_hateful_memes, "dev_seen.jsonl"),
        main_score="roc_auc",
        chance=0.5,
        results="results.csv",
    ),
)
