"""Membership of every set is an exact binomial matter: against scipy."""

import pytest
from scipy.stats import binomtest

from mechtest.errors import SampleError, UnattainableLevelError
from mechtest.stats import membership_test, require_sets


@pytest.mark.parametrize(("inside", "sets"), [(5, 5), (4, 6), (0, 3), (9, 10)])
@pytest.mark.parametrize("share", [0.5, 0.8])
def test_p_and_intervals_are_those_of_scipy(inside, sets, share):
    found = membership_test([True] * inside + [False] * (sets - inside), share, 0.05)
    theirs = binomtest(inside, sets, share, alternative="greater")
    assert found.p == pytest.approx(theirs.pvalue)
    assert found.every == (inside == sets)
    exact = binomtest(inside, sets).proportion_ci(0.9, "exact")
    assert (found.interval.low, found.interval.high) == pytest.approx((exact.low, exact.high))
    wilson = binomtest(inside, sets).proportion_ci(0.9, "wilson")
    assert (found.shown.low, found.shown.high) == pytest.approx((wilson.low, wilson.high))


def test_in_all_of_k_sets_p_is_the_share_to_the_k():
    assert membership_test([True] * 5, 0.5, 0.05).p == pytest.approx(0.5**5)


def test_too_few_sets_are_told():
    require_sets(5, 0.5, 0.05)
    with pytest.raises(UnattainableLevelError, match="all of 4 sets"):
        require_sets(4, 0.5, 0.05)
    with pytest.raises(SampleError, match="no set"):
        membership_test([], 0.5, 0.05)
    with pytest.raises(SampleError, match="share"):
        membership_test([True], 1.0, 0.05)
