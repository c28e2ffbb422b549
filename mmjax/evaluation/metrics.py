"""Scores with 95% intervals."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from mmjax.core.arrays import Float

RESAMPLES = 2000
# Of the standard normal distribution, at 97.5%.
_Z95 = 1.959963984540054


class Interval(NamedTuple):
    """A score and the ends of its 95% interval."""

    score: float
    low: float
    high: float


def wilson(successes: float, trials: int) -> Interval:
    """The score interval of one proportion (Wilson 1927), which stays inside [0, 1] and is sound near its ends."""
    share = successes / trials
    shrink = 1.0 + _Z95**2 / trials
    middle = (share + _Z95**2 / (2 * trials)) / shrink
    reach = _Z95 * math.sqrt(share * (1 - share) / trials + _Z95**2 / (4 * trials**2)) / shrink
    return Interval(share, max(0.0, middle - reach), min(1.0, middle + reach))


def bootstrap(values: Float[np.ndarray, "seeds queries"], *, resamples: int = RESAMPLES, seed: int = 0) -> Interval:
    """Percentile bootstrap of the mean over seeds and queries, both drawn anew with replacement.

    Query q of every seed is about the same thing (a scan), so it is drawn or left out for all seeds together: answers
    that go together are not counted as independent (the pigeonhole bootstrap, Owen 2007, which errs to the wide side).
    With one seed it is the ordinary bootstrap over queries.
    """
    seeds, queries = values.shape
    random = np.random.default_rng(seed)
    drawn_seeds = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples) / seeds
    drawn_queries = random.multinomial(queries, np.full(queries, 1 / queries), size=resamples) / queries
    means = np.einsum("rs,rq,sq->r", drawn_seeds, drawn_queries, values.astype(np.float64), optimize=True)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(float(values.mean()), float(low), float(high))


def interval(correct: Float[np.ndarray, "seeds queries"]) -> Interval:
    """The interval of a share of right answers: Wilson's for one seed; for several the bootstrap's, but no narrower.

    The bootstrap alone has no width where all answers are right, or all wrong.
    """
    plain = wilson(float(correct.sum()), correct.size)
    if len(correct) == 1:
        return plain
    drawn = bootstrap(correct)
    return Interval(plain.score, min(plain.low, drawn.low), max(plain.high, drawn.high))
