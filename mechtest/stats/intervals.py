"""Between which bounds does the effect lie, and when is there no such pair of bounds?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from mechtest.stats.effects import ClusterEffect
from mechtest.stats.levels import SLACK
from mechtest.stats.sign_flip import (
    EXACT_UP_TO,
    FLIPS,
    drawn_patterns,
    smallest_sign_flip_p,
    subset_sums,
)
from mechtest.stats.validation import fraction

__all__ = ["Interval", "fieller_interval", "interval_of_sums", "inversion_interval"]

INVERSION = "sign-flip inversion"


@dataclass(frozen=True)
class Interval:
    """A confidence interval, or the reason why there is none.

    Attributes:
        low: Lower end; None where the set of values has no lower bound.
        high: Upper end; None where it has no upper bound.
        confidence: Two-sided confidence; each tail has half of the rest.
        method: How it was computed.
        reason: Why an end is missing; empty when both are there.
    """

    low: float | None
    high: float | None
    confidence: float
    method: str
    reason: str = ""

    @property
    def bounded(self) -> bool:
        """Whether both ends exist."""
        return self.low is not None and self.high is not None


def fieller_interval(effect: ClusterEffect, confidence: float) -> Interval:
    """Return the Fieller interval of the effect over cluster means.

    The values theta that a two-sided t test of mean(A_g - theta * B_g) = 0 with clusters - 1
    degrees of freedom does not reject.

    Null hypothesis: inverted, E[A_g] = theta * E[B_g], for every theta.
    Unit: the cluster.
    Exactness: exact for bivariate normal cluster means; in simulation .902 at nominal .90.
    The set can be everything outside a gap, or the whole line, when denominators are not clearly
    away from zero: `low` and `high` are then None and `reason` has the set. So they are when the
    clusters agree perfectly, where a t test knows no uncertainty: use `inversion_interval`.

    Sources: Fieller 1954; Franz 2007, section 3 (the three kinds of sets).
    """
    tail = (1 - fraction(confidence, "confidence")) / 2
    a, b = np.array(effect.numerators), np.array(effect.denominators)
    quantile = _t_quantile(1 - tail, len(a) - 1)
    if _no_spread(a, b):
        return Interval(
            None, None, confidence, "fieller", "all clusters give the same ratio: no spread"
        )
    # The set is {theta: (mean_a - theta mean_b)^2 <= quantile^2 var(a - theta b) / clusters},
    # a quadratic inequality square * theta^2 - 2 * linear * theta + constant <= 0.
    mean_a, mean_b = a.mean(), b.mean()
    covariance = np.cov(a, b) * quantile**2 / len(a)
    square = mean_b**2 - covariance[1, 1]
    linear = mean_a * mean_b - covariance[0, 1]
    constant = mean_a**2 - covariance[0, 0]
    discriminant = linear**2 - square * constant
    if square > 0 and discriminant >= 0:
        root = np.sqrt(discriminant)
        low, high = (linear - root) / square, (linear + root) / square
        return Interval(float(low), float(high), confidence, "fieller")
    if square < 0 < discriminant:
        root = np.sqrt(discriminant)
        upper, lower = (linear - root) / square, (linear + root) / square
        reason = (
            "denominators are not clearly different from zero: all values outside "
            f"({lower:.4g}, {upper:.4g}) are possible"
        )
    else:
        reason = "denominators are not clearly different from zero: every value is possible"
    return Interval(None, None, confidence, "fieller", reason)


def inversion_interval(
    effect: ClusterEffect,
    confidence: float,
    *,
    generator: np.random.Generator | None = None,
    flips: int = FLIPS,
) -> Interval:
    """Return the thresholds that neither one-sided sign-flip test rejects.

    With confidence = 1 - 2 * level, a threshold lies below the interval exactly when
    `sign_flip_test(effect.scores(threshold))` gives p <= level, and above it when the other
    direction does (ties aside; beyond 14 clusters with a generator of the same key). Interval and
    p value therefore never contradict each other.

    Null hypothesis: inverted, E[A_g] = theta * E[B_g], for every theta.
    Exchange unit: the sign of one cluster's score.
    Exactness: as `sign_flip_test`; the ends are ratios sum A / sum B of subsets of clusters.
    An end is None, with a reason, when there are too few clusters for it or when denominators of
    both signs make the set unbounded or leave a gap in it.

    Sources: Hartigan 1969, section 2 (typical values); Canay, Romano & Shaikh 2017.
    """
    level = (1 - fraction(confidence, "confidence")) / 2
    a, b = np.array(effect.numerators), np.array(effect.denominators)
    smallest = smallest_sign_flip_p(len(a), flips=flips)
    if _needed(level, round(1 / smallest)) == 0:
        reason = f"{len(a)} clusters give no p below {smallest:.2g}, the interval needs {level:.2g}"
        return Interval(None, None, confidence, INVERSION, reason)
    if len(a) <= EXACT_UP_TO:
        return interval_of_sums(subset_sums(a), subset_sums(b), confidence)
    drawn = drawn_patterns(len(a), generator, flips)
    return interval_of_sums(drawn @ a, drawn @ b, confidence)


def interval_of_sums(
    sums_a: Float[np.ndarray, " pattern"], sums_b: Float[np.ndarray, " pattern"], confidence: float
) -> Interval:
    """Return what `inversion_interval` does, where the sums it needs are known already.

    Args:
        sums_a: Sum of the numerators over the clusters that each sign pattern flips; the pattern
            that flips nobody comes first.
        sums_b: The same of the denominators.
        confidence: Two-sided confidence.
    """
    level = (1 - fraction(confidence, "confidence")) / 2
    needed = _needed(level, len(sums_a))
    if needed == 0:
        reason = f"{len(sums_a)} sign patterns are too few for an interval of tails {level:.2g}"
        return Interval(None, None, confidence, INVERSION, reason)
    sums_a, sums_b = sums_a[1:], sums_b[1:]
    if (sums_b > 0).all():
        ratios = sums_a / sums_b
        # The two ends alone, not a whole sort: what a comparison of many claims spends its time on.
        ends = np.partition(ratios, (needed - 1, len(ratios) - needed))
        return Interval(float(ends[needed - 1]), float(ends[-needed]), confidence, INVERSION)
    return _general_inversion(sums_a, sums_b, needed, confidence, INVERSION)


def _needed(level: float, patterns: int) -> int:
    """Return how many patterns beside the observed one p > level takes."""
    return int(np.floor(level * (1 + SLACK) * patterns))


def _general_inversion(
    sums_a: Float[np.ndarray, " subset"],
    sums_b: Float[np.ndarray, " subset"],
    needed: int,
    confidence: float,
    method: str,
) -> Interval:
    """Invert where some subset has no positive denominator: p is not monotone in theta there."""
    ratios = np.unique(sums_a[sums_b != 0] / sums_b[sums_b != 0])
    between = (ratios[1:] + ratios[:-1]) / 2
    outside = [ratios[0] - 1, ratios[-1] + 1] if len(ratios) else [0.0]
    probes = np.sort(np.concatenate([ratios, between, outside]))
    # Subsets with sum A <= theta * sum B keep the mean score as large when flipped.
    keeps_greater = _subsets_kept(sums_a, sums_b, probes)
    keeps_less = _subsets_kept(-sums_a, -sums_b, probes)
    accepted = (keeps_greater >= needed) & (keeps_less >= needed)
    inside = np.flatnonzero(accepted)
    doubt = "some clusters have no positive denominator"
    if len(inside) == 0:
        return Interval(None, None, confidence, method, f"{doubt}: no value is accepted")
    if inside[-1] - inside[0] + 1 != len(inside):
        return Interval(None, None, confidence, method, f"{doubt}: the accepted values leave a gap")
    low = None if accepted[0] else float(probes[inside[0]])
    high = None if accepted[-1] else float(probes[inside[-1]])
    missing = {(True, True): "every value is possible", (True, False): "no lower bound"}
    reason = (
        ""
        if low is not None and high is not None
        else (f"{doubt}: {missing.get((low is None, high is None), 'no upper bound')}")
    )
    return Interval(low, high, confidence, method, reason)


def _subsets_kept(
    sums_a: Float[np.ndarray, " subset"],
    sums_b: Float[np.ndarray, " subset"],
    probes: Float[np.ndarray, " probe"],
) -> Int[np.ndarray, " probe"]:
    """Count, for every probe theta, the subsets with sum A <= theta * sum B."""
    up, down, flat = sums_b > 0, sums_b < 0, sums_b == 0
    rising = np.searchsorted(np.sort(sums_a[up] / sums_b[up]), probes, side="right")
    limits = np.sort(sums_a[down] / sums_b[down])
    falling = len(limits) - np.searchsorted(limits, probes, side="left")
    return rising + falling + int((sums_a[flat] <= 0).sum())


def _no_spread(a: Float[np.ndarray, " cluster"], b: Float[np.ndarray, " cluster"]) -> bool:
    """Tell whether a - theta * b is zero in all clusters for some theta (or b is zero)."""
    norm = float(b @ b)
    if norm == 0:
        return bool(np.ptp(a) == 0)
    residual = a - (a @ b) / norm * b
    scale = max(float(np.abs(a).max()), float(np.abs(b).max()))
    return bool(np.abs(residual).max() <= 1e-9 * scale)


def _t_quantile(probability: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
