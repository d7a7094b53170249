"""Clusters of two tasks are dealt out anew: against scipy."""

import math

import numpy as np
import pytest
from scipy.stats import permutation_test

from mechtest.errors import NonFiniteError, SampleError, UnattainableLevelError
from mechtest.stats import (
    cluster_effect,
    cluster_shares,
    keyed_generator,
    require_two_samples,
    two_sample_test,
)


def difference(x, y, axis):
    return x.mean(axis) - y.mean(axis)


def by_scipy(x, y, alternative, **options):
    return permutation_test(
        (x, y), difference, permutation_type="independent", vectorized=True,
        alternative=alternative, **options,
    ).pvalue  # fmt: skip


@pytest.mark.parametrize(("first", "second"), [(5, 5), (6, 9), (8, 8)])
def test_all_ways_agree_with_scipy(first, second):
    rng = np.random.default_rng(first)
    x, y = rng.normal(0.3, 1, first), rng.normal(0, 1, second)
    found = two_sample_test(x, y)
    assert (found.method, found.arrangements) == ("exact", math.comb(first + second, first))
    assert found.p == pytest.approx(by_scipy(x, y, "greater", n_resamples=np.inf))
    assert found.against == pytest.approx(by_scipy(x, y, "less", n_resamples=np.inf))
    assert found.difference == pytest.approx(x.mean() - y.mean())


def test_drawn_ways_agree_with_scipy_and_are_keyed():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.4, 1, 12), rng.normal(0, 1, 14)
    found = two_sample_test(x, y, generator=keyed_generator(0, "c", "ways"))
    assert (found.method, found.arrangements) == ("monte carlo", 10_000)
    assert found == two_sample_test(x, y, generator=keyed_generator(0, "c", "ways"))
    theirs = by_scipy(x, y, "greater", n_resamples=9_999, rng=rng)
    assert found.p == pytest.approx(theirs, abs=0.02)
    with pytest.raises(SampleError, match="give a generator"):
        two_sample_test(x, y)


def test_what_is_never_beaten_has_the_smallest_p():
    found = two_sample_test([5.0] * 5, [0.0, 0.1, 0.2, 0.3, 0.4])
    assert found.p == 1 / 252
    assert found.against == 1.0
    drawn = two_sample_test([5.0] * 15, [0.0] * 15, generator=keyed_generator(0, "c", "ways"))
    assert drawn.p == 1 / 10_000


def test_equal_clusters_are_all_ties():
    found = two_sample_test([0.5] * 6, [0.5 + 1e-9] * 6)
    assert (found.p, found.against) == (1.0, 1.0)


def test_shares_need_a_behaviour_in_every_cluster():
    good = cluster_effect([1.0, 3.0], [2.0, 4.0], ["a", "b"])
    assert cluster_shares(good).tolist() == [0.5, 0.75]
    with pytest.raises(SampleError, match="b \\(-4\\)"):
        cluster_shares(cluster_effect([1.0, 3.0], [2.0, -4.0], ["a", "b"]))


def test_too_few_clusters_are_told_before_anything_is_run():
    require_two_samples(5, 5, 0.05)
    for first, second, level in [(4, 20, 0.05), (20, 4, 0.05), (5, 5, 0.001), (20, 20, 1e-5)]:
        with pytest.raises(UnattainableLevelError, match=f"{first} and {second} clusters"):
            require_two_samples(first, second, level)


def test_nan_and_lone_clusters_are_refused():
    with pytest.raises(NonFiniteError):
        two_sample_test([0.0, np.nan], [0.0, 1.0])
    with pytest.raises(SampleError, match="at least 2"):
        two_sample_test([0.0], [0.0, 1.0])


def test_the_rate_of_false_findings_is_the_level():
    rng = np.random.default_rng(1)
    p = [two_sample_test(*rng.standard_t(3, size=(2, 6))).p for _ in range(1000)]
    assert 0.03 <= np.mean(np.array(p) <= 0.05) <= 0.075
