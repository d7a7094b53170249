"""Claims over training seeds: how little a few seeds say."""

import numpy as np
import pytest
from scipy.stats import beta, ttest_1samp

from mechtest.errors import NonFiniteError, SampleError, UnattainableLevelError
from mechtest.stats import (
    all_seeds,
    keyed_generator,
    mean_over_seeds,
    needed_seeds,
    require_seeds_for_mean,
)


@pytest.mark.parametrize(
    ("seeds", "share"), [(3, 0.37), (5, 0.55), (7, 0.65), (10, 0.74), (29, 0.90), (59, 0.95)]
)
def test_all_of_k_seeds_show_alpha_to_the_one_over_k(seeds, share):
    found = all_seeds([True] * seeds)
    assert found.holds
    assert found.share_low == pytest.approx(0.05 ** (1 / seeds))
    assert found.share_low == pytest.approx(share, abs=0.005)


def test_one_seed_that_fails_lowers_the_bound_and_ends_the_claim():
    found = all_seeds([True, True, False, True])
    assert (found.seeds, found.supported, found.holds) == (4, 3, False)
    assert found.share_low == pytest.approx(beta.ppf(0.05, 3, 2))
    assert all_seeds([False, False]).share_low == 0


def test_needed_seeds():
    assert [needed_seeds(share) for share in (1 / 3, 0.5, 0.9, 0.95)] == [3, 5, 29, 59]


def test_the_mean_over_seeds_is_a_t_test_over_seeds():
    effects = [0.9, 0.7, 0.8, 0.95, 0.6]
    found = mean_over_seeds(effects, 0.5)
    assert found.p_t == pytest.approx(ttest_1samp(effects, 0.5, alternative="greater").pvalue)
    low, high = ttest_1samp(effects, 0.5).confidence_interval(0.95)
    assert (found.interval.low, found.interval.high) == pytest.approx((low, high))
    assert found.p_sign_flip == 1 / 32
    width = (found.prediction.high - found.prediction.low) / (high - low)
    assert width == pytest.approx(np.sqrt(1 + 5))
    assert "normally distributed" in found.note


def test_equal_seeds_give_no_certainty():
    """A t test would say p = 0."""
    found = mean_over_seeds([0.9, 0.9, 0.9], 0.5)
    assert found.p_t is None
    assert "no spread" in found.note
    assert (found.interval.low, found.prediction.reason) == (None, found.interval.reason)
    assert found.p_sign_flip == 1 / 8


def test_few_seeds_cannot_support_a_mean_by_permutation():
    for seeds in (2, 3, 4):
        with pytest.raises(UnattainableLevelError, match=r"can never(.|\n)*at least 5 seeds"):
            require_seeds_for_mean(seeds, 0.05)
    require_seeds_for_mean(5, 0.05)


def test_many_seeds_need_a_generator():
    values = np.linspace(0.4, 1, 20)
    assert (
        mean_over_seeds(values, 0.5, generator=keyed_generator(0, "c", "seeds")).p_sign_flip < 0.01
    )
    with pytest.raises(SampleError, match="give a generator"):
        mean_over_seeds(values, 0.5)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: all_seeds([True]), SampleError, r"two seeds(.|\n)*given +1"),
        (lambda: all_seeds([]), SampleError, r"two seeds(.|\n)*given +0"),
        (lambda: all_seeds([True, True], confidence=0.4), SampleError, "bounds nothing"),
        (lambda: mean_over_seeds([0.5], 0.1), SampleError, "at least two seeds"),
        (lambda: mean_over_seeds([0.5, np.nan], 0.1), NonFiniteError, r"effects(.|\n)*seed 1"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
