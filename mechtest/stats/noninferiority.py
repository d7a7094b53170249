"""Is an effect still there, on the same prompts, at another checkpoint?

"Not significantly smaller" is no answer: with few templates that lets a third of an effect vanish.
What was kept has to be shown to be more than all but a margin, paired prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import SampleError
from mechtest.stats.bootstrap_t import Counts, RatioResamples, resample_counts
from mechtest.stats.effect_test import widened
from mechtest.stats.effects import ClusterEffect, cluster_effect
from mechtest.stats.intervals import INVERSION, Interval, interval_of_sums
from mechtest.stats.keys import keyed_generator
from mechtest.stats.levels import reaches
from mechtest.stats.sign_flip import EXACT_UP_TO, FLIPS, TIE, drawn_patterns, subset_sums
from mechtest.stats.skewed_mean import skewed_against, skewed_mean_p
from mechtest.stats.validation import finite_number

__all__ = ["MARGIN", "NonInferiority", "StillAbsent", "noninferiority_test", "still_absent_test"]

MARGIN = 0.2
"""Share of an effect that may be lost before it counts as another effect."""

REFUTATION = 0.05
"""Rate of false "regressed", shared by both sides."""

NOTHING_BEFORE = "the mean to take a share of is not positive"

Sums = tuple[Float[np.ndarray, " pattern"], Float[np.ndarray, " pattern"]]


@dataclass(frozen=True)
class NonInferiority:
    """What is known about the share of an effect that was kept.

    Attributes:
        kept: mean effect after / mean effect before, over clusters; None where the mean before is
            not positive.
        margin: Share that may be lost.
        level: Level of the claim.
        p: p value of "more than 1 - margin was kept" (two-sided: and less than 1 + margin); 1 where
            there is no share.
        method: How `p` was computed, in words.
        clusters: Templates.
        prompts: Prompts.
        wide: Interval of `kept` of confidence .95, by inverting the test.
        two_sided: Whether growing beyond the margin counts, too.
    """

    kept: float | None
    margin: float
    level: float
    p: float
    method: str
    clusters: int
    prompts: int
    wide: Interval
    two_sided: bool

    @property
    def held(self) -> bool:
        """Whether it is shown that enough was kept."""
        return reaches(self.p, self.level)

    @property
    def regressed(self) -> bool:
        """Whether it is shown that more than the margin was lost (two-sided: or gained)."""
        lost = self.wide.high is not None and self.wide.high < 1 - self.margin
        return lost or (self.two_sided and self.grew)

    @property
    def grew(self) -> bool:
        """Whether it is shown that more than the margin was gained."""
        return self.wide.low is not None and self.wide.low > 1 + self.margin

    @property
    def drifted(self) -> bool:
        """Whether the change is shown to be more than half the margin lost, or all of it gained."""
        lost = self.wide.high is not None and self.wide.high < 1 - self.margin / 2
        return lost or self.grew


@dataclass(frozen=True)
class StillAbsent:
    """What is known about an effect that was absent before.

    Attributes:
        effect: As a share of the behaviour; None where there is no behaviour.
        threshold: Effects below this are called absent.
        level: Level of the claim.
        p: p value of "below the threshold".
        method: How `p` was computed, in words.
        wide: Interval of the effect, of confidence .95.
    """

    effect: float | None
    threshold: float
    level: float
    p: float
    method: str
    wide: Interval

    @property
    def held(self) -> bool:
        """Whether the effect is shown to be below its threshold."""
        return reaches(self.p, self.level)

    @property
    def regressed(self) -> bool:
        """Whether it is shown to be above."""
        return self.wide.low is not None and self.wide.low > self.threshold


def noninferiority_test(
    before: ArrayLike,
    after: ArrayLike,
    labels: Sequence[Hashable],
    level: float,
    *,
    margin: float = MARGIN,
    two_sided: bool = False,
) -> NonInferiority:
    """Test whether an effect was kept, prompt by prompt.

    Null hypothesis: E[after] <= (1 - margin) * E[before], over clusters; two-sided also
        E[after] >= (1 + margin) * E[before] (two one-sided tests).
    Exchange unit: the sign of a cluster's mean score r = after - (1 - margin) * before.
    Exactness: as `sign_flip_test`: exact for scores that are symmetric about their mean. At the
        margin, at level .05 and with prompts of one template alike (correlation .3, t4 tails), it
        says "held" in .045, .052 and .046 of cases for 6, 10 and 20 clusters; a t test over prompts
        in .17 to .19. Scores skewed against the claim are also put to `skewed_mean_p`, as in
        `effect_test`; the interval is moved by them only where it would decide.
    Beyond 14 clusters the drawn sign patterns are the same in every call with as many clusters: a
        comparison needs no seed, and comparing A with B is the same whoever does it.

    Args:
        before: e_A, the part of the behaviour moved at the first checkpoint, one a prompt.
        after: e_B, the same at the second, in the same order and unit.
        labels: Cluster (template) of each prompt.
        level: Level of the claim.
        margin: Share of the effect that may be lost, between 0 and 1.
        two_sided: Show that no more than the margin was gained, too.

    Raises:
        SampleError: Different lengths, a single cluster, or a margin that is no share.
        NonFiniteError: NaN or infinity; names the prompts.

    Sign: a small p speaks for a kept effect.
    Sources: Schuirmann 1987 and Berger 1982 (margins); Canay, Romano & Shaikh 2017 (few clusters).
    """
    if not 0 < finite_number(margin, "margin") < 1:
        raise SampleError("a margin is a share", given=margin, expected="a number between 0 and 1")
    effect = cluster_effect(after, before, labels)
    sums = _sums(effect)
    p, method = _beyond(effect, *sums, 1 - margin, 1, level)
    if two_sided:
        other, how = _beyond(effect, *sums, 1 + margin, -1, level)
        p, method = max(p, other), how if other > p else method
    return NonInferiority(
        kept=effect.estimate,
        margin=margin,
        level=level,
        p=p,
        method=f"{method}, paired" + (", two-sided" if two_sided else ""),
        clusters=effect.clusters,
        prompts=effect.prompts,
        wide=_wide(effect, sums, 1 - margin / 2, 1 + margin),
        two_sided=two_sided,
    )


def still_absent_test(
    effects: ArrayLike,
    behaviours: ArrayLike,
    labels: Sequence[Hashable],
    threshold: float,
    level: float,
) -> StillAbsent:
    """Test whether an effect is below its threshold, as `equivalence_test` does from above.

    The mirror of `noninferiority_test` for an effect of which there was nothing to keep: the margin
    is the claim's own threshold, and the yardstick the behaviour of the second checkpoint.

    Null hypothesis: the effect is at least `threshold`.
    Exchange unit, exactness, patterns: as `noninferiority_test`.

    Args:
        effects: Part of the behaviour moved, one a prompt.
        behaviours: Behaviour there was to move, one a prompt, in the same unit.
        labels: Cluster (template) of each prompt.
        threshold: Of the claim, in shares of the behaviour.
        level: Level of the claim.

    Raises:
        SampleError, NonFiniteError: As `noninferiority_test`.

    Sign: a small p speaks for an absence.
    Sources: Schuirmann 1987.
    """
    effect = cluster_effect(effects, behaviours, labels)
    sums = _sums(effect)
    p, method = _beyond(effect, *sums, finite_number(threshold, "threshold"), -1, level)
    wide = _wide(effect, sums, -np.inf, threshold)
    return StillAbsent(effect.estimate, threshold, level, p, method, wide)


def _beyond(
    effect: ClusterEffect,
    after: Float[np.ndarray, " pattern"],
    before: Float[np.ndarray, " pattern"],
    bound: float,
    direction: int,
    level: float,
) -> tuple[float, str]:
    """Return the p value of "the ratio is above `bound`" (below, for -1), and its method."""
    if effect.estimate is None:
        return 1.0, NOTHING_BEFORE
    scores = direction * effect.scores(bound)
    sums = direction * (after - bound * before)
    p = float((sums <= TIE * np.abs(scores).max()).sum()) / len(sums)
    exact = effect.clusters <= EXACT_UP_TO
    method = f"cluster sign flips, {'exact' if exact else 'monte carlo'}"
    # A second p value can only be larger: it is asked where the first would say "held".
    if reaches(p, level) and skewed_against(scores):
        p = max(p, skewed_mean_p(_resamples(effect), bound, direction))
        method += "; larger of this and a test for skewed scores"
    return p, method


def _wide(effect: ClusterEffect, sums: Sums, below: float, above: float) -> Interval:
    """Return the interval of the ratio, for skewed scores where it lies beyond either bound."""
    if effect.estimate is None:
        return Interval(None, None, 1 - REFUTATION, INVERSION, NOTHING_BEFORE)
    found = interval_of_sums(*sums, 1 - REFUTATION)
    if found.low is None or found.high is None or (found.high >= below and found.low <= above):
        return found  # it decides nothing, and a comparison has many
    return widened(effect, found, lambda: _resamples(effect))


@lru_cache(maxsize=8)
def _resamples(effect: ClusterEffect) -> RatioResamples:
    a, b = np.array(effect.numerators), np.array(effect.denominators)
    return RatioResamples.of(a, b, _counts(effect.clusters))


@lru_cache(maxsize=8)
def _counts(clusters: int) -> Counts:
    return resample_counts(clusters, keyed_generator(0, "non-inferiority", "bootstrap t"))


def _sums(effect: ClusterEffect) -> Sums:
    """Return sums over the clusters that each sign pattern flips: after, before; nobody first."""
    a, b = np.array(effect.numerators), np.array(effect.denominators)
    if len(a) <= EXACT_UP_TO:
        return subset_sums(a), subset_sums(b)
    found = _patterns(len(a)) @ np.stack([a, b], axis=1)
    return found[:, 0].copy(), found[:, 1].copy()


@lru_cache(maxsize=8)
def _patterns(clusters: int) -> Float[np.ndarray, "pattern cluster"]:
    generator = keyed_generator(0, "non-inferiority", f"sign flips of {clusters}")
    return drawn_patterns(clusters, generator, FLIPS).astype(np.float64)
