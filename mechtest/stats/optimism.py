"""How much larger is an effect on the prompts a circuit was found on?"""

from __future__ import annotations

import math

from mechtest.errors import SampleError
from mechtest.stats.effects import ClusterEffect
from mechtest.stats.intervals import Interval
from mechtest.stats.validation import fraction

__all__ = ["optimism_interval"]


def optimism_interval(
    found_on: ClusterEffect, tested_on: ClusterEffect, *, confidence: float = 0.95
) -> tuple[float, Interval]:
    """Return the effect where the circuit was found minus that where it is tested.

    Unit: the cluster; the two sets share none.
    Exactness: approximate: a Welch t interval with delta-method errors of two ratios.

    Args:
        found_on: On the discovery half.
        tested_on: On the test half.
        confidence: Two-sided.

    Returns:
        The difference in shares of the behaviour, and its interval.

    Raises:
        SampleError: No effect on one side, or a cluster on both.

    Sign: positive when the effect was overstated where the circuit was found.
    Sources: Welch 1947; Efron 1983 (optimism of an apparent rate).
    """
    if found_on.estimate is None or tested_on.estimate is None:
        raise SampleError("there is no behaviour to take a share of on one of the halves")
    shared = set(found_on.labels) & set(tested_on.labels)
    if shared:
        raise SampleError("the halves share clusters", given=", ".join(sorted(shared)[:5]))
    difference = found_on.estimate - tested_on.estimate
    parts = [(one.error or 0.0) ** 2 for one in (found_on, tested_on)]
    total = sum(parts)
    if total <= 0:
        reason = "clusters do not differ at all: no spread to judge by"
        return difference, Interval(None, None, confidence, "welch", reason)
    counts = (found_on.clusters, tested_on.clusters)
    degrees = total**2 / sum(
        part**2 / (count - 1) for part, count in zip(parts, counts, strict=True)
    )
    from scipy.special import stdtrit

    tail = (1 + fraction(confidence, "confidence")) / 2
    reach = float(stdtrit(degrees, tail)) * math.sqrt(total)
    return difference, Interval(difference - reach, difference + reach, confidence, "welch")
