"""Scores of captions against several references: BLEU, ROUGE-L, CIDEr-D and CIDEr, as COCO's official scorer has them.

All take tokenized captions, as `ptb.tokenize` makes them: tokens with a space between. They are equal to those of
pycocoevalcap, the official scorer in Python 3, in every printed digit. Scores run from 0 to 1, CIDEr from 0 to 10.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mmjax.core.errors import InputError

_LONGEST = 4
_GAUSSIAN_WIDTH = 6.0
_RECALL_WEIGHT = 1.2
# The official scorer's guards against division by zero; they move scores of empty captions off 0 and nothing else.
_SMALL, _TINY = 1e-9, 1e-15

Ngrams = Counter[tuple[str, ...]]


def bleu(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, float, float, float]:
    """BLEU-1 to BLEU-4 of the corpus (Papineni et al. 2002): brevity penalty x geometric mean of clipped precisions.

    An n-gram counts at most as often as in the reference that has it most. The length that the brevity penalty compares
    with is, for each caption, that of the reference closest in length, the shorter one of two.

    Raises:
      InputError: no captions, not as many candidates as lists of references, or a caption without a reference.
    """
    _check(candidates, references)
    matched, total = [0] * _LONGEST, [0] * _LONGEST
    length = wanted = 0
    for candidate, texts in zip(candidates, references, strict=True):
        words = candidate.split()
        ceiling: Ngrams = Counter()
        for text in texts:
            ceiling |= _ngrams(text)
        for ngram, count in _ngrams(candidate).items():
            matched[len(ngram) - 1] += min(count, ceiling[ngram])
        for n in range(_LONGEST):
            total[n] += max(0, len(words) - n)
        length += len(words)
        wanted += min((abs(size - len(words)), size) for size in (len(text.split()) for text in texts))[1]
    ratio = (length + _TINY) / (wanted + _SMALL)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, product = [], 1.0
    for n in range(_LONGEST):
        product *= (matched[n] + _TINY) / (total[n] + _SMALL)
        scores.append(product ** (1 / (n + 1)) * penalty)
    return tuple(scores)


def rouge_l(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """ROUGE-L (Lin 2004), the mean over captions of F = (1 + b^2) P R / (R + b^2 P) with b = 1.2.

    P and R are the longest common subsequence over the length of the candidate and of the reference. As in the official
    scorer the best precision and the best recall may come from different references.

    Raises:
      InputError: as `bleu`.
    """
    _check(candidates, references)
    return math.fsum(map(_rouge_l_of_one, candidates, references)) / len(candidates)


def _rouge_l_of_one(candidate: str, texts: Sequence[str]) -> float:
    # An empty caption is one empty token to the official scorer.
    words = candidate.split(" ")
    split = [text.split(" ") for text in texts]
    common = [_longest_common_subsequence(words, reference) for reference in split]
    precision = max(common) / len(words)
    recall = max(length / len(reference) for length, reference in zip(common, split, strict=True))
    if precision == 0 or recall == 0:
        return 0.0
    weight = _RECALL_WEIGHT**2
    return (1 + weight) * precision * recall / (recall + weight * precision)


def _longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    above = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for column, other in enumerate(second, 1):
            row.append(above[column - 1] + 1 if word == other else max(above[column], row[-1]))
        above = row
    return above[-1]


class _Weighted(NamedTuple):
    """The n-grams of a caption with their TF-IDF weights, the norm for each n, and how many bigrams there are."""

    weights: dict[tuple[str, ...], float]
    norms: tuple[float, ...]
    bigrams: int


def cider_d(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr-D (Vedantam et al. 2015), which the official scorer prints as CIDEr, averaged over captions; from 0 to 10.

    10 x the mean over n = 1 to 4 and over references of the cosine of TF-IDF vectors, where a candidate's weight is
    clipped to the reference's, times exp(-d^2 / 72) for d bigrams more or less. The document frequency of an n-gram is
    the number of captions (images) any of whose references has it: the score depends on the whole set.

    Raises:
      InputError: as `bleu`.
    """

    def similarity(candidate: _Weighted, reference: _Weighted) -> float:
        score = _cosines(candidate, reference, lambda own, other: min(own, other) * other)
        return score * math.exp(-((candidate.bigrams - reference.bigrams) ** 2) / (2 * _GAUSSIAN_WIDTH**2))

    return _consensus(candidates, references, similarity)


def cider(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """CIDEr without the changes of its -D: no clipping and no penalty of length; from 0 to 10.

    Raises:
      InputError: as `bleu`.
    """
    return _consensus(candidates, references, lambda own, other: _cosines(own, other, lambda a, b: a * b))


def _consensus(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    similarity: Callable[[_Weighted, _Weighted], float],
) -> float:
    _check(candidates, references)
    counted = [[_ngrams(text) for text in texts] for texts in references]
    frequency = Counter(ngram for texts in counted for ngram in set().union(*texts))
    log_images = math.log(len(candidates))

    def weigh(counts: Ngrams) -> _Weighted:
        weights = {ngram: n * (log_images - math.log(max(1, frequency[ngram]))) for ngram, n in counts.items()}
        squares = [0.0] * _LONGEST
        for ngram, weight in weights.items():
            squares[len(ngram) - 1] += weight**2
        bigrams = sum(n for ngram, n in counts.items() if len(ngram) == 2)
        return _Weighted(weights, tuple(map(math.sqrt, squares)), bigrams)

    scores = []
    for candidate, texts in zip(candidates, counted, strict=True):
        own = weigh(_ngrams(candidate))
        scores.append(10 * sum(similarity(own, weigh(text)) for text in texts) / (_LONGEST * len(texts)))
    return math.fsum(scores) / len(scores)


def _cosines(candidate: _Weighted, reference: _Weighted, product: Callable[[float, float], float]) -> float:
    """The sum over n of the cosines of the n-grams' weights, with `product` in the place of the plain product."""
    sums = [0.0] * _LONGEST
    for ngram, weight in candidate.weights.items():
        if ngram in reference.weights:
            sums[len(ngram) - 1] += product(weight, reference.weights[ngram])
    norms = [own * other for own, other in zip(candidate.norms, reference.norms, strict=True)]
    return sum(value / norm for value, norm in zip(sums, norms, strict=True) if norm)


def _ngrams(text: str) -> Ngrams:
    words = text.split()
    return Counter(tuple(words[i : i + n]) for n in range(1, _LONGEST + 1) for i in range(len(words) - n + 1))


def _check(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    if not candidates:
        raise InputError("there are no captions to score")
    if len(candidates) != len(references):
        raise InputError(f"{len(candidates)} captions cannot be scored against references of {len(references)}")
    alone = sum(not texts for texts in references)
    if alone:
        raise InputError(f"{alone} of {len(references)} captions have no reference")
