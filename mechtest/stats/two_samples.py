"""Is one task moved by a larger share than another, when no prompt belongs to both?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Literal

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import SampleError, UnattainableLevelError
from mechtest.stats.effects import ClusterEffect
from mechtest.stats.levels import reaches
from mechtest.stats.sign_flip import FLIPS, TIE
from mechtest.stats.validation import finite_vector

__all__ = [
    "FEWEST_EACH",
    "TwoSamples",
    "cluster_shares",
    "require_two_samples",
    "two_sample_test",
]

ALL_UP_TO = 20_000
"""Most ways of dealing the clusters out that are all tried."""

FEWEST_EACH = 5
"""Fewest clusters of either task."""

Shares = Float[np.ndarray, " cluster"]


@dataclass(frozen=True)
class TwoSamples:
    """Result of a two-sample permutation test over clusters.

    Attributes:
        p: One-sided p value of "the first is larger".
        against: The same of "the second is larger".
        difference: Mean of the first minus mean of the second.
        clusters: Of either.
        method: `"exact"` (all ways of dealing clusters out) or `"monte carlo"`.
        arrangements: Ways compared, the observed one included.
    """

    p: float
    against: float
    difference: float
    clusters: tuple[int, int]
    method: Literal["exact", "monte carlo"]
    arrangements: int


def cluster_shares(effect: ClusterEffect) -> Shares:
    """Return A_g / B_g, one a cluster.

    Raises:
        SampleError: A cluster without a positive denominator has no share; it is named.
    """
    a, b = np.array(effect.numerators), np.array(effect.denominators)
    bad = np.flatnonzero(b <= 0)
    if len(bad):
        raise SampleError(
            f"{len(bad)} of {effect.clusters} clusters show no behaviour to take a share of",
            given=", ".join(f"{effect.labels[k]} ({b[k]:.3g})" for k in bad[:5]),
            expected="a positive denominator in every cluster",
            next_step="bound the effect instead of comparing shares, or use another metric",
        )
    return np.asarray(a / b)


def two_sample_test(
    first: ArrayLike,
    second: ArrayLike,
    *,
    generator: np.random.Generator | None = None,
    draws: int = FLIPS,
) -> TwoSamples:
    """Test whether clusters of one task have larger shares than clusters of another.

    Null hypothesis: the clusters of both tasks are exchangeable: their shares come from one
        distribution. (Tasks of equal means and unequal spreads do not satisfy it.)
    Exchange unit: the cluster, which may belong to either task.
    Exactness: exact. Up to 20,000 ways of dealing the clusters out all are tried; beyond,
        p = (1 + #) / (1 + draws).

    Args:
        first: A share for each cluster of the first task.
        second: Likewise of the second.
        generator: Keyed generator; needed where not all ways are tried.
        draws: Random ways then.

    Raises:
        SampleError: Fewer than two clusters of a task, or no generator where needed.
        NonFiniteError: NaN or infinity; names the clusters.

    Sign: a small p says that the first is larger.
    Numerics: ties within 1e-6 of the largest share count against either side.
    Sources: Pitman 1937; Phipson & Smyth 2010. Equals `scipy.stats.permutation_test` with
        `permutation_type="independent"` on clean input.
    """
    x = finite_vector(first, "shares of the first task", item="cluster", at_least=2)
    y = finite_vector(second, "shares of the second task", item="cluster", at_least=2)
    pooled, size = np.concatenate([x, y]), len(x)
    ways = math.comb(len(pooled), size)
    exact = ways <= ALL_UP_TO
    sums = _all_sums(pooled, size, ways) if exact else _drawn_sums(pooled, size, generator, draws)
    observed = float(x.sum())
    slack = TIE * float(np.abs(pooled).max()) * size
    return TwoSamples(
        p=float((sums >= observed - slack).mean()),
        against=float((sums <= observed + slack).mean()),
        difference=float(x.mean() - y.mean()),
        clusters=(len(x), len(y)),
        method="exact" if exact else "monte carlo",
        arrangements=len(sums),
    )


def require_two_samples(first: int, second: int, level: float, *, draws: int = FLIPS) -> None:
    """Raise unless so many clusters of two tasks can reach `level`.

    Raises:
        UnattainableLevelError: Fewer than 5 of either, or too few ways of dealing them out.
    """
    ways = math.comb(first + second, first)
    smallest = 1 / ways if ways <= ALL_UP_TO else 1 / (1 + draws)
    if min(first, second) < FEWEST_EACH or not reaches(smallest, level):
        raise UnattainableLevelError(
            f"{first} and {second} clusters of two tasks cannot give p <= {level:.4g}",
            given=f"{ways} ways of dealing them out, smallest p {smallest:.2g}",
            expected=f"at least {FEWEST_EACH} clusters of each task, and a p that small",
            next_step="write prompts in more templates",
        )


def _all_sums(pooled: Shares, size: int, ways: int) -> Float[np.ndarray, " way"]:
    """Return the first task's sum for every way of dealing the clusters out."""
    flat = chain.from_iterable(combinations(range(len(pooled)), size))
    chosen = np.fromiter(flat, dtype=np.intp, count=ways * size).reshape(ways, size)
    return np.asarray(pooled[chosen].sum(1))


def _drawn_sums(
    pooled: Shares, size: int, generator: np.random.Generator | None, draws: int
) -> Float[np.ndarray, " way"]:
    """Return it for the observed way and for random ones."""
    if generator is None:
        raise SampleError(
            "there are too many ways of dealing the clusters out to try all: give a generator",
            given=f"{len(pooled)} clusters",
            expected="generator=keyed_generator(...)",
        )
    order = generator.random((draws, len(pooled))).argsort(axis=1)[:, :size]
    return np.concatenate([[pooled[:size].sum()], pooled[order].sum(1)])
