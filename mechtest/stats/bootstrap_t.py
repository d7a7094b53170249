"""Is the mean score above zero, when a few clusters are skewed against the claim?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import SampleError
from mechtest.stats.validation import finite_vector

__all__ = ["RESAMPLES", "RatioResamples", "bootstrap_t_p", "resample_counts"]

RESAMPLES = 9_999
BATCH = 2_000

Counts = Float[np.ndarray, "sample cluster"]
Samples = Float[np.ndarray, " sample"]


def bootstrap_t_p(
    scores: ArrayLike, generator: np.random.Generator, *, resamples: int = RESAMPLES
) -> float:
    """Return the one-sided cluster bootstrap-t p value of a mean above zero.

    Null hypothesis: the mean score is <= 0.
    Unit: the cluster, drawn with replacement.
    Exactness: approximate. Joined to sign flips where scores are skewed against the claim, it
        lowers their false positives from .13 to .076 at nominal .05 (12 exponential clusters).

    Args:
        scores: r_g, one a cluster.
        generator: Keyed generator.
        resamples: Bootstrap samples; p is at least 1 / (1 + resamples).

    Sign: a small p speaks for a positive mean.
    Numerics: a resample without spread counts against the claim whenever its mean is not below the
        centre, so scores without any spread give p = 1.
    Sources: Hall 1992, section 3.2; Davison & Hinkley 1997, section 4.4.
    """
    r = finite_vector(scores, "scores", item="cluster", at_least=2)
    counts = resample_counts(len(r), generator, resamples=resamples)
    return RatioResamples.of(r, np.zeros(len(r)), counts).p(0.0)


def resample_counts(
    clusters: int, generator: np.random.Generator, *, resamples: int = RESAMPLES
) -> Counts:
    """Return how often each bootstrap sample has each cluster.

    One table serves any number of thresholds, so that a p value and the interval that goes with it
    come from the same samples.

    Raises:
        SampleError: No samples are asked for.
    """
    if resamples < 1:
        raise SampleError("at least one resample must be drawn", given=f"resamples={resamples}")
    counts = np.empty((resamples, clusters))
    for start in range(0, resamples, BATCH):
        size = min(BATCH, resamples - start)
        drawn = generator.integers(0, clusters, size=(size, clusters))
        cells = (drawn + clusters * np.arange(size)[:, None]).ravel()
        counts[start : start + size] = np.bincount(cells, minlength=size * clusters).reshape(
            size, clusters
        )
    return counts


@dataclass(frozen=True, eq=False)
class RatioResamples:
    """Bootstrap samples of scores a - theta * b, for any theta.

    Means of samples are linear in theta and their variances quadratic, so that a threshold more
    costs next to nothing.

    Attributes:
        a: Numerators, one a cluster.
        b: Denominators.
        means: Sample means of the centred a and b.
        squares: Sample means of their squares and of their product: aa, ab, bb.
    """

    a: Float[np.ndarray, " cluster"]
    b: Float[np.ndarray, " cluster"]
    means: tuple[Samples, Samples]
    squares: tuple[Samples, Samples, Samples]

    @classmethod
    def of(
        cls, a: Float[np.ndarray, " cluster"], b: Float[np.ndarray, " cluster"], counts: Counts
    ) -> Self:
        """Return the samples that a table of counts stands for."""
        n = len(a)
        one, other = a - a.mean(), b - b.mean()
        means = counts @ one / n, counts @ other / n
        squares = tuple(counts @ row / n for row in (one * one, one * other, other * other))
        return cls(a, b, means, (squares[0], squares[1], squares[2]))

    def p(self, theta: float, sign: int = 1) -> float:
        """Return p of "the mean of sign * (a - theta * b) is above zero"."""
        scores = sign * (self.a - theta * self.b)
        n, scale = len(scores), float(np.abs(scores).max())
        error = float(scores.std(ddof=1)) / np.sqrt(n)
        if error <= 1e-9 * scale / np.sqrt(n):
            return 1.0
        observed = float(scores.mean()) / error
        means = sign * (self.means[0] - theta * self.means[1])
        aa, ab, bb = self.squares
        variances = aa - 2 * theta * ab + theta**2 * bb - means**2
        # Cancellation leaves 1e-16 of the largest square where a sample has one cluster only.
        spread = variances > 1e-13 * float(((scores - scores.mean()) ** 2).max())
        errors = np.sqrt(np.where(spread, variances, 1.0) / (n - 1))
        infinite = np.where(means >= -1e-9 * scale, np.inf, -np.inf)
        t = np.where(spread, means / errors, infinite)
        as_extreme = int((t >= observed - 1e-9 * abs(observed)).sum())
        return (1 + as_extreme) / (1 + len(t))
