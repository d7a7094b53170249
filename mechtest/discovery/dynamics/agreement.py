"""Do two measures put the same things first?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

__all__ = ["FEWEST", "rank_correlation"]

FEWEST = 3
"""Things to rank below which a correlation says nothing."""


def rank_correlation(
    first: Float[np.ndarray, " place"], second: Float[np.ndarray, " place"]
) -> float | None:
    """Return Spearman's rank correlation over the places where both have a number.

    None where there are fewer than three such places, or one of the two does not vary.

    Sources: Spearman 1904.
    """
    there = np.isfinite(first) & np.isfinite(second)
    a, b = first[there], second[there]
    if len(a) < FEWEST or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(values: Float[np.ndarray, " place"]) -> Float[np.ndarray, " place"]:
    """Return ranks from 1 on, and to equal values the mean of theirs."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[group])
