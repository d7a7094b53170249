"""What share of something is it, when few trials were made?"""

from __future__ import annotations

import operator

import numpy as np

from mechtest.errors import SampleError
from mechtest.stats.intervals import Interval
from mechtest.stats.validation import fraction

__all__ = ["clopper_pearson_interval", "wilson_interval"]


def clopper_pearson_interval(successes: int, trials: int, confidence: float) -> Interval:
    """Return the Clopper-Pearson interval of a proportion; each tail has (1 - confidence) / 2.

    Null hypothesis: inverted, "the proportion is pi", for every pi (binomial tail tests).
    Unit: one independent trial.
    Exactness: coverage is at least `confidence` for every proportion. For trials that stopped at
        the last success (inverse sampling) the lower end is exact too; the upper is conservative.

    For a one-sided bound of confidence c take an end of the interval of confidence 2 * c - 1.

    Sources: Clopper & Pearson 1934. Equals `scipy.stats.binomtest(...).proportion_ci("exact")`;
        computed through `scipy.special`, which imports in a fraction of the time.
    """
    from scipy.special import betaincinv

    x, n = _counts(successes, trials)
    tail = (1 - fraction(confidence, "confidence")) / 2
    # betaincinv needs positive parameters: no or all successes leave one end without a bound.
    low = 0.0 if x == 0 else float(betaincinv(x, n - x + 1, tail))
    high = 1.0 if x == n else float(betaincinv(x + 1, n - x, 1 - tail))
    return Interval(low, high, confidence, "clopper-pearson")


def wilson_interval(successes: int, trials: int, confidence: float) -> Interval:
    """Return the Wilson score interval of a proportion.

    For rates that are shown, such as moved or broken answers. It covers `confidence` on average
    over proportions, not for each; a verdict uses `clopper_pearson_interval`.

    Null hypothesis: inverted, "the proportion is pi" by its normal score test.
    Unit: one independent trial. Prompts of one template are not independent: say so beside it.
    Exactness: approximate.
    Sources: Wilson 1927; Brown, Cai & DasGupta 2001, section 3.1.1.
    """
    from scipy.special import ndtri

    x, n = _counts(successes, trials)
    z = float(ndtri((1 + fraction(confidence, "confidence")) / 2))
    share, weight = x / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z * np.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    low = 0.0 if x == 0 else float(centre - half)
    high = 1.0 if x == n else float(centre + half)
    return Interval(low, high, confidence, "wilson")


def _counts(successes: int, trials: int) -> tuple[int, int]:
    try:
        x, n = operator.index(successes), operator.index(trials)
    except TypeError:
        raise SampleError(
            "successes and trials should be whole numbers", given=f"{successes!r} of {trials!r}"
        ) from None
    if n < 1 or not 0 <= x <= n:
        raise SampleError(
            "a proportion needs 0 <= successes <= trials and at least one trial",
            given=f"{x} of {n}",
        )
    return x, n
