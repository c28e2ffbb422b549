"""Rankings and classes: retrieval, ImageNet, Hateful Memes."""

from __future__ import annotations

from typing import Any

import numpy as np

from mmjax.core.errors import InputError
from mmjax.evaluation.metrics import rankings
from mmjax.evaluation.metrics.layout import Inputs, Scores
from mmjax.evaluation.metrics.records import by_id, field, pair, read_array, read_indices, read_records

_CUTS = (1, 5, 10)


def score_retrieval(inputs: Inputs) -> Scores:
    """Recall@1, 5 and 10 in percent, from images to texts and back, of a matrix of similarities.

    Raises:
      InputError: files of another layout, numbers that are not finite, or an image without a text.
    """
    similarity = read_array(inputs.predictions, 2)
    images = read_indices(inputs.reference_file())
    found = {k: rankings.retrieval_recall(similarity, images, k) for k in _CUTS}
    ways = ("image_to_text", "text_to_image")
    scores = {f"{way}_R@{k}": 100 * found[k][number] for number, way in enumerate(ways) for k in _CUTS}
    return Scores(scores, similarity.shape[1])


def score_imagenet(inputs: Inputs) -> Scores:
    """Top-1 and top-5 accuracy in percent.

    Raises:
      InputError: files of another layout, numbers that are not finite, or labels that are no classes.
    """
    scores, labels = read_array(inputs.predictions, 2), read_indices(inputs.reference_file())
    found = {f"top_{k}": 100 * rankings.top_k_accuracy(scores, labels, k) for k in (1, 5)}
    return Scores(found, len(labels))


def score_hateful_memes(inputs: Inputs) -> Scores:
    """ROC-AUC of the probability that a meme is hateful, and accuracy of the labels; from 0 to 1.

    Without labels among the predictions, a probability of 0.5 or more is hateful.

    Raises:
      InputError: files of another layout, ids that do not match, or labels of one kind only.
    """
    path = inputs.reference_file()
    known = by_id(((field(row, ["id"], path), field(row, ["label"], path)) for row in read_records(path)), path)
    given = by_id(
        ((field(row, ["id"], inputs.predictions), row) for row in read_records(inputs.predictions)), inputs.predictions
    )
    pairs = pair(given, known, subset=inputs.subset)
    try:
        probabilities = np.array([float(field(found.prediction, ["proba"], inputs.predictions)) for found in pairs])
        said = [_label(found.prediction, value) for found, value in zip(pairs, probabilities, strict=True)]
        labels = np.array([int(found.reference) for found in pairs])
    except ValueError as error:
        raise InputError(f"probabilities and labels must be numbers: {error}") from error
    auc = rankings.roc_auc(probabilities, labels)
    return Scores({"roc_auc": auc, "accuracy": float(np.mean(np.array(said) == labels))}, len(pairs))


def _label(record: dict[str, Any], probability: float) -> int:
    given = record.get("label")
    return int(probability >= 0.5) if given in (None, "") else int(given)
