"""Retrieval between pictures and captions on COCO and Flickr30k, Karpathy's test splits (5,000 and 1,000 pictures).

Layouts as for captions. Every picture is compared with the captions of all pictures; of each the first five count.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmjax.core.errors import InputError
from mmjax.evaluation.benchmark import Answer, Benchmark, Item, Split, Template
from mmjax.evaluation.benchmarks.captions import read_karpathy
from mmjax.evaluation.benchmarks.official import write_lines
from mmjax.evaluation.metrics.layout import Inputs
from mmjax.evaluation.metrics.ranking_tasks import score_retrieval

CAPTIONS_EACH = 5


def read_pairs(folder: Path, split: Split, *, file: str) -> list[Item]:
    """The pictures of a split, each with its first five captions.

    Raises:
      InputError: as `read_karpathy`.
    """
    items = read_karpathy(folder, split, file=file)
    return [dataclasses.replace(item, answers=item.answers[:CAPTIONS_EACH]) for item in items]


def write_similarities(answers: Sequence[Answer], path: Path) -> None:
    """The similarities of all pictures and texts (.npy), and the picture of each text beside it (.pictures.txt).

    Raises:
      InputError: an answer without its similarities with the captions of all.
    """
    texts = sum(len(one.item.answers) for one in answers)
    for one in answers:
        if len(one.log_likelihoods) != texts:
            raise InputError(f"{one.item.id} has {len(one.log_likelihoods)} similarities with {texts} captions")
    with path.open("wb") as file:
        np.save(file, np.array([np.asarray(one.log_likelihoods, np.float32) for one in answers]))
    owners = [str(number) for number, one in enumerate(answers) for _ in one.item.answers]
    write_lines(owners, path.with_suffix(".pictures.txt"))


def score_similarities(results: Path, folder: Path) -> Mapping[str, float | None]:
    """Recall@1, 5 and 10 both ways of what `write_similarities` wrote.

    Raises:
      InputError: as `score_retrieval`.
    """
    return score_retrieval(Inputs(results, results.with_suffix(".pictures.txt"))).scores


def _finds_own(answer: Answer) -> float:
    return float(answer.answer in answer.item.answers)


def _retrieval(name, file, files):
    return Benchmark(
        name,
        functools.partial(read_pairs, file=file),
        files,
        (Template("{image}", "{answer}"),),
        "retrieval",
        write_similarities,
        score_similarities,
        main_score="image_to_text_R@1",
        score_one=_finds_own,
        scale=100.0,
        results="results.npy",
    )


RETRIEVAL = (
    _retrieval("coco_retrieval", "dataset_coco.json", "dataset_coco.json (Karpathy's split); val2014/"),
    _retrieval(
        "flickr30k_retrieval", "dataset_flickr30k.json", "dataset_flickr30k.json (Karpathy's split); flickr30k-images/"
    ),
)
