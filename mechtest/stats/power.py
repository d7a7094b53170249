"""How many clusters, controls or seeds would settle a claim?

For planning, and for telling what would settle an inconclusive claim. Every answer is a forecast
under the numbers assumed, not a promise.
"""

from __future__ import annotations

import functools
import math
import warnings
from dataclasses import dataclass

import numpy as np

from mechtest.errors import SampleError
from mechtest.stats.effects import ClusterEffect
from mechtest.stats.levels import reaches
from mechtest.stats.monte_carlo import LOSSES, most_controls
from mechtest.stats.sign_flip import (
    EXACT_UP_TO,
    Alternative,
    needed_clusters,
    smallest_sign_flip_p,
)
from mechtest.stats.skewed_mean import hall_transformed
from mechtest.stats.validation import finite_number, fraction

__all__ = [
    "ClusterPlan",
    "clusters_for_power",
    "control_power",
    "effect_test_power",
    "plan_clusters",
    "standardised_distance",
]

MOST_CLUSTERS = 10_000
SIMULATED, SAMPLES = 60, 10_000
"""Clusters up to which power is simulated, and samples for it."""


@dataclass(frozen=True)
class ClusterPlan:
    """How many clusters a claim about an effect needs.

    Attributes:
        clusters: Clusters needed; None where more than 10,000 or where no number helps.
        reason: Which requirement decides, or why no number helps.
        distance: Assumed effect minus threshold, in standard deviations of the cluster scores.
        power: Power asked for.
        level: Level of the claim.
    """

    clusters: int | None
    reason: str
    distance: float
    power: float
    level: float


def effect_test_power(distance: float, clusters: int, level: float) -> float:
    """Return the power of the effect test over `clusters` clusters.

    Args:
        distance: d = (assumed effect - threshold) * mean(B_g) / sd(r_g).
        clusters: Number of clusters.
        level: One-sided level.

    Exactness: for normal scores, to about .01 at .05 from 8 clusters on, and up to .05 too low at
        .0025. Sign flips have the power of the t test; the test that joins where a sample happens
        to be skewed against the claim has at least that of a t test of Hall's transformed mean.
        Both are asked of 10,000 samples, the same ones whatever the distance. Beyond 60 clusters
        the second takes next to nothing away, and the noncentral t distribution answers. Zero where
        sign flips of so few clusters cannot reach the level.

    Sources: Hall 1992 (the transformation); `statsmodels.stats.power.TTestPower`.
    """
    if clusters < 2 or not reaches(smallest_sign_flip_p(clusters), level):
        return 0.0
    d = finite_number(distance, "distance")
    if clusters > SIMULATED:
        return _t_test_power(d, clusters, level)
    from scipy.special import stdtrit

    means, spreads, skews = _normal_samples(clusters)
    ratio = (means + d) / spreads
    transformed = hall_transformed(ratio, np.minimum(skews, 0.0), clusters)
    critical = float(stdtrit(clusters - 1, 1 - level)) / math.sqrt(clusters)
    return float(((ratio > critical) & (transformed > critical)).mean())


@functools.lru_cache(maxsize=256)
def _normal_samples(clusters: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return mean, standard deviation and skewness of samples of standard normal scores."""
    generator = np.random.Generator(np.random.Philox(key=clusters))
    drawn = generator.standard_normal((SAMPLES, clusters))
    means, spreads = drawn.mean(1), drawn.std(1, ddof=1)
    centred = drawn - means[:, None]
    return means, spreads, (centred**3).mean(1) / (centred**2).mean(1) ** 1.5


def _t_test_power(d: float, clusters: int, level: float) -> float:
    from statsmodels.stats.power import TTestPower

    with warnings.catch_warnings():
        # Far in a tail the noncentral t is 0 or 1 and scipy says so.
        warnings.simplefilter("ignore", RuntimeWarning)
        power = float(TTestPower().power(d, clusters, level, alternative="larger"))
    if math.isnan(power):
        return 1.0 if d > 0 else 0.0
    return min(1.0, max(0.0, power))


def clusters_for_power(distance: float, level: float, *, power: float = 0.8) -> ClusterPlan:
    """Return the fewest clusters that give the effect test the power asked for.

    The larger of what sign flips can resolve (`needed_clusters`) and what the t test needs; found
    by search over whole numbers, because `TTestPower.solve_power` does not converge for large
    distances and returns fractions or its starting value.

    A distance that is not positive can never be shown: the assumed effect is not above the
    threshold.
    """
    d = finite_number(distance, "distance")
    fraction(power, "power")
    fewest = needed_clusters(level)
    if d <= 0:
        reason = "the assumed effect is not beyond the threshold: no number of clusters shows it"
        return ClusterPlan(None, reason, d, power, level)
    if not reaches(smallest_sign_flip_p(EXACT_UP_TO + 1), level):
        reason = f"more random sign patterns are needed for a level of {level:.2g}"
        return ClusterPlan(None, reason, d, power, level)
    if effect_test_power(d, fewest, level) >= power:
        return ClusterPlan(fewest, "fewest clusters that can reach the level", d, power, level)
    low, high = fewest, 2 * fewest
    while effect_test_power(d, high, level) < power:
        low, high = high, 2 * high
        if high > MOST_CLUSTERS:
            reason = f"more than {MOST_CLUSTERS} clusters: the effect is too near the threshold"
            return ClusterPlan(None, reason, d, power, level)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if effect_test_power(d, middle, level) >= power else (middle, high)
        )
    return ClusterPlan(high, f"power {power:.0%} at the assumed effect", d, power, level)


def standardised_distance(effect: ClusterEffect, threshold: float, assumed: float) -> float:
    """Return how far `assumed` lies from the threshold, in standard deviations of cluster scores.

    d = (assumed - threshold) * mean(B_g) / sd(A_g - assumed * B_g), for an effect measured in a
    pilot (discovery split).

    Raises:
        SampleError: Clusters do not differ, so that no distance can be given.
    """
    spread = float(effect.scores(assumed).std(ddof=1))
    size = float(np.mean(effect.denominators))
    if spread <= 1e-9 * abs(size):
        raise SampleError(
            "the clusters of the pilot do not differ, so no power can be computed",
            given=f"{effect.clusters} clusters with a spread of {spread:.2g}",
        )
    return (finite_number(assumed, "assumed effect") - threshold) * size / spread


def plan_clusters(
    pilot: ClusterEffect,
    threshold: float,
    level: float,
    *,
    assumed: float | None = None,
    alternative: Alternative = "greater",
) -> ClusterPlan:
    """Return the clusters needed if the truth is `assumed` (by default the pilot's estimate).

    `alternative` is the direction of the claim: `"less"` for an effect that should be absent.
    """
    truth = pilot.estimate if assumed is None else assumed
    if truth is None:
        return ClusterPlan(None, "the pilot shows no behaviour", 0.0, 0.8, level)
    distance = standardised_distance(pilot, threshold, truth)
    return clusters_for_power(distance if alternative == "greater" else -distance, level)


def control_power(exceedance: float, level: float, *, losses: int = LOSSES) -> float:
    """Return P(the control test ends "specific") when a share of controls beats the claim.

    Args:
        exceedance: Probability that one control is at least as extreme as the claim.
        level: Level of the claim.
        losses: h.

    Exactness: exact: fewer than h losses among `most_controls`.
    """
    from scipy.special import bdtr

    share = finite_number(exceedance, "exceedance")
    if not 0 <= share <= 1:
        raise SampleError("exceedance lies outside [0, 1]", given=exceedance)
    return float(bdtr(losses - 1, most_controls(level, losses=losses), share))
