"""Is a mean score above zero, when a few clusters lie far on the wrong side?

Sign flips take scores for symmetric. Where they are not, two tests that know of skewness join: the
bootstrap-t, and a t test of the mean after Hall's transformation. Either errs a little too often at
few clusters, and about as often; where the tail is a handful of equal clusters the first hardly
ever supports anything, where it is long and smooth the second asks for more. So the smaller counts.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from mechtest.stats.bootstrap_t import RESAMPLES, RatioResamples
from mechtest.stats.effects import skewness

__all__ = ["hall_transformed", "skewed_against", "skewed_mean_p"]

SKEWED = 0.01
"""Skewness against the claim from which on it counts: any but that of rounding."""

MANY = 500
"""Clusters beyond which skewness no longer matters to a mean, and a second test only costs."""


def skewed_against(scores: Float[np.ndarray, " cluster"]) -> bool:
    """Tell whether some clusters lie far on the wrong side of the others.

    Not where every cluster is on the right side: then there is nothing to tell of its size.

    Args:
        scores: One a cluster; positive ones speak for the claim.
    """
    if len(scores) > MANY or bool((scores > 0).all()):
        return False
    return skewness(scores) < -SKEWED


def skewed_mean_p(resamples: RatioResamples, theta: float, sign: int = 1) -> float:
    """Return p of "the mean of sign * (a - theta * b) is above zero", for skewed scores.

    Null hypothesis: that mean is <= 0.
    Unit: the cluster.
    Exactness: approximate; docs/statistics.md has the rates. At nominal .05 and 12 clusters of
        exponential scores .09, where sign flips alone give .13.

    Args:
        resamples: Bootstrap samples of a and b.
        theta: Threshold.
        sign: -1 for the other direction.

    Sign: a small p speaks for a positive mean.
    Numerics: rounded up to steps of 1e-4, as the resamples give them: digits beyond that are those
        of rounding in the model.
    Sources: Hall 1992, sections 3.2 (bootstrap-t) and 3.9 (transformation); Hall 1992b, "On the
        removal of skewness by transformation".
    """
    from scipy.special import stdtr

    scores = sign * (resamples.a - theta * resamples.b)
    boot = resamples.p(theta, sign)
    spread = float(scores.std(ddof=1))
    if spread <= 1e-9 * float(np.abs(scores).max()):
        return boot
    ratio = float(scores.mean()) / spread
    moved = float(hall_transformed(np.array(ratio), np.array(skewness(scores)), len(scores)))
    tail = float(stdtr(len(scores) - 1, -moved * np.sqrt(len(scores))))
    return min(boot, (1 + math.floor(tail * RESAMPLES)) / (1 + RESAMPLES))


def hall_transformed(
    ratio: Float[np.ndarray, "*sample"], skew: Float[np.ndarray, "*sample"], clusters: int
) -> Float[np.ndarray, "*sample"]:
    """Return mean over standard deviation without the skewness, which it takes away to first order.

    T + g T^2 / 3 + g^2 T^3 / 27 + g / 6n: it rises with T, and is T where nothing is skewed.
    """
    moved = ratio + skew * ratio**2 / 3 + skew**2 * ratio**3 / 27 + skew / (6 * clusters)
    return np.asarray(moved)
