"""What two towers say: similarities of pictures with texts, of which retrieval and zero-shot classes are scored."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mmjax.core.arrays import Float
from mmjax.core.errors import InputError
from mmjax.evaluation.benchmark import Answer, Item, Template

# Pictures whose similarities are computed at once.
_ROWS = 1024


def caption_texts(items: Sequence[Item], template: Template) -> list[str]:
    """The captions of all items, in order, as a template writes them: the texts of retrieval."""
    return [written(template, answer) for item in items for answer in item.answers]


def class_texts(items: Sequence[Item], templates: Sequence[Template]) -> list[list[str]]:
    """The names of the classes in each form: the texts of zero-shot classification.

    Raises:
      InputError: there are no items, or they do not share their candidates.
    """
    classes = items[0].candidates if items else ()
    if not classes or any(item.candidates != classes for item in items):
        raise InputError("zero-shot classification needs items that all have the same classes for candidates")
    return [[written(template, name) for name in classes] for template in templates]


def written(template: Template, answer: str) -> str:
    """An answer as the template writes it, by itself."""
    return template.answer.replace("{answer}", answer).strip()


def retrieval_scores(pictures: Float[np.ndarray, "N D"], texts: Float[np.ndarray, "M D"]) -> Float[np.ndarray, "N M"]:
    """Cosines of pictures and texts. All vectors are brought to unit length, in float32.

    Raises:
      InputError: vectors of different lengths, or some that are zero or not finite.
    """
    pictures, texts = _unit(pictures, "pictures"), _unit(texts, "texts")
    if pictures.shape[1] != texts.shape[1]:
        raise InputError(f"vectors of pictures have {pictures.shape[1]} numbers, those of texts {texts.shape[1]}")
    scores = np.empty((len(pictures), len(texts)), np.float32)
    for start in range(0, len(pictures), _ROWS):
        np.matmul(pictures[start : start + _ROWS], texts.T, out=scores[start : start + _ROWS])
    return scores


def class_scores(
    pictures: Float[np.ndarray, "N D"], texts: Float[np.ndarray, "forms classes D"]
) -> Float[np.ndarray, "N classes"]:
    """Cosines of pictures and classes; a class is the mean of the unit vectors of its forms (CLIP's prompt ensemble).

    Raises:
      InputError: as `retrieval_scores`.
    """
    forms, classes, width = texts.shape
    unit = _unit(texts.reshape(forms * classes, width), "texts").reshape(texts.shape)
    return retrieval_scores(pictures, unit.mean(axis=0))


def answers_of(items: Sequence[Item], scores: Float[np.ndarray, "N M"], names: Sequence[str]) -> list[Answer]:
    """What each picture takes for its text: the most similar one.

    Args:
      scores: of each item its similarities with all texts.
      names: the answer that each text stands for: a caption, or the name of a class.

    Raises:
      InputError: there are not as many rows as items, or columns as names.
    """
    if scores.shape != (len(items), len(names)):
        raise InputError(f"similarities {scores.shape} are not those of {len(items)} pictures and {len(names)} texts")
    best = scores.argmax(axis=1)
    return [Answer(item, names[place], names[place], row) for item, place, row in zip(items, best, scores, strict=True)]


def _unit(vectors: Float[np.ndarray, "N D"], what: str) -> Float[np.ndarray, "N D"]:
    vectors = np.asarray(vectors, np.float32)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    wrong = int((~(np.isfinite(lengths) & (lengths > 0))).sum())
    if wrong:
        raise InputError(f"{wrong} of {len(vectors)} vectors of {what} are zero or not finite")
    return vectors / lengths
