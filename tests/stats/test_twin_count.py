"""Untrained twins that support a claim are counted against chance."""

import pytest
from scipy.stats import binom

from mechtest.errors import SampleError
from mechtest.stats import count_twins


@pytest.mark.parametrize("supported", range(6))
@pytest.mark.parametrize("level", [0.05, 0.0025])
def test_p_is_the_binomial_tail(supported, level):
    found = count_twins(supported, 5, level)
    assert found.p == pytest.approx(binom.sf(supported - 1, 5, level))


def test_one_in_five_may_be_chance_at_a_loose_level_and_none_at_a_strict_one():
    assert not count_twins(1, 5, 0.05).broken
    assert count_twins(2, 5, 0.05).broken
    assert count_twins(1, 5, 0.0025).broken
    assert not count_twins(0, 5, 0.0025).broken
    assert (
        str(count_twins(1, 5, 0.05))
        == "1 of 5 untrained twins supported too (P 0.23 at level 0.05)"
    )


@pytest.mark.parametrize(("supported", "twins"), [(0, 0), (3, 2), (-1, 2)])
def test_counts_that_cannot_be(supported, twins):
    with pytest.raises(SampleError):
        count_twins(supported, twins, 0.05)
