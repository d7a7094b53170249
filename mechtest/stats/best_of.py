"""How large is the largest of several effects, when it was picked because it is the largest?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from mechtest.errors import SampleError
from mechtest.stats.bootstrap_t import Counts, RatioResamples, resample_counts
from mechtest.stats.effect_test import largest_upper_end
from mechtest.stats.effects import ClusterEffect
from mechtest.stats.intervals import Interval
from mechtest.stats.keys import keyed_generator
from mechtest.stats.levels import reaches
from mechtest.stats.sign_flip import EXACT_UP_TO, FLIPS, TIE, drawn_patterns
from mechtest.stats.skewed_mean import skewed_against, skewed_mean_p

__all__ = ["BestOf", "best_of_test"]

HALVINGS = 30
WIDENINGS = 40


@dataclass(frozen=True)
class BestOf:
    """What is known about the largest of several effects.

    Attributes:
        winner: Which effect is the largest, from 0.
        estimates: All of them.
        p: p value of "the winner is above the threshold", corrected for having been picked.
        alone: The same as if it had been the only one; never to be used.
        method: How `p` was computed, in words.
        interval: Its lower end allows for the choice (the threshold at which the max-T p value
            crosses the level), its upper end bounds the largest of all. Confidence 1 - 2 * level.
    """

    winner: int
    estimates: tuple[float, ...]
    p: float
    alone: float
    method: str
    interval: Interval

    @property
    def estimate(self) -> float:
        """Return the winner's."""
        return self.estimates[self.winner]


def best_of_test(
    effects: Sequence[ClusterEffect],
    threshold: float,
    level: float,
    *,
    seed: int,
    claim: str,
    flips: int = FLIPS,
) -> BestOf:
    """Test whether the largest of several effects lies above a threshold.

    Null hypothesis: the effect that came out largest is <= threshold. All effects are flipped by
        the same signs, and the winner's statistic is compared with the largest of all effects'
        flipped statistics (single-step max-T), so that P(an effect at or below the threshold is
        called above it) <= level, whichever effects are really above.
    Statistic: the sum of scores over the root of their sum of squares. An effect far below the
        threshold has large scores, and without the root its flips would drown the winner.
    Exchange unit: the sign of a cluster's scores, in all effects at once.
    Exactness: exact for scores that are jointly symmetric about the threshold; up to 14 clusters
        all patterns are enumerated, beyond that (1 + #) / (1 + flips). Where the winner's scores
        are skewed against the claim (see `effect_test`), p is the larger of this and the number of
        effects times its p for skewed scores.

    Args:
        effects: Of the same clusters and denominators: one behaviour, several interventions.
        threshold: theta0.
        level: Level of the claim; the interval has confidence 1 - 2 * level.
        seed: Root seed of the run.
        claim: Claim id.
        flips: Random patterns beyond 14 clusters.

    Raises:
        SampleError: No effect, other clusters or denominators, or no behaviour.

    Sign: as `ClusterEffect.scores`.
    Sources: Westfall & Young 1993, section 2.6 (single-step max-T); Romano & Wolf 2005.
    """
    estimates = _of_one_behaviour(effects)
    winner = int(np.argmax(estimates))
    clusters = effects[0].clusters
    patterns = _patterns(clusters, seed, claim, flips)
    counts = resample_counts(clusters, keyed_generator(seed, claim, "bootstrap t"))
    rule = _Rule(effects, winner, patterns, counts)
    alone = _Rule(effects[winner : winner + 1], 0, patterns, counts).p(threshold)
    shown = "exact" if clusters <= EXACT_UP_TO else "monte carlo"
    many = len(effects)
    method = f"cluster sign flips of the largest of {many} effects (max-T), {shown}"
    if skewed_against(effects[winner].scores(threshold)):
        method += f"; larger of this and {many} times a test for skewed scores"
    interval = _interval(effects, rule, threshold, level, seed, claim)
    return BestOf(winner, tuple(estimates), rule.p(threshold), alone, method, interval)


def _of_one_behaviour(effects: Sequence[ClusterEffect]) -> list[float]:
    if not effects:
        raise SampleError("there is nothing to take the largest of", expected="effects")
    first = effects[0]
    estimates = []
    for effect in effects:
        if (effect.labels, effect.denominators) != (first.labels, first.denominators):
            raise SampleError(
                "effects of different behaviours have no largest among them",
                given=f"{effect.clusters} and {first.clusters} clusters with their denominators",
                expected="the same clusters and denominators in all effects",
            )
        if effect.estimate is None:
            raise SampleError(
                "there is no behaviour to take shares of",
                given=f"mean denominator {np.mean(effect.denominators):.3g}",
                expected="a positive one",
            )
        estimates.append(effect.estimate)
    return estimates


def _patterns(clusters: int, seed: int, claim: str, flips: int) -> Bool[np.ndarray, "pattern g"]:
    """Return which clusters to flip, nobody in the first pattern."""
    if clusters <= EXACT_UP_TO:
        numbers = np.arange(2**clusters)[:, None]
        return np.asarray((numbers >> np.arange(clusters)) & 1, dtype=bool)
    return drawn_patterns(clusters, keyed_generator(seed, claim, "sign flips"), flips)


class _Rule:
    """The p value of the winner among several effects, for any threshold."""

    def __init__(
        self,
        effects: Sequence[ClusterEffect],
        winner: int,
        patterns: Bool[np.ndarray, "pattern g"],
        counts: Counts,
    ) -> None:
        self.winner = winner
        self.a = np.array([effect.numerators for effect in effects])
        self.b = np.array(effects[0].denominators)
        self._resamples = RatioResamples.of(self.a[winner], self.b, counts)
        signs = 1.0 - 2.0 * patterns
        self._flipped_a, self._flipped_b = signs @ self.a.T, signs @ self.b

    def p(self, threshold: float) -> float:
        """Return p of max-T, and the larger of it and of the other test for skewed scores."""
        scores = self.a - threshold * self.b
        size = np.sqrt((scores**2).sum(1))
        size[size == 0] = 1.0  # all scores are zero, and so is the sum
        flipped = (self._flipped_a - threshold * self._flipped_b[:, None]) / size
        least = scores[self.winner].sum() / size[self.winner] - TIE
        p = float((flipped.max(1) >= least).mean())
        if not skewed_against(scores[self.winner]):
            return p
        return max(p, min(1.0, len(scores) * skewed_mean_p(self._resamples, threshold)))


def _interval(
    effects: Sequence[ClusterEffect], rule: _Rule, threshold: float, level: float, seed: int,
    claim: str,
) -> Interval:  # fmt: skip
    """Return where the max-T p value crosses the level, and the largest of all upper ends."""
    confidence = 1 - 2 * level
    high = largest_upper_end(effects, confidence, seed=seed, claim=claim)
    low = _crossing(rule, effects[rule.winner], threshold, level)
    missing = [name for name, end in (("lower", low), ("upper", high)) if end is None]
    reason = f"no {' and no '.join(missing)} bound at so few clusters" if missing else ""
    return Interval(low, high, confidence, "max-T inversion", reason)


def _crossing(rule: _Rule, effect: ClusterEffect, threshold: float, level: float) -> float | None:
    """Return a threshold below which p <= level and above which it is not, found by halving.

    It never contradicts p at the threshold that was tested, from which it starts.
    """
    assert effect.estimate is not None, "asked for before"
    inside, outside = effect.estimate, threshold  # p at the estimate is about a half or more
    if not reaches(rule.p(threshold), level):
        inside = min(inside, threshold)
        step = float(np.abs(effect.scores(effect.estimate)).mean() / np.mean(rule.b)) + 1e-9
        for widening in range(WIDENINGS):
            outside = inside - step * 2**widening
            if reaches(rule.p(outside), level):
                break
        else:
            return None
    for _ in range(HALVINGS):
        middle = (inside + outside) / 2
        if reaches(rule.p(middle), level):
            outside = middle
        else:
            inside = middle
    return inside
