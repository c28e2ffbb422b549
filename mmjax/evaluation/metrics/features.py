"""Scores from the features of a model that the caller chose: the Frechet distance (FID) and CLIPScore."""

from __future__ import annotations

import numpy as np
import scipy.linalg

from mmjax.core.arrays import Float
from mmjax.core.errors import InputError


def frechet_distance(first: Float[np.ndarray, "pictures D"], second: Float[np.ndarray, "others D"]) -> float:
    """The Frechet distance of two sets of features, taken for normal distributions; FID (Heusel et al. 2017).

    |m1 - m2|^2 + trace(C1 + C2 - 2 (C1 C2)^(1/2)), with the covariances of the sample (n - 1). It is the FID of the
    literature if the features are the 2,048 of the last pooling of its Inception network.

    Raises:
      InputError: less than two rows, or rows of unequal length.
    """
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or min(len(first), len(second)) < 2:
        raise InputError(
            f"two sets of at least two features of one length are needed, not arrays {first.shape} and {second.shape}"
        )
    gap = first.mean(axis=0, dtype=np.float64) - second.mean(axis=0, dtype=np.float64)
    one, two = (np.atleast_2d(np.cov(values.astype(np.float64), rowvar=False)) for values in (first, second))
    # The trace of the root of C1 C2, through a symmetric matrix that has the same eigenvalues and no complex ones.
    values, vectors = scipy.linalg.eigh(one)
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.sqrt(np.clip(scipy.linalg.eigvalsh(root @ two @ root), 0, None)).sum()
    return float(gap @ gap + np.trace(one) + np.trace(two) - 2 * shared)


def clip_score(images: Float[np.ndarray, "pairs D"], texts: Float[np.ndarray, "pairs D"]) -> float:
    """CLIPScore (Hessel et al. 2021): 2.5 x the mean of max(0, cosine) of each picture and its caption; from 0 to 2.5.

    Raises:
      InputError: arrays of unequal shape, or a row of zeros.
    """
    return float(2.5 * np.clip(_cosines(images, texts), 0, None).mean())


def ref_clip_score(
    images: Float[np.ndarray, "pairs D"],
    texts: Float[np.ndarray, "pairs D"],
    references: list[Float[np.ndarray, "captions D"]],
) -> float:
    """RefCLIPScore (Hessel et al. 2021): the mean harmonic mean of a pair's CLIPScore and its best reference's cosine.

    Raises:
      InputError: as `clip_score`, or not one array of reference captions for each pair.
    """
    if len(references) != len(texts):
        raise InputError(f"{len(texts)} captions need as many sets of references, not {len(references)}")
    own = 2.5 * np.clip(_cosines(images, texts), 0, None)
    best = np.array(
        [
            max(0.0, _cosines(np.broadcast_to(text, known.shape), known).max())
            for text, known in zip(texts, references, strict=True)
        ]
    )
    total = own + best
    return float(np.divide(2 * own * best, total, out=np.zeros_like(total), where=total > 0).mean())


def _cosines(first: Float[np.ndarray, "rows D"], second: Float[np.ndarray, "rows D"]) -> Float[np.ndarray, " rows"]:
    if first.ndim != 2 or first.shape != second.shape or not len(first):
        raise InputError(f"features of pairs must have one shape [pairs, D], not {first.shape} and {second.shape}")
    one, two = first.astype(np.float64), second.astype(np.float64)
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    if not np.all(norms > 0):
        raise InputError(f"{int((norms == 0).sum())} pairs of features have a row of zeros, which has no direction")
    return (one * two).sum(axis=1) / norms
