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
    """Percentile bootstrap of the mean over seeds and queries: queries are drawn anew, with replacement.

    Query q of every seed is about the same thing (a scan) with other demonstrations, so a query is drawn with its
    answers under all seeds (a cluster bootstrap): answers that go together are not counted as independent. With one
    seed it is the ordinary bootstrap.
    """
    queries = values.shape[1]
    by_query = values.astype(np.float64).mean(axis=0)
    draws = np.random.default_rng(seed).multinomial(queries, np.full(queries, 1 / queries), size=resamples)
    low, high = np.quantile(draws @ by_query / queries, (0.025, 0.975))
    # A quantile of means may come to lie beyond all values by a rounding error.
    return Interval(float(values.mean()), max(float(values.min()), float(low)), min(float(values.max()), float(high)))


def interval(values: Float[np.ndarray, "seeds queries"]) -> Interval:
    """The interval of a mean: the bootstrap's; Wilson's where answers are right or wrong, for several seeds the wider.

    The bootstrap alone has no width where all answers are right, or all wrong.
    """
    if not np.isin(values, (0, 1)).all():
        return bootstrap(values)
    plain = wilson(float(values.sum()), values.size)
    if len(values) == 1:
        return plain
    drawn = bootstrap(values)
    return Interval(plain.score, min(plain.low, drawn.low), max(plain.high, drawn.high))
