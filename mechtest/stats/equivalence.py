"""Is an effect small enough to call it absent?

No significant effect is not the same as no effect. To say "not necessary", the effect must be shown
to lie below the threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

from mechtest.errors import SampleError
from mechtest.stats.effect_test import EffectTest, effect_test
from mechtest.stats.effects import ClusterEffect
from mechtest.stats.levels import reaches
from mechtest.stats.validation import finite_number

__all__ = ["Equivalence", "equivalence_test"]


@dataclass(frozen=True)
class Equivalence:
    """What is known about an effect being below a threshold.

    Attributes:
        p: p value of the claim; the larger of both when it is two-sided.
        equivalent: Whether p <= level.
        upper: Test that the effect is below the threshold, with the intervals.
        lower: Test that it is above the lower bound; None when only the upper was asked for.
    """

    p: float
    equivalent: bool
    upper: EffectTest
    lower: EffectTest | None


def equivalence_test(
    effect: ClusterEffect,
    threshold: float,
    level: float,
    *,
    seed: int,
    claim: str,
    lower: float | None = None,
) -> Equivalence:
    """Test whether an effect is smaller than a threshold.

    Null hypothesis: the effect is >= threshold (or <= lower, where given): two one-sided tests.
    Exchange unit: the sign of a cluster's score.
    Exactness: as `sign_flip_test`; two-sided at the same level without correction. Equivalent
        means that the upper end of `upper.interval` lies below the threshold (unless skewed scores
        asked for a second test).

    Args:
        effect: From `cluster_effect`.
        threshold: Effects below this are called absent.
        level: Level of the claim.
        seed: Root seed of the run.
        claim: Claim id.
        lower: Also show that the effect is above this, usually -threshold: an intervention that
            strongly helps is not absent either. None tests one side.

    Raises:
        SampleError: `lower` is not below `threshold`.

    Sources: Schuirmann 1987 (two one-sided tests); Berger 1982 (no correction needed).
    """
    above = effect_test(effect, threshold, level, seed=seed, claim=claim, alternative="less")
    if lower is None:
        return Equivalence(above.p, reaches(above.p, level), above, None)
    if finite_number(lower, "lower bound") >= threshold:
        raise SampleError(
            "the lower bound of an equivalence should be below the threshold",
            given=f"lower {lower:.4g}, threshold {threshold:.4g}",
        )
    below = effect_test(effect, lower, level, seed=seed, claim=claim)
    p = max(above.p, below.p)
    return Equivalence(p, reaches(p, level), above, below)
