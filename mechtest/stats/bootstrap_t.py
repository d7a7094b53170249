"""Is the mean score above zero, when a few clusters are strongly skewed against the claim?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

from mechtest.errors import SampleError
from mechtest.stats.validation import finite_vector

__all__ = ["bootstrap_t_p"]

BATCH = 1_000


def bootstrap_t_p(
    scores: ArrayLike, generator: np.random.Generator, *, resamples: int = 9_999
) -> float:
    """Return the one-sided cluster bootstrap-t p value of a mean above zero.

    Null hypothesis: the mean score is <= 0.
    Unit: the cluster, drawn with replacement.
    Exactness: approximate. Joined to sign flips when scores are skewed to the left, it lowers
        their false positives from .139 to .107 at nominal .05 (8 exponential clusters).

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
    if resamples < 1:
        raise SampleError("at least one resample must be drawn", given=f"resamples={resamples}")
    centred = r - r.mean()
    noise = 1e-9 * float(np.abs(r).max())
    if r.std(ddof=1) <= noise:
        return 1.0
    observed = float(_t(r[None, :], noise)[0])
    as_extreme = 0
    for start in range(0, resamples, BATCH):
        size = min(BATCH, resamples - start)
        drawn = centred[generator.integers(0, len(r), size=(size, len(r)))]
        as_extreme += int((_t(drawn, noise) >= observed - 1e-12 * abs(observed)).sum())
    return (1 + as_extreme) / (1 + resamples)


def _t(samples: Float[np.ndarray, "sample cluster"], noise: float) -> Float[np.ndarray, " sample"]:
    """Return t statistics; without spread they are infinite, with the sign that is conservative."""
    means = samples.mean(axis=1)
    errors = samples.std(axis=1, ddof=1) / np.sqrt(samples.shape[1])
    spread = errors > noise / samples.shape[1]
    infinite = np.where(means >= -noise, np.inf, -np.inf)
    return np.where(spread, means / np.where(spread, errors, 1.0), infinite)
