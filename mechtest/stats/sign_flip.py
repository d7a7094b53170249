"""Is the mean score above zero, when clusters are the unit and there are few of them?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import ArrayLike

from mechtest.errors import SampleError, UnattainableLevelError
from mechtest.stats.levels import SLACK, ceiling, reaches
from mechtest.stats.validation import finite_vector, fraction

__all__ = [
    "EXACT_UP_TO",
    "FLIPS",
    "SignFlip",
    "needed_clusters",
    "require_clusters",
    "sign_flip_test",
    "smallest_sign_flip_p",
]

EXACT_UP_TO = 14
"""Most clusters for which all 2**clusters sign patterns are enumerated."""

FLIPS = 9_999
"""Random sign patterns drawn for more clusters, next to the observed one."""

TIE = 1e-6
"""Sums closer than this share of the largest score count as ties: values come from float32."""

Alternative = Literal["greater", "less"]


@dataclass(frozen=True)
class SignFlip:
    """Result of a cluster sign-flip test.

    Attributes:
        p: One-sided p value, in [smallest_p, 1].
        alternative: `"greater"` tests H0 mean <= 0, `"less"` H0 mean >= 0.
        clusters: Number of scores.
        method: `"exact"` (all sign patterns) or `"monte carlo"`.
        patterns: Sign patterns compared, the observed one included.
        smallest_p: Smallest p value this number of clusters and patterns can give.
    """

    p: float
    alternative: Alternative
    clusters: int
    method: Literal["exact", "monte carlo"]
    patterns: int
    smallest_p: float


def sign_flip_test(
    scores: ArrayLike,
    *,
    alternative: Alternative = "greater",
    generator: np.random.Generator | None = None,
    flips: int = FLIPS,
) -> SignFlip:
    """Test whether the mean of cluster scores is above (or below) zero.

    Null hypothesis: the mean score is <= 0 (`"greater"`) or >= 0 (`"less"`).
    Exchange unit: the sign of one cluster's score.
    Exactness: exact for scores distributed symmetrically about their mean, whatever their scales
        (clusters may differ); approximately valid when cluster means are near normal. Skewed
        scores with few clusters exceed the level: see docs/statistics.md. Up to 14 clusters all
        patterns are enumerated; beyond, p = (1 + #) / (1 + flips).

    Args:
        scores: r_g, one a cluster (`ClusterEffect.scores`).
        alternative: Direction of the claim.
        generator: Keyed generator; needed beyond 14 clusters only.
        flips: Random patterns beyond 14 clusters.

    Raises:
        SampleError: Fewer than two scores, an unknown alternative, or no generator where needed.
        NonFiniteError: NaN or infinity; names the clusters.

    Sign: a small p with `"greater"` speaks for a positive mean.
    Numerics: ties within 1e-6 of the largest score count against the claim.
    Sources: Fisher 1935, section 21; Canay, Romano & Shaikh 2017, section 2 (few clusters);
        Phipson & Smyth 2010 (the + 1). `scipy.stats.permutation_test` gives the same on clean
        input, and p = 0 on NaN.
    """
    r = finite_vector(scores, "scores", item="cluster", at_least=2)
    if alternative not in ("greater", "less"):
        raise SampleError("unknown alternative", given=alternative, expected="'greater' or 'less'")
    signed = r if alternative == "greater" else -r
    exact = len(r) <= EXACT_UP_TO
    if exact:
        sums = subset_sums(np.sort(signed))
    else:
        sums = drawn_patterns(len(r), generator, flips) @ signed
    # Flipping the signs of a subset keeps the mean as large exactly when the subset's sum is <= 0.
    as_extreme = int((sums <= TIE * np.abs(r).max()).sum())
    return SignFlip(
        p=as_extreme / len(sums),
        alternative=alternative,
        clusters=len(r),
        method="exact" if exact else "monte carlo",
        patterns=len(sums),
        smallest_p=1 / len(sums),
    )


def smallest_sign_flip_p(clusters: int, *, flips: int = FLIPS) -> float:
    """Return the smallest p value that `clusters` clusters can give."""
    return 0.5**clusters if clusters <= EXACT_UP_TO else 1 / (1 + flips)


def needed_clusters(level: float) -> int:
    """Return the fewest clusters whose sign flips can reach `level`, at least 2.

    With fewer, p > level for all data: 5 for .05, 7 for .0125, 9 for .0025, 10 for .001. More are
    needed for power: see `clusters_for_power`.
    """
    return max(2, ceiling(-math.log2(fraction(level, "level") * (1 + SLACK))))


def require_clusters(clusters: int, level: float, *, flips: int = FLIPS) -> None:
    """Raise `UnattainableLevelError` unless sign flips of so many clusters can reach `level`."""
    smallest = smallest_sign_flip_p(clusters, flips=flips)
    if clusters < 2 or not reaches(smallest, level):
        needed = needed_clusters(level)
        enough = clusters >= needed
        raise UnattainableLevelError(
            f"{clusters} clusters can never give p <= {level:.4g}",
            given=f"{clusters} clusters, smallest p {smallest:.4g}",
            expected=f"more than {1 / level:.0f} random sign patterns"
            if enough
            else f"at least {needed} clusters",
            next_step="raise flips" if enough else "write prompts in more templates",
        )


def subset_sums(values: Float[np.ndarray, " cluster"]) -> Float[np.ndarray, " subset"]:
    """Return the sum of every subset of `values`, the empty one first."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums, sums + value])
    return sums


def drawn_patterns(
    clusters: int, generator: np.random.Generator | None, flips: int
) -> Bool[np.ndarray, "pattern cluster"]:
    """Return which clusters to flip: nobody in the first pattern, drawn fairly in the others."""
    if generator is None:
        raise SampleError(
            f"{clusters} clusters have too many sign patterns to try all: give a generator",
            expected=f"generator=keyed_generator(...) for more than {EXACT_UP_TO} clusters",
        )
    if flips < 1:
        raise SampleError("at least one sign pattern must be drawn", given=f"flips={flips}")
    drawn = generator.integers(0, 2, size=(flips, clusters), dtype=np.uint8).astype(bool)
    return np.concatenate([np.zeros((1, clusters), dtype=bool), drawn])
