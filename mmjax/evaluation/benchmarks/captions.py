"""Captions: COCO and Flickr30k in Karpathy's split, and NoCaps.

Layouts: `dataset_coco.json` and `dataset_flickr30k.json` of Karpathy and Fei-Fei (2015), beside COCO's train2014 and
val2014 or Flickr30k's folder of pictures; NoCaps (Agrawal et al. 2019) as `nocaps_val_4500_captions.json`, whose
demonstrations are captions of COCO. Prompts as in Flamingo (Alayrac et al. 2022) and OpenFlamingo.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import Path

from mmjax.core.errors import InputError
from mmjax.evaluation.benchmark import Answer, Benchmark, Item, Split, Template
from mmjax.evaluation.benchmarks.official import listed, official_file, one_line, picture, scorer, write_json
from mmjax.evaluation.metrics.caption_tasks import score_captions
from mmjax.evaluation.metrics.records import field, text_field

CAPTION_TEMPLATES = (
    Template("{image}Output:"),
    Template("{image}A picture of", " {answer}"),
    Template("{image}Describe the picture briefly:"),
    Template("{image}Caption:"),
)
FLICKR_FOLDERS = ("flickr30k-images", "flickr30k_images")
_SPLITS = {"test": ("test",), "train": ("train", "restval")}


def read_karpathy(folder: Path, split: Split, *, file: str) -> list[Item]:
    """A picture with all its captions an item: the split "test", or "train" and "restval" together.

    Raises:
      InputError: there is no such file, or it is of another layout.
    """
    path = official_file(folder, file)
    items = []
    for image in listed(path, "images"):
        if field(image, ["split"], path) in _SPLITS[split]:
            key, name = field(image, ["cocoid", "filename"], path), text_field(image, ["filename"], path)
            texts = tuple(one_line(text_field(one, ["raw"], path)) for one in field(image, ["sentences"], path))
            if not texts:
                raise InputError(f"{path}: the picture {name} has no caption")
            beside = [image["filepath"]] if isinstance(image.get("filepath"), str) else FLICKR_FOLDERS
            names = [*(f"{place}/{name}" for place in beside), name]
            media = picture(folder, names, f"picture {key} of {path.name}")
            items.append(Item(str(key), (media,), {}, texts, record={"image_id": key}))
    if not items:
        raise InputError(f"{path} has no picture of the split {' or '.join(_SPLITS[split])}")
    return items


def read_nocaps(folder: Path, split: Split) -> list[Item]:
    """The pictures of NoCaps' validation set; for demonstrations those of COCO.

    Raises:
      InputError: as `read_karpathy`.
    """
    if split == "train":
        return read_karpathy(folder, split, file="dataset_coco.json")
    path = official_file(folder, "nocaps_val_4500_captions.json")
    texts: dict[str, list[str]] = {}
    for row in listed(path, "annotations"):
        key = str(field(row, ["image_id"], path))
        texts.setdefault(key, []).append(one_line(text_field(row, ["caption"], path)))
    items = []
    for image in listed(path, "images"):
        key, name = field(image, ["id"], path), text_field(image, ["file_name"], path)
        if str(key) not in texts:
            raise InputError(f"{path}: the picture {name} has no caption")
        media = picture(folder, [f"images/{name}", f"val/{name}", name], f"picture {key} of {path.name}")
        items.append(Item(str(key), (media,), {}, tuple(texts[str(key)]), record={"image_id": key}))
    return items


def finish_caption(text: str) -> str:
    """A caption: up to where the next demonstration would begin, without quotation marks."""
    return one_line(re.split("Output:|Caption:", text, maxsplit=1)[0].replace('"', ""))


def write_captions(answers: Sequence[Answer], path: Path) -> None:
    """COCO's results: [{image_id, caption}]."""
    write_json([{"image_id": one.item.record["image_id"], "caption": one.answer} for one in answers], path)


def _captions(name, read, files, references):
    return Benchmark(
        name,
        read,
        files,
        CAPTION_TEMPLATES,
        "generate",
        write_captions,
        scorer(score_captions, references),
        main_score="CIDEr",
        finish=finish_caption,
        max_tokens=30,
    )


CAPTIONS = (
    _captions(
        "coco_caption",
        functools.partial(read_karpathy, file="dataset_coco.json"),
        "dataset_coco.json (Karpathy's split); val2014/, train2014/",
        "dataset_coco.json",
    ),
    _captions(
        "flickr30k",
        functools.partial(read_karpathy, file="dataset_flickr30k.json"),
        "dataset_flickr30k.json (Karpathy's split); flickr30k-images/",
        "dataset_flickr30k.json",
    ),
    _captions(
        "nocaps",
        read_nocaps,
        "nocaps_val_4500_captions.json; images/; for shots dataset_coco.json and train2014/, val2014/",
        "nocaps_val_4500_captions.json",
    ),
)
