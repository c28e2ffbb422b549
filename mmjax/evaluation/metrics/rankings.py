"""Scores of rankings and probabilities: retrieval recall, top-k accuracy, ROC-AUC, yes-or-no answers, calibration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import sklearn.metrics

from mmjax.core.arrays import Float, Int
from mmjax.core.errors import InputError


def retrieval_recall(
    similarity: Float[np.ndarray, "images texts"], image_of_text: Int[np.ndarray, " texts"], k: int
) -> tuple[float, float]:
    """Recall@k both ways: the share of images that find one of their texts, and of texts that find their image.

    A query finds if a right item is among the k most similar ones; a wrong item that is as similar as the right one
    counts as more similar, so that a matrix of equal numbers scores nothing.

    Raises:
      InputError: numbers that are not finite, indices out of range, or an image without a text.
    """
    _check_finite(similarity, "similarities")
    images, texts = similarity.shape
    if image_of_text.shape != (texts,) or not np.array_equal(np.unique(image_of_text), np.arange(images)):
        raise InputError(
            f"each of the {texts} texts needs the number of its image, and each image (0 to {images - 1}) a text"
        )
    right = image_of_text[None, :] == np.arange(images)[:, None]
    return _found(similarity, right, k), _found(similarity.T, right.T, k)


def _found(similarity: Float[np.ndarray, "queries items"], right: np.ndarray, k: int) -> float:
    best = np.where(right, similarity, -np.inf).max(axis=1, keepdims=True)
    before = ((similarity >= best) & ~right).sum(axis=1)
    return float((before < k).mean())


def top_k_accuracy(
    scores: Float[np.ndarray, "examples classes"], labels: Int[np.ndarray, " examples"], k: int
) -> float:
    """The share of examples whose class is among the k with the highest scores; ties count against it.

    Raises:
      InputError: scores that are not finite, or labels that are not classes.
    """
    _check_finite(scores, "scores")
    if labels.shape != scores.shape[:1] or labels.min() < 0 or labels.max() >= scores.shape[1]:
        raise InputError(f"{len(scores)} examples need as many labels, each from 0 to {scores.shape[1] - 1}")
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    before = (scores >= own).sum(axis=1) - 1
    return float((before < k).mean())


def roc_auc(probabilities: Float[np.ndarray, " examples"], labels: Int[np.ndarray, " examples"]) -> float:
    """The area under the ROC curve, by scikit-learn: how often a positive example is above a negative one.

    Raises:
      InputError: probabilities that are not finite, or labels that are not both 0 and 1.
    """
    _check_finite(probabilities, "probabilities")
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise InputError("the area under the ROC curve needs labels of both kinds, 0 and 1")
    return float(sklearn.metrics.roc_auc_score(labels, probabilities))


class YesNo(NamedTuple):
    """Scores of yes-or-no answers, "yes" being what is to be found; None where nothing is to be divided by."""

    accuracy: float
    precision: float | None
    recall: float | None
    f1: float | None
    yes_ratio: float


def says_yes(answer: str) -> bool:
    """Whether POPE (Li et al. 2023) takes an answer for a yes: no "no", "No" or "not" in its first sentence."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return not {"No", "not", "no"}.intersection(words)


def yes_no(answers: Sequence[bool], labels: Sequence[bool]) -> YesNo:
    """Accuracy, precision, recall, F1 and the share of yes, as POPE reports them."""
    pairs = list(zip(answers, labels, strict=True))
    if not pairs:
        raise InputError("there are no answers to score")
    hits = sum(answer and label for answer, label in pairs)
    said, true = sum(answers), sum(labels)
    return YesNo(
        accuracy=sum(answer == label for answer, label in pairs) / len(pairs),
        precision=hits / said if said else None,
        recall=hits / true if true else None,
        f1=2 * hits / (said + true) if said + true else None,
        yes_ratio=said / len(pairs),
    )


def calibration_error(
    confidences: Float[np.ndarray, " examples"], correct: Int[np.ndarray, " examples"], *, bins: int = 15
) -> float:
    """The expected calibration error (Guo et al. 2017): sum over bins of n_b / n |accuracy_b - mean confidence_b|.

    `bins` of equal width divide (0, 1]; a confidence on an edge is in the lower bin.

    Raises:
      InputError: confidences outside of [0, 1].
    """
    if not len(confidences) or not np.all((confidences >= 0) & (confidences <= 1)):
        raise InputError("the calibration error needs confidences from 0 to 1")
    place = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(place, weights=correct.astype(np.float64) - confidences, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidences))


def _check_finite(values: np.ndarray, name: str) -> None:
    if not values.size:
        raise InputError(f"there are no {name} to score")
    if not np.isfinite(values).all():
        raise InputError(f"{int((~np.isfinite(values)).sum())} of {values.size} {name} are not finite numbers")
