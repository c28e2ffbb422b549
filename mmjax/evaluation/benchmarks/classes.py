"""ImageNet (Russakovsky et al. 2015): zero-shot by two towers, few-shot by ranking the names of classes.

Layouts: val/SYNSET/*.JPEG; or val/*.JPEG as the archive holds them, with Kaggle's LOC_val_solution.csv, or the
development kit's ILSVRC2012_validation_ground_truth.txt and meta.mat (in the folder, or in
ILSVRC2012_devkit_t12/data). Demonstrations are of train/SYNSET/. Names of classes: class_names.json ({synset: name},
one's own), imagenet_class_index.json (of Keras: {"0": [synset, name]}) or Kaggle's LOC_synset_mapping.txt. Classes are
numbered by their synsets in order, as everywhere.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import scipy.io

from mmjax.core.errors import InputError
from mmjax.evaluation.benchmark import Answer, Benchmark, Item, Split, Template
from mmjax.evaluation.benchmarks.official import number_field, official_file, picture, right_answer, write_lines
from mmjax.evaluation.metrics.layout import Inputs
from mmjax.evaluation.metrics.ranking_tasks import score_imagenet
from mmjax.evaluation.metrics.records import read_json, read_text

# Of each class's training pictures, by name, the first so many may become demonstrations.
DEMONSTRATIONS = 50
_NAMES = ("class_names.json", "imagenet_class_index.json", "LOC_synset_mapping.txt")
_KIT = "ILSVRC2012_devkit_t12/data"
_EXTENSIONS = (".jpeg", ".jpg", ".png")

# Ways to name a class in a caption, after CLIP (Radford et al. 2021, section 3.1.4), which averages over such forms.
CLASS_FORMS = (
    "a photo of a {answer}.",
    "a close-up photo of the {answer}.",
    "a blurry photo of a {answer}.",
    "a photo of many {answer}.",
    "a large {answer} in a photo.",
    "a small {answer} in a photo.",
    "a drawing of a {answer}.",
    "a {answer} in a video game.",
)


def read_imagenet(folder: Path, split: Split) -> list[Item]:
    """The validation pictures; for demonstrations the first `DEMONSTRATIONS` training pictures of each class.

    Raises:
      InputError: folders or files that are not there or of another layout, or a class without a name.
    """
    names = class_names(folder)
    synsets = sorted(names)
    numbers = {synset: number for number, synset in enumerate(synsets)}
    candidates = tuple(names[synset] for synset in synsets)
    items = []
    for path, synset in _pictures(folder, split):
        if synset not in numbers:
            raise InputError(f"{folder}: {path} is of the class {synset}, which has no name in {' or '.join(_NAMES)}")
        name = names[synset]
        media = picture(folder, [path], path)
        record = {"class": numbers[synset]}
        items.append(Item(path, (media,), {}, (name,), candidates, label=name, record=record))
    if not items:
        raise InputError(f"{folder} has no pictures of the split {split}")
    return items


def class_names(folder: Path) -> dict[str, str]:
    """The name of each synset.

    Raises:
      InputError: there is no file of names, it is of another layout, or two classes have one name.
    """
    path = official_file(folder, *_NAMES)
    if path.suffix == ".txt":
        lines = [line.partition(" ") for line in read_text(path).splitlines() if line.strip()]
        names = {synset: words.split(",")[0].strip() for synset, _, words in lines}
    else:
        whole = read_json(path)
        rows = whole.items() if isinstance(whole, dict) else ()
        names = dict(row if isinstance(row[1], str) else tuple(row[1])[:2] for row in rows)
        names = {synset: name.replace("_", " ") for synset, name in names.items() if isinstance(name, str)}
    if not names or not all(names.values()):
        raise InputError(f"{path} must name the synsets: {{synset: name}}, or {{number: [synset, name]}}")
    return _told_apart(names)


def _told_apart(names: Mapping[str, str]) -> dict[str, str]:
    """Where two classes have one name ("crane", "maillot"), the synset stands behind that of the later one."""
    seen: set[str] = set()
    told = {}
    for synset in sorted(names):
        told[synset] = f"{names[synset]} ({synset})" if names[synset] in seen else names[synset]
        seen.add(names[synset])
    return told


def _pictures(folder: Path, split: Split) -> Iterator[tuple[str, str]]:
    """(path in the folder, synset) of each picture, in order."""
    top = {"test": "val", "train": "train"}[split]
    if not (folder / top).is_dir():
        raise InputError(f"{folder} must hold {top}/SYNSET/*.JPEG" + (" or val/*.JPEG" if split == "test" else ""))
    synsets = sorted(entry.name for entry in os.scandir(folder / top) if entry.is_dir())
    for synset in synsets:
        found = _picture_names(folder / top / synset)
        for name in found if split == "test" else found[:DEMONSTRATIONS]:
            yield f"{top}/{synset}/{name}", synset
    if not synsets and split == "test":
        truth = _ground_truth(folder)
        for name in _picture_names(folder / top):
            stem = name.partition(".")[0]
            if stem not in truth:
                raise InputError(f"{folder}: the ground truth has no class of {top}/{name}")
            yield f"{top}/{name}", truth[stem]


def _picture_names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(_EXTENSIONS))


def _ground_truth(folder: Path) -> dict[str, str]:
    """The synset of each validation picture, by Kaggle's table or by the development kit."""
    text = "ILSVRC2012_validation_ground_truth.txt"
    path = official_file(folder, "LOC_val_solution.csv", text, f"{_KIT}/{text}")
    if path.suffix == ".csv":
        rows = list(csv.DictReader(read_text(path).splitlines()))
        if not rows or not all(row.get("ImageId") and row.get("PredictionString") for row in rows):
            raise InputError(f"{path} must be a table ImageId,PredictionString")
        return {row["ImageId"]: row["PredictionString"].split()[0] for row in rows}
    meta = official_file(folder, "meta.mat", f"{_KIT}/meta.mat")
    try:
        synsets = scipy.io.loadmat(meta, squeeze_me=True)["synsets"]
        by_number = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in np.atleast_1d(synsets)}
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise InputError(f"{meta} is not the meta.mat of the development kit: {error}") from None
    numbers = [number_field(line, "a class", path) for line in read_text(path).split()]
    unknown = [number for number in numbers if number not in by_number]
    if unknown:
        raise InputError(f"{path} has a class {unknown[0]} that {meta.name} does not know")
    return {f"ILSVRC2012_val_{place:08d}": by_number[number] for place, number in enumerate(numbers, 1)}


def write_scores(answers: Sequence[Answer], path: Path) -> None:
    """The scores of all classes of each picture (.npy), and its class beside it (.classes.txt), counted from 0.

    Raises:
      InputError: an answer without the scores of its classes.
    """
    for one in answers:
        if len(one.log_likelihoods) != len(one.item.candidates):
            given, wanted = len(one.log_likelihoods), len(one.item.candidates)
            raise InputError(f"{one.item.id} has {given} scores of {wanted} classes")
    with path.open("wb") as file:
        np.save(file, np.array([np.asarray(one.log_likelihoods, np.float32) for one in answers]))
    write_lines([str(one.item.record["class"]) for one in answers], _classes_of(path))


def _classes_of(path: Path) -> Path:
    return path.with_suffix(".classes.txt")


def score_classes(results: Path, folder: Path) -> Mapping[str, float | None]:
    """Top-1 and top-5 accuracy of what `write_scores` wrote.

    Raises:
      InputError: as `score_imagenet`.
    """
    return score_imagenet(Inputs(results, _classes_of(results))).scores


def _imagenet(name, templates, method, files):
    return Benchmark(
        name,
        read_imagenet,
        files,
        templates,
        method,
        write_scores,
        score_classes,
        main_score="top_1",
        score_one=right_answer,
        scale=100.0,
        chance=0.1,
        results="results.npy",
    )


_FILES = (
    "val/SYNSET/*.JPEG (or val/*.JPEG with LOC_val_solution.csv or the development kit); class_names.json, "
    "imagenet_class_index.json or LOC_synset_mapping.txt"
)
CLASSES = (
    _imagenet("imagenet_zero_shot", tuple(Template("{image}", form) for form in CLASS_FORMS), "classes", _FILES),
    _imagenet(
        "imagenet_few_shot",
        (Template("{image}Output:"), Template("{image}A photo of a"), Template("{image}What is this? Answer:")),
        "rank",
        f"{_FILES}; for shots train/SYNSET/",
    ),
)
