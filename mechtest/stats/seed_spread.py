"""Where will the next training seed fall, and do seeds differ by more than prompts explain?"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import SampleError
from mechtest.stats.intervals import Interval
from mechtest.stats.validation import finite_number, finite_vector, fraction

__all__ = [
    "ENOUGH_SEEDS",
    "BetweenSeeds",
    "StableSeeds",
    "between_seeds",
    "prediction_interval",
    "stable_seeds",
]

SHARE = 0.95
"""Share of seeds that a claim of stability says lie within the margin."""

ENOUGH_SEEDS = 5
"""Fewer seeds say next to nothing about how much seeds differ: I2 of 3 ranges from 0 to .96."""

MOST_SEEDS = 1000


@dataclass(frozen=True)
class StableSeeds:
    """Whether nearly all seeds' effects are close to the mean of those seen.

    Attributes:
        seeds: Seeds, k.
        estimate: Mean effect over seeds.
        deviation: Standard deviation between seeds.
        margin: How far from the mean a seed may fall.
        p: 1 minus the confidence with which 95 % of seeds lie within the margin; 1 where the seeds
            seen do not differ at all.
        prediction: Where the next seed is expected, of the confidence asked for.
        contradicted: Whether seeds spread too much for 95 % of them to lie within the margin, even
            at the lower 95 % bound of their standard deviation.
        deviation_low: That bound.
        needed: Seeds at which a spread as seen here gives p <= level; None where no number does.
    """

    seeds: int
    estimate: float
    deviation: float
    margin: float
    p: float
    prediction: Interval
    contradicted: bool
    deviation_low: float
    needed: int | None


@dataclass(frozen=True)
class BetweenSeeds:
    """How much seeds differ beyond what their own prompts explain.

    Attributes:
        seeds: Seeds, k.
        tau: Standard deviation between seeds, never negative.
        q: Cochran's Q.
        i2: Share of the variance of effects that is between seeds, in [0, 1].
        estimate: Random-effects mean.
        interval: Of that mean: Hartung-Knapp-Sidik-Jonkman with a scale of at least 1.
    """

    seeds: int
    tau: float
    q: float
    i2: float
    estimate: float
    interval: Interval


def prediction_interval(effects: ArrayLike, confidence: float = 0.95) -> Interval:
    """Return where the effect of one more seed is expected.

    mean +- t * s * sqrt(1 + 1 / k), with k - 1 degrees of freedom: for one seed, not for the mean.

    Unit: one training seed.
    Exactness: exact for normal seeds, on average over samples of seeds; a given interval holds
        less or more than `confidence` of all seeds.

    Args:
        effects: One effect a seed.
        confidence: Two-sided.

    Raises:
        SampleError: Fewer than two seeds.
        NonFiniteError: NaN or infinity; names the seeds.

    Sources: Hahn & Meeker 1991, section 4.7.
    """
    values = _seeds(effects)
    mean, deviation = _moments(values)
    fraction(confidence, "confidence")
    if deviation == 0:
        reason = "all seeds have the same effect: no spread to judge by"
        return Interval(None, None, confidence, "t over seeds", reason)
    reach = _t_quantile((1 + confidence) / 2, len(values)) * deviation * _wider(len(values))
    return Interval(mean - reach, mean + reach, confidence, "t prediction of one seed")


def stable_seeds(effects: ArrayLike, margin: float, level: float = 0.05) -> StableSeeds:
    """Test whether 95 % of seeds lie within a margin of the mean of those seen.

    Null hypothesis: more than 5 % of seeds lie further than `margin` from that mean.
    Unit: one training seed.
    Exactness: for normal seeds, a tolerance interval, to the accuracy of Howe's factor (.03 to .05
        at .05 for 3 to 30 seeds). The prediction interval of one more seed, which is narrower, is
        right on average only: asked to lie within the margin, it calls seeds of which exactly 5 %
        lie outside stable in .14 / .20 / .28 of samples of 3 / 5 / 10. It is reported beside.

    Args:
        effects: One effect a seed.
        margin: In the unit of the effects, above 0.
        level: Level of the claim.

    Raises:
        SampleError: Fewer than two seeds, or a margin that is not positive.
        NonFiniteError: NaN or infinity; names the seeds.

    Sources: Howe 1969 (factor of the tolerance interval); Hahn & Meeker 1991, sections 4.6 and 4.7;
        chi-square bound of a normal standard deviation.
    """
    values = _seeds(effects)
    wide = finite_number(margin, "margin")
    if wide <= 0:
        raise SampleError("a margin should be above 0", given=margin)
    fraction(level, "level")
    mean, deviation = _moments(values)
    count = len(values)
    prediction = prediction_interval(values, 1 - level)
    if deviation == 0:
        return StableSeeds(
            count, mean, 0.0, wide, 1.0, prediction, contradicted=False, deviation_low=0.0,
            needed=None,
        )  # fmt: skip
    from scipy.special import chdtr, chdtri, ndtri

    reach = deviation * _wider(count) * float(ndtri((1 + SHARE) / 2))
    p = float(chdtr(count - 1, (count - 1) * (reach / wide) ** 2))
    low = deviation * math.sqrt((count - 1) / float(chdtri(count - 1, 1 - SHARE)))
    return StableSeeds(
        seeds=count,
        estimate=mean,
        deviation=deviation,
        margin=wide,
        p=min(1.0, p),
        prediction=prediction,
        contradicted=low > wide / float(ndtri((1 + SHARE) / 2)),
        deviation_low=low,
        needed=_needed(deviation, wide, level),
    )


def between_seeds(
    effects: ArrayLike, errors: ArrayLike, *, confidence: float = 0.95
) -> BetweenSeeds:
    """Split the spread of effects into what prompts explain and what seeds add.

    Unit: one training seed, its error over templates.
    Exactness: none at few seeds: print it from `ENOUGH_SEEDS` on.

    Args:
        effects: One effect a seed.
        errors: Standard error of each, above 0.
        confidence: Of the interval of the mean.

    Raises:
        SampleError: Fewer than two seeds, or errors that are not positive, one a seed.
        NonFiniteError: NaN or infinity; names the seeds.

    Numerics: statsmodels' `combine_effects` with the iterated (Paule-Mandel) variance, which is 0
        where the moment estimate would be negative. I2 is clipped to [0, 1] (at Q = 0 it is minus
        infinity there), and the scale of the interval is at least 1 (equal effects would give an
        interval of no width).
    Sources: Paule & Mandel 1982; Hartung & Knapp 2001; Higgins & Thompson 2002.
    """
    values, spread = _seeds(effects), finite_vector(errors, "errors", item="seed")
    if len(values) != len(spread) or not (spread > 0).all():
        raise SampleError(
            "every seed needs a standard error above 0",
            given=f"{len(values)} effects, {int((spread > 0).sum())} positive errors",
        )
    from statsmodels.stats.meta_analysis import combine_effects

    with np.errstate(divide="ignore", invalid="ignore"):  # it divides by Q, which may be 0
        found = combine_effects(values, spread**2, method_re="iterated", maxiter=500)
    tau2, q = max(0.0, float(found.tau2)), max(0.0, float(found.q))
    degrees = len(values) - 1
    i2 = 0.0 if q <= degrees else 1 - degrees / q
    scale = max(1.0, float(found.scale_hksj_re))
    reach = _t_quantile((1 + fraction(confidence, "confidence")) / 2, len(values))
    reach *= math.sqrt(scale) * float(found.sd_eff_w_re)
    mean = float(found.mean_effect_re)
    interval = Interval(mean - reach, mean + reach, confidence, "HKSJ, scale at least 1")
    return BetweenSeeds(len(values), math.sqrt(tau2), q, i2, mean, interval)


def _needed(deviation: float, margin: float, level: float) -> int | None:
    """Return the fewest seeds whose tolerance interval fits the margin, spread as seen."""
    from scipy.special import chdtri, ndtri

    def fits(count: int) -> bool:
        # chdtri inverts the upper tail.
        widened = math.sqrt((count - 1) / float(chdtri(count - 1, 1 - level)))
        return float(ndtri((1 + SHARE) / 2)) * widened * deviation * _wider(count) <= margin

    if not fits(MOST_SEEDS):
        return None
    counts = range(2, MOST_SEEDS + 1)  # once it fits, it fits with any more
    return counts[bisect_left(counts, 1, key=fits)]


def _seeds(effects: ArrayLike) -> Float[np.ndarray, " seed"]:
    values = finite_vector(effects, "effects", item="seed")
    if len(values) < 2:
        raise SampleError(
            "stability needs at least two seeds",
            given=f"{len(values)}",
            next_step="give a suite with more seeds",
        )
    return values


def _moments(values: Float[np.ndarray, " seed"]) -> tuple[float, float]:
    """Return mean and standard deviation; 0 where the spread is that of rounding."""
    deviation = float(values.std(ddof=1))
    flat = deviation <= 1e-9 * max(1e-300, float(np.abs(values).max()))
    return float(values.mean()), 0.0 if flat else deviation


def _wider(count: int) -> float:
    return math.sqrt(1 + 1 / count)


def _t_quantile(probability: float, count: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(count - 1, probability))
