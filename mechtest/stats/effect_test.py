"""Is the effect larger than the smallest one of interest, and is there a behaviour at all?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mechtest.stats.bootstrap_t import bootstrap_t_p
from mechtest.stats.effects import ClusterEffect, Heterogeneity
from mechtest.stats.intervals import Interval, fieller_interval, inversion_interval
from mechtest.stats.keys import keyed_generator
from mechtest.stats.levels import reaches
from mechtest.stats.sign_flip import Alternative, SignFlip, sign_flip_test

__all__ = ["Behaviour", "EffectTest", "behaviour_test", "effect_p_value", "effect_test"]

SKEWED = 1.0
"""Skewness against the claim beyond which a second test joins in."""

FEW = 30
"""Clusters from which on skewness no longer asks for it."""


@dataclass(frozen=True)
class EffectTest:
    """What is known about an effect against a threshold.

    Attributes:
        effect: The effect and its cluster means.
        threshold: theta0, the smallest effect of interest.
        alternative: Whether the claim is that the effect is above or below the threshold.
        p: The p value the verdict uses.
        method: How `p` was computed, in words.
        sign_flip: The sign-flip test.
        bootstrap_p: p of the bootstrap-t where skewness asked for it, else None.
        interval: Test-inversion interval of confidence 1 - 2 * level.
        fieller: Fieller interval of the same confidence.
        heterogeneity: Whether the clusters agree.
    """

    effect: ClusterEffect
    threshold: float
    alternative: Alternative
    p: float
    method: str
    sign_flip: SignFlip
    bootstrap_p: float | None
    interval: Interval
    fieller: Interval
    heterogeneity: Heterogeneity


@dataclass(frozen=True)
class Behaviour:
    """Whether there is a behaviour to explain.

    Attributes:
        present: Whether both conditions hold.
        p: Sign-flip p value of "the mean denominator is positive".
        mean: Mean denominator over clusters, in units of the metric.
        reason: What is missing; empty when present.
    """

    present: bool
    p: float
    mean: float
    reason: str = ""


def effect_test(
    effect: ClusterEffect,
    threshold: float,
    level: float,
    *,
    seed: int,
    claim: str,
    alternative: Alternative = "greater",
) -> EffectTest:
    """Test an effect against a threshold and give the intervals that go with it.

    Null hypothesis: the effect is <= threshold (`"greater"`) or >= threshold (`"less"`).
    Exchange unit: the sign of a cluster's score A_g - threshold * B_g.
    Exactness: as `sign_flip_test`. When the scores are skewed against the claim by more than 1 and
        there are fewer than 30 clusters, p is the larger of the sign-flip and the bootstrap-t p
        value; `method` says so, and the interval may then exclude a threshold that p does not.

    Args:
        effect: From `cluster_effect`.
        threshold: theta0, in shares of the behaviour.
        level: Level of the claim; intervals have confidence 1 - 2 * level.
        seed: Root seed of the run.
        claim: Claim id.
        alternative: Direction of the claim.

    Sign: see `ClusterEffect.scores`.
    Sources: Canay, Romano & Shaikh 2017; Hall 1992, section 3.2.
    """
    flips, bootstrap_p = _judged(effect, threshold, alternative, seed, claim)
    p, method = flips.p, f"cluster sign flips, {flips.method}"
    if bootstrap_p is not None:
        p = max(p, bootstrap_p)
        method += "; larger of this and the cluster bootstrap-t, because the scores are skewed"
    confidence = 1 - 2 * level
    return EffectTest(
        effect=effect,
        threshold=threshold,
        alternative=alternative,
        p=p,
        method=method,
        sign_flip=flips,
        bootstrap_p=bootstrap_p,
        interval=inversion_interval(
            effect, confidence, generator=keyed_generator(seed, claim, "sign flips")
        ),
        fieller=fieller_interval(effect, confidence),
        heterogeneity=effect.heterogeneity(threshold),
    )


def effect_p_value(
    effect: ClusterEffect,
    threshold: float,
    *,
    seed: int,
    claim: str,
    alternative: Alternative = "greater",
) -> float:
    """Return the p value of `effect_test` alone, where no interval is wanted."""
    flips, bootstrap_p = _judged(effect, threshold, alternative, seed, claim)
    return max(flips.p, 0.0 if bootstrap_p is None else bootstrap_p)


def _judged(
    effect: ClusterEffect, threshold: float, alternative: Alternative, seed: int, claim: str
) -> tuple[SignFlip, float | None]:
    """Return the sign-flip test, and p of the bootstrap-t where skewed scores ask for it."""
    scores = effect.scores(threshold)
    flips = sign_flip_test(
        scores, alternative=alternative, generator=keyed_generator(seed, claim, "sign flips")
    )
    direction = 1 if alternative == "greater" else -1
    skewed = direction * effect.heterogeneity(threshold).skewness < -SKEWED
    if not skewed or effect.clusters >= FEW:
        return flips, None
    return flips, bootstrap_t_p(direction * scores, keyed_generator(seed, claim, "bootstrap t"))


def behaviour_test(
    effect: ClusterEffect, *, seed: int, claim: str, level: float = 0.05
) -> Behaviour:
    """Test whether the model shows the behaviour whose shares are about to be measured.

    Null hypothesis: the mean denominator (clean minus floor) is <= 0.
    Exchange unit: the sign of a cluster's denominator.
    Exactness: as `sign_flip_test`; with fewer than 5 clusters no data can pass at .05.
    A t test must also keep the denominators away from zero, so that a Fieller interval of
    confidence 1 - 2 * level exists.

    Sign: a small p speaks for a behaviour.
    Sources: as `sign_flip_test`; Fieller 1954 for the second condition.
    """
    b = np.array(effect.denominators)
    p = sign_flip_test(b, generator=keyed_generator(seed, claim, "behaviour")).p
    mean = float(b.mean())
    if not reaches(p, level):
        reason = f"the mean denominator is {mean:.4g}, not clearly positive (p = {p:.3g})"
        return Behaviour(present=False, p=p, mean=mean, reason=reason)
    error = float(b.std(ddof=1)) / np.sqrt(len(b))
    if mean <= _t_quantile(1 - level, len(b) - 1) * error:
        reason = f"the mean denominator {mean:.4g} is within reach of zero (error {error:.2g})"
        return Behaviour(present=False, p=p, mean=mean, reason=reason)
    return Behaviour(present=True, p=p, mean=mean)


def _t_quantile(probability: float, degrees: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(degrees, probability))
