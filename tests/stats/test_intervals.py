"""Intervals: duality with the tests, the three kinds of Fieller sets, proportions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, ttest_1samp
from statsmodels.stats.proportion import proportion_confint

from mechtest.errors import SampleError
from mechtest.stats import (
    behaviour_test,
    clopper_pearson_interval,
    cluster_effect,
    effect_interval,
    effect_test,
    fieller_interval,
    inversion_interval,
    keyed_generator,
    sign_flip_test,
    wilson_interval,
)


def pairs(a, b):
    return cluster_effect(a, b, [f"{index:03}" for index in range(len(a))])


def simulated(seed, clusters, noise=0.5):
    rng = np.random.default_rng(seed)
    b = rng.uniform(1, 3, clusters)
    return pairs(0.7 * b + rng.normal(0, noise, clusters), b)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(6, 10), st.sampled_from([0.5, 0.8, 0.9, 0.95]))
def test_inversion_and_sign_flips_never_contradict(seed, clusters, confidence):
    effect = simulated(seed, clusters)
    found = inversion_interval(effect, confidence)
    level = (1 - confidence) / 2
    below, above = np.array([-1e-4, -0.3, -9.0]), np.array([1e-4, 0.3, 9.0])
    for theta in found.low + below:
        assert sign_flip_test(effect.scores(theta)).p <= level
    for theta in found.high + above:
        assert sign_flip_test(effect.scores(theta), alternative="less").p <= level
    for theta in np.linspace(found.low, found.high, 7):
        assert sign_flip_test(effect.scores(theta)).p > level
        assert sign_flip_test(effect.scores(theta), alternative="less").p > level


def test_three_clusters_inverted_by_hand():
    """With 8 patterns and tails of 1/4, the ends are the second of the seven subset ratios."""
    effect = pairs([1, 2, 6], [1, 1, 1])
    # Subset means: 1, 1.5, 2, 3, 3.5, 4, 6.
    found = inversion_interval(effect, 0.5)
    assert (found.low, found.high) == (1.5, 4.0)


def test_inversion_of_many_clusters_uses_the_flips_of_the_p_value():
    effect = simulated(1, 20)
    found = inversion_interval(effect, 0.9, generator=keyed_generator(0, "c", "sign flips"))
    for theta, small in [(found.low - 1e-3, True), (found.low + 1e-3, False)]:
        p = sign_flip_test(effect.scores(theta), generator=keyed_generator(0, "c", "sign flips")).p
        assert (p <= 0.05) is small


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_inversion_with_denominators_of_both_signs_is_right_at_every_threshold(seed):
    rng = np.random.default_rng(seed)
    b = rng.normal(0.8, 1, 7)
    effect = pairs(0.7 * b + rng.normal(0, 0.3, 7), b)
    found = inversion_interval(effect, 0.9)
    if found.bounded:
        thetas = np.linspace(found.low - 5, found.high + 5, 300)
    else:
        assert found.reason.startswith("some clusters have no positive denominator")
        assert not (found.low is not None and found.high is not None)
        thetas = np.linspace(-20, 20, 300)
    accepted = np.array([
        min(
            sign_flip_test(effect.scores(theta)).p,
            sign_flip_test(effect.scores(theta), alternative="less").p,
        )
        > 0.05
        for theta in thetas
    ])  # fmt: skip
    if found.bounded:
        expected = (thetas >= found.low) & (thetas <= found.high)
        assert (accepted == expected).all()
    elif "every value" in found.reason:
        assert accepted.all()
    elif "gap" in found.reason:
        assert accepted.any()
    elif "no upper" in found.reason:
        assert (accepted == (thetas >= found.low)).all()
    elif "no lower" in found.reason:
        assert (accepted == (thetas <= found.high)).all()


def test_too_few_clusters_have_no_interval_but_a_reason():
    found = inversion_interval(pairs([1, 2, 3, 4], [1, 1, 1, 1]), 0.9)
    assert (found.low, found.high, found.bounded) == (None, None, False)
    assert "4 clusters give no p below 0.062, the interval needs 0.05" in found.reason


def test_fieller_is_the_set_a_t_test_does_not_reject():
    effect = simulated(5, 8)
    found = fieller_interval(effect, 0.9)
    for end in (found.low, found.high):
        assert ttest_1samp(effect.scores(end), 0).pvalue == pytest.approx(0.1)
    assert found.low < effect.estimate < found.high


def test_fieller_with_equal_denominators_is_the_t_interval_of_the_mean():
    values = np.array([0.2, 0.5, 0.9, 0.4])
    found = fieller_interval(pairs(2 * values, [2, 2, 2, 2]), 0.95)
    low, high = ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))


def test_fieller_says_when_everything_is_possible_or_only_a_gap_is_excluded():
    whole = fieller_interval(pairs([0.1, -0.2, 0.1, 0.05], [1, -1, 0.9, -0.8]), 0.95)
    assert (whole.low, whole.high) == (None, None)
    assert "every value is possible" in whole.reason
    effect = pairs([5, 5.2, 4.9, 5.1], [1, -1, 0.9, -0.8])
    gap = fieller_interval(effect, 0.95)
    assert (gap.low, gap.high) == (None, None)
    low, high = (float(end) for end in gap.reason.split("(")[1].split(")")[0].split(","))
    assert ttest_1samp(effect.scores((low + high) / 2), 0).pvalue < 0.05
    for end in (low, high):
        assert ttest_1samp(effect.scores(end), 0).pvalue == pytest.approx(0.05, abs=2e-3)


def test_clusters_that_agree_perfectly_have_no_fieller_interval():
    """An identity (effect exactly 1) must not come out as certainty of a t test."""
    effect = pairs([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6])
    assert "no spread" in fieller_interval(effect, 0.95).reason
    found = inversion_interval(effect, 0.9)
    assert (found.low, found.high) == (1.0, 1.0)


@pytest.mark.parametrize("successes", [0, 1, 7, 19, 20])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_proportions_agree_with_scipy_and_statsmodels(successes, confidence):
    ours = clopper_pearson_interval(successes, 20, confidence)
    theirs = binomtest(successes, 20).proportion_ci(confidence, "exact")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))
    ours = wilson_interval(successes, 20, confidence)
    theirs = proportion_confint(successes, 20, 1 - confidence, method="wilson")
    assert (ours.low, ours.high) == pytest.approx(theirs)
    theirs = binomtest(successes, 20).proportion_ci(confidence, "wilson")
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high))


@pytest.mark.parametrize("counts", [(3, 2), (-1, 2), (0, 0)])
@pytest.mark.parametrize("interval", [clopper_pearson_interval, wilson_interval])
def test_impossible_counts_are_refused(interval, counts):
    with pytest.raises(SampleError, match="0 <= successes <= trials"):
        interval(*counts, 0.95)
    with pytest.raises(SampleError, match="whole numbers"):
        interval(0.5, 2, 0.95)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_lies_between_0_and_1(confidence):
    for interval in (fieller_interval, inversion_interval):
        with pytest.raises(SampleError, match=r"confidence lies outside \(0, 1\)"):
            interval(simulated(0, 8), confidence)


def test_the_effect_test_reports_p_and_interval_that_agree():
    for threshold in (0.2, 0.5, 0.7, 0.9):
        found = effect_test(simulated(4, 16), threshold, 0.0125, seed=0, claim="c")
        assert found.interval.confidence == pytest.approx(0.975)
        assert (found.p <= 0.0125) is (threshold < found.interval.low)
        against = found.heterogeneity.skewness < -0.01
        assert (found.skewed_p is not None) is against


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("clusters", [9, 20, 40])
def test_an_end_moved_out_by_skewed_scores_is_where_p_crosses_the_level(clusters, seed):
    rng = np.random.default_rng(seed)
    b = rng.gamma(9, 0.2, clusters)
    effect = pairs((1 - 0.4 * rng.exponential(1, clusters)) * b, b)
    found = effect_interval(effect, 0.9, seed=0, claim="c")
    alone = inversion_interval(effect, 0.9, generator=keyed_generator(0, "c", "sign flips"))
    assert found.low <= alone.low  # the long tail is below
    assert found.low < alone.low or clusters == 9
    assert found.high >= alone.high
    for end, alternative, inward in ((found.low, "greater", 1), (found.high, "less", -1)):
        for step, rejected in ((-1e-4 * inward, True), (1e-4 * inward, False)):
            again = effect_test(
                effect, end + step, 0.05, seed=0, claim="c", alternative=alternative
            )
            assert (again.p <= 0.05) is rejected


def test_scores_skewed_against_the_claim_bring_in_another_test():
    rng = np.random.default_rng(0)
    a = 1 - rng.exponential(1, 12) ** 1.5
    assert pairs(a, np.ones(12)).heterogeneity(0).skewness < -1
    up = effect_test(pairs(a, np.ones(12)), -0.5, 0.05, seed=0, claim="c")
    assert up.p == max(up.sign_flip.p, up.skewed_p)
    assert "skewed scores" in up.method
    assert (
        effect_test(
            pairs(a, np.ones(12)), -0.5, 0.05, seed=0, claim="c", alternative="less"
        ).skewed_p
        is None
    )
    mirrored = effect_test(pairs(-a, np.ones(12)), 0.5, 0.05, seed=0, claim="c", alternative="less")
    assert mirrored.skewed_p == up.skewed_p
    assert mirrored.p == up.p


def test_an_absent_behaviour_is_noticed():
    labels = list(range(8))
    strong = cluster_effect(np.ones(8), [2, 3, 2, 3, 2, 3, 2, 3], labels)
    assert behaviour_test(strong, seed=0, claim="c").present
    weak = cluster_effect(np.ones(8), [2, -3, 2, -3, 2, 3, -2, 3], labels)
    found = behaviour_test(weak, seed=0, claim="c")
    assert not found.present
    assert "not clearly positive" in found.reason
    few = cluster_effect(np.ones(4), [2, 3, 2, 3], labels[:4])
    assert not behaviour_test(few, seed=0, claim="c").present
    one_big = cluster_effect(np.ones(8), [0.01] * 7 + [90], labels)
    found = behaviour_test(one_big, seed=0, claim="c")
    assert not found.present
    assert "within reach of zero" in found.reason
