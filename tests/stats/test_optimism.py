"""The effect where a circuit was found, minus where it is tested."""

import numpy as np
import pytest
from scipy.stats import ttest_ind

from mechtest.errors import SampleError
from mechtest.stats import cluster_effect, optimism_interval


def effect(values, prefix, denominators=1.0):
    b = np.broadcast_to(denominators, len(values))
    return cluster_effect(values, b, [f"{prefix}{k}" for k in range(len(values))])


def test_with_constant_denominators_it_is_welchs_interval():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.9, 0.1, 8), rng.normal(0.7, 0.3, 12)
    difference, found = optimism_interval(effect(a, "a"), effect(b, "b"))
    known = ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    assert difference == pytest.approx(a.mean() - b.mean())
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_it_covers_the_difference_of_ratios():
    rng = np.random.default_rng(1)
    covered, runs = 0, 1000
    for _ in range(runs):
        halves = []
        for prefix, count, share in (("a", 8, 0.8), ("b", 12, 0.6)):
            b = rng.normal(4, 0.5, count)
            halves.append(effect(share * b + rng.normal(0, 0.5, count), prefix, b))
        _, found = optimism_interval(*halves)
        covered += found.low <= 0.2 <= found.high
    print(f"\noptimism interval covers {covered / runs:.3f}")
    assert 0.925 <= covered / runs <= 0.975


def test_clusters_that_agree_give_no_interval():
    difference, found = optimism_interval(effect([0.5] * 4, "a"), effect([0.25] * 4, "b"))
    assert difference == pytest.approx(0.25)
    assert (found.low, found.high) == (None, None)
    assert "no spread" in found.reason


def test_halves_that_cannot_be_compared_are_refused():
    one = effect([0.5, 0.6], "a")
    with pytest.raises(SampleError, match="share clusters"):
        optimism_interval(one, one)
    with pytest.raises(SampleError, match="no behaviour"):
        optimism_interval(one, effect([0.5, 0.6], "b", -1.0))
