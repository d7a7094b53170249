"""Does a finding hold in other training seeds, when only a few were trained?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from mechtest.errors import SampleError, UnattainableLevelError
from mechtest.stats.intervals import Interval
from mechtest.stats.levels import ceiling, reaches
from mechtest.stats.proportions import clopper_pearson_interval
from mechtest.stats.seed_spread import prediction_interval
from mechtest.stats.sign_flip import needed_clusters, sign_flip_test
from mechtest.stats.validation import finite_number, finite_vector, fraction

__all__ = [
    "AllSeeds",
    "MeanOverSeeds",
    "all_seeds",
    "mean_over_seeds",
    "needed_seeds",
    "require_seeds_for_mean",
]


@dataclass(frozen=True)
class AllSeeds:
    """In how many seeds a claim was supported, and what that says about seeds not trained.

    Attributes:
        seeds: Seeds tested, k.
        supported: Seeds in which the claim was supported.
        holds: Whether it was supported in all of them.
        share_low: Lower bound of the share of all seeds in which it would be supported.
        confidence: Confidence of that bound (one-sided).
    """

    seeds: int
    supported: int
    holds: bool
    share_low: float
    confidence: float


@dataclass(frozen=True)
class MeanOverSeeds:
    """The effect averaged over seeds, against a threshold.

    Attributes:
        seeds: Seeds, k.
        estimate: Mean effect over seeds.
        deviation: Standard deviation between seeds.
        threshold: Threshold of the claim.
        p_t: One-sided t test over seeds; None where seeds do not differ, for then a t test would
            claim certainty. Assumes seeds whose effects are normally distributed.
        p_sign_flip: One-sided sign-flip p; at least 2**-seeds.
        interval: t interval of the mean, conditional on the prompts, which all seeds share.
        prediction: Where the effect of one more seed is expected.
        note: What p_t assumes, or why it is missing.
    """

    seeds: int
    estimate: float
    deviation: float
    threshold: float
    p_t: float | None
    p_sign_flip: float
    interval: Interval
    prediction: Interval
    note: str


def all_seeds(supported: Sequence[bool], *, confidence: float = 0.95) -> AllSeeds:
    """Combine the verdicts of seeds: the claim holds when it is supported in every one.

    Null hypothesis: in at least one of these seeds the claim is false. Each seed is tested at the
        full level of the claim and no correction is needed (intersection-union test).
    Unit: one training seed.
    Exactness: the bound is exact: alpha**(1/k) when all k hold, with alpha = 1 - confidence. It is
        the honest size of such a result: 3 of 3 seeds show more than 37 % of seeds, 5 of 5 55 %,
        10 of 10 74 %, 59 of 59 95 %.

    Raises:
        SampleError: Fewer than two seeds.

    Sources: Berger 1982 (intersection-union); Clopper & Pearson 1934.
    """
    found = [bool(one) for one in supported]
    _require_two(len(found))
    low = clopper_pearson_interval(sum(found), len(found), 2 * _one_sided(confidence) - 1).low
    return AllSeeds(len(found), sum(found), all(found), low or 0.0, confidence)


def mean_over_seeds(
    effects: ArrayLike,
    threshold: float,
    *,
    confidence: float = 0.95,
    generator: np.random.Generator | None = None,
) -> MeanOverSeeds:
    """Test whether the effect is above a threshold on average over training seeds.

    Null hypothesis: the mean over seeds is <= threshold.
    Unit: one training seed, never a prompt.
    Exactness: p_t is exact for normal seeds (in simulation the t interval covers .956/.955/.939
        of nominal .95 for 3/5/10 seeds); p_sign_flip is exact for symmetric ones, and with fewer
        than 5 seeds cannot reach .05.

    Args:
        effects: One effect a seed, each measured with that seed's own circuit.
        threshold: Smallest effect of interest.
        confidence: Of both intervals, two-sided.
        generator: Keyed generator, needed beyond 14 seeds only.

    Raises:
        SampleError: Fewer than two seeds.
        NonFiniteError: NaN or infinity; names the seeds.

    Sources: Student 1908; Hahn & Meeker 1991, section 4.7 (prediction interval).
    """
    values = finite_vector(effects, "effects", item="seed")
    _require_two(len(values))
    theta0 = finite_number(threshold, "threshold")
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    count = len(values)
    flips = sign_flip_test(values - theta0, generator=generator)
    if deviation <= 1e-9 * max(1e-300, float(np.abs(values).max())):
        reason = "all seeds have the same effect: no spread to judge by"
        none = Interval(None, None, confidence, "t over seeds", reason)
        return MeanOverSeeds(
            count, mean, 0.0, theta0, None, flips.p, none, none, f"no t test: {reason}"
        )
    from scipy.special import stdtr, stdtrit

    prediction = prediction_interval(values, confidence)

    error = deviation / math.sqrt(count)
    quantile = float(stdtrit(count - 1, (1 + fraction(confidence, "confidence")) / 2))
    return MeanOverSeeds(
        seeds=count,
        estimate=mean,
        deviation=deviation,
        threshold=theta0,
        p_t=float(stdtr(count - 1, -(mean - theta0) / error)),
        p_sign_flip=flips.p,
        interval=Interval(
            mean - quantile * error, mean + quantile * error, confidence, "t over seeds"
        ),
        prediction=prediction,
        note="the t test assumes that effects of seeds are normally distributed",
    )


def needed_seeds(share: float, *, confidence: float = 0.95) -> int:
    """Return how many seeds must all hold to show that more than `share` of seeds do.

    3 for a third, 5 for a half, 59 for 95 %.
    """
    return max(
        2, ceiling(math.log(1 - _one_sided(confidence)) / math.log(fraction(share, "share")))
    )


def require_seeds_for_mean(seeds: int, level: float) -> None:
    """Raise unless a sign-flip test over `seeds` seeds can reach `level`."""
    _require_two(seeds)
    if not reaches(0.5**seeds, level):
        raise UnattainableLevelError(
            f"the mean over {seeds} seeds can never have a sign-flip p <= {level:.4g}",
            given=f"{seeds} seeds, smallest p {0.5**seeds:.4g}",
            expected=f"at least {needed_clusters(level)} seeds",
            next_step="claim that it holds in all seeds (mode 'all'), or train more",
        )


def _require_two(seeds: int) -> None:
    if seeds < 2:
        raise SampleError(
            "stability needs at least two seeds",
            given=f"{seeds}",
            next_step="give a suite with more seeds",
        )


def _one_sided(confidence: float) -> float:
    """Return a confidence that has a two-sided counterpart: above one half."""
    if fraction(confidence, "confidence") <= 0.5:
        raise SampleError("a confidence of at most one half bounds nothing", given=confidence)
    return confidence
