"""Is the effect larger than the smallest one of interest, and is there a behaviour at all?"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from mechtest.stats.bootstrap_t import RatioResamples, resample_counts
from mechtest.stats.effects import ClusterEffect, Heterogeneity
from mechtest.stats.intervals import Interval, fieller_interval, inversion_interval
from mechtest.stats.keys import keyed_generator
from mechtest.stats.levels import reaches
from mechtest.stats.sign_flip import Alternative, SignFlip, sign_flip_test
from mechtest.stats.skewed_mean import skewed_against, skewed_mean_p

__all__ = [
    "Behaviour",
    "EffectTest",
    "behaviour_test",
    "effect_interval",
    "effect_p_value",
    "effect_test",
    "largest_upper_end",
    "widened",
]

FARTHEST = 64.0
"""Widths of the sign-flip interval beyond which no end of the joint one is looked for."""


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
        skewed_p: p of the test for skewed scores where skewness asked for it, else None.
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
    skewed_p: float | None
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
    Exactness: as `sign_flip_test`. Where the scores are skewed against the claim, p is the larger
        of the sign-flip p value and that of `skewed_mean_p`, and `method` says so: sign flips alone
        call too much true then, whatever the number of clusters. The interval inverts the same
        rule.

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
    flips, skewed_p = _judged(effect, threshold, alternative, seed, claim)
    p, method = flips.p, f"cluster sign flips, {flips.method}"
    if skewed_p is not None:
        p = max(p, skewed_p)
        method += "; larger of this and a test for skewed scores"
    confidence = 1 - 2 * level
    return EffectTest(
        effect=effect,
        threshold=threshold,
        alternative=alternative,
        p=p,
        method=method,
        sign_flip=flips,
        skewed_p=skewed_p,
        interval=effect_interval(effect, confidence, seed=seed, claim=claim),
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
    flips, skewed_p = _judged(effect, threshold, alternative, seed, claim)
    return max(flips.p, 0.0 if skewed_p is None else skewed_p)


def _judged(
    effect: ClusterEffect, threshold: float, alternative: Alternative, seed: int, claim: str
) -> tuple[SignFlip, float | None]:
    """Return the sign-flip test, and p of the other where skewed scores ask for it."""
    scores = effect.scores(threshold)
    flips = sign_flip_test(
        scores, alternative=alternative, generator=keyed_generator(seed, claim, "sign flips")
    )
    sign = 1 if alternative == "greater" else -1
    if not skewed_against(sign * scores):
        return flips, None
    return flips, skewed_mean_p(_resamples(effect, seed, claim), threshold, sign)


@functools.lru_cache(maxsize=16)
def _resamples(effect: ClusterEffect, seed: int, claim: str) -> RatioResamples:
    """Return the bootstrap samples of an effect: the same for its p values and its intervals."""
    counts = resample_counts(effect.clusters, keyed_generator(seed, claim, "bootstrap t"))
    return RatioResamples.of(np.array(effect.numerators), np.array(effect.denominators), counts)


def effect_interval(effect: ClusterEffect, confidence: float, *, seed: int, claim: str) -> Interval:
    """Return the thresholds that `effect_test` rejects in neither direction.

    The sign-flip interval, an end of which is moved outward where the scores are skewed against
    being beyond it and the test for such scores does not reject it. With confidence =
    1 - 2 * level, p <= level says the same as the interval lying beyond the threshold.

    Null hypothesis, exchange unit, exactness: as `effect_test`, inverted.

    Args:
        effect: From `cluster_effect`.
        confidence: Two-sided.
        seed: Root seed of the run.
        claim: Claim id.

    Returns:
        An end is None, with a reason, where `inversion_interval` has none, or none is found within
        64 widths.
    """
    flips = keyed_generator(seed, claim, "sign flips")
    found = inversion_interval(effect, confidence, generator=flips)
    return widened(effect, found, lambda: _resamples(effect, seed, claim))


def largest_upper_end(
    effects: Sequence[ClusterEffect], confidence: float, *, seed: int, claim: str
) -> float | None:
    """Return the largest upper end of the intervals of several effects; None if one has none.

    An interval costs some fifty tests. One test tells whether an upper end lies beyond the largest
    so far, and only then is it looked for: the result is that of `effect_interval` for each.

    Args:
        effects: At least one.
        confidence: Two-sided, of each interval.
        seed: Root seed of the run.
        claim: Claim id.
    """
    level = (1 - confidence) / 2
    largest: float | None = None
    for effect in sorted(effects, key=lambda one: -(one.estimate or 0.0)):
        if largest is not None:
            beyond = effect_p_value(effect, largest, seed=seed, claim=claim, alternative="less")
            if reaches(beyond, level):
                continue
        high = effect_interval(effect, confidence, seed=seed, claim=claim).high
        if high is None:
            return None
        largest = high if largest is None else max(largest, high)
    return largest


def widened(
    effect: ClusterEffect, found: Interval, resamples_of: Callable[[], RatioResamples]
) -> Interval:
    """Return a sign-flip interval with the ends moved that skewed scores ask to move.

    Args:
        effect: What it is the interval of.
        found: By inverting sign flips.
        resamples_of: Returns bootstrap samples of the effect, where they are needed.
    """
    if found.low is None or found.high is None:
        return found
    level = (1 - found.confidence) / 2
    width = found.high - found.low
    ends: list[float | None] = []
    for end, sign in ((found.low, 1), (found.high, -1)):
        if not skewed_against(sign * effect.scores(end)) or width <= 0:
            ends.append(end)
            continue
        ends.append(_moved_out(effect, resamples_of(), level, end, sign, width))
    if ends == [found.low, found.high]:
        return found
    reason = "" if None not in ends else "no end was found for such skewed scores"
    method = f"{found.method}, widened for skewed scores"
    return Interval(ends[0], ends[1], found.confidence, method, reason)


def _moved_out(
    effect: ClusterEffect, resamples: RatioResamples, level: float, end: float, sign: int,
    width: float,
) -> float | None:  # fmt: skip
    """Return the nearest threshold at or beyond `end` that both tests reject."""

    def kept(threshold: float) -> bool:
        skewed = skewed_against(sign * effect.scores(threshold))
        return skewed and not reaches(skewed_mean_p(resamples, threshold, sign), level)

    if not kept(end):
        return end
    inside, step = end, width / 4
    while kept(end - sign * step):
        inside = end - sign * step
        step *= 2
        if step > FARTHEST * width:
            return None
    outside = end - sign * step
    while abs(outside - inside) > 1e-6 * width:
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if kept(middle) else (inside, middle)
    return outside


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
