"""Captions: COCO, Flickr30k and NoCaps, all scored as COCO's official scorer does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmjax.core.errors import InputError
from mmjax.evaluation.metrics import captions, java, ptb
from mmjax.evaluation.metrics.layout import Inputs, Scores
from mmjax.evaluation.metrics.records import by_id, field, pair, read_json, read_records, text_field


def score_captions(inputs: Inputs) -> Scores:
    """BLEU-1 to 4, METEOR, ROUGE-L, CIDEr (that is CIDEr-D) and SPICE of one caption for each image.

    Raises:
      InputError: files of another layout, ids that do not match, or images without references.
    """
    pairs = pair(_predicted(inputs.predictions), _references(inputs.reference_file()), subset=inputs.subset)
    tokens = iter(ptb.tokenize([text for found in pairs for text in found.reference]))
    references = [list(itertools.islice(tokens, len(found.reference))) for found in pairs]
    candidates = ptb.tokenize([found.prediction for found in pairs])
    scores: dict[str, float | None] = {
        f"Bleu_{n}": value for n, value in enumerate(captions.bleu(candidates, references), 1)
    }
    reasons: dict[str, str] = {}
    scores["METEOR"] = _by_java("METEOR", java.meteor, candidates, references, reasons)
    scores["ROUGE_L"] = captions.rouge_l(candidates, references)
    scores["CIDEr"] = captions.cider_d(candidates, references)
    scores["SPICE"] = _by_java("SPICE", java.spice, candidates, references, reasons)
    return Scores(scores, len(pairs), reasons)


def _by_java(
    name: str,
    score: Callable[[Sequence[str], Sequence[Sequence[str]]], float],
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    reasons: dict[str, str],
) -> float | None:
    try:
        value = score(candidates, references)
    except java.Unavailable as error:
        reasons[name] = str(error)
        return None
    if not math.isfinite(value):
        reasons[name] = f"the {name} program answered {value}"
        return None
    return value


def _predicted(path: Path) -> dict[str, str]:
    rows = read_records(path)
    return by_id(((field(row, ["image_id"], path), text_field(row, ["caption"], path)) for row in rows), path)


def _references(path: Path) -> dict[str, list[str]]:
    """The captions of each image, in any of the layouts: COCO's, Karpathy's, or {image_id: [captions]}."""
    whole = read_json(path)
    if not isinstance(whole, dict):
        raise InputError(f"{path} must be an object: COCO's annotations, Karpathy's split, or {{image_id: [captions]}}")
    if isinstance(whole.get("annotations"), list):
        found = _of_coco(whole, path)
    elif isinstance(whole.get("images"), list):
        found = _of_karpathy(whole["images"], path)
    else:
        found = {str(key): _texts(value, f"{path}: image {key}") for key, value in whole.items()}
    bare = [key for key, texts in found.items() if not texts]
    if bare:
        raise InputError(f"{path}: {len(bare)} of {len(found)} images have no caption, {bare[0]} for one")
    return found


def _of_coco(whole: dict[str, Any], path: Path) -> dict[str, list[str]]:
    """The order of images is that of the list of images, as in the official scorer."""
    images = whole.get("images", [])
    found: dict[str, list[str]] = {str(field(image, ["id"], path)): [] for image in images}
    for row in whole["annotations"]:
        found.setdefault(str(field(row, ["image_id"], path)), []).append(text_field(row, ["caption"], path))
    return found


def _of_karpathy(images: list[dict[str, Any]], path: Path) -> dict[str, list[str]]:
    """The images of the test split, by their COCO id or their file's name."""
    test = [image for image in images if field(image, ["split"], path) == "test"]
    if not test:
        raise InputError(f"{path} has no image of the split test")
    named = ((field(image, ["cocoid", "filename"], path), field(image, ["sentences"], path)) for image in test)
    return by_id(((key, [text_field(text, ["raw"], path) for text in texts]) for key, texts in named), path)


def _texts(value: Any, where: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
        raise InputError(f"{where} must have a list of captions")
    return value
