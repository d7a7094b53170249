"""Showing that an effect is absent, and how many clusters or controls a claim needs."""

import numpy as np
import pytest

from mechtest.errors import NonFiniteError, SampleError
from mechtest.stats import (
    cluster_effect,
    clusters_for_power,
    effect_test_power,
    equivalence_test,
    needed_clusters,
    plan_clusters,
    standardised_distance,
)


def effect(mean, clusters=12, noise=0.05, seed=0):
    values = mean + np.random.default_rng(seed).normal(0, noise, clusters)
    return cluster_effect(2 * values, np.full(clusters, 2.0), [*range(clusters)])


def test_a_small_effect_is_shown_to_be_small():
    found = equivalence_test(effect(0.02), 0.15, 0.025, seed=0, claim="c")
    assert found.equivalent
    assert found.p == found.upper.sign_flip.p
    assert found.upper.interval.high < 0.15
    assert found.lower is None


def test_no_clear_effect_is_not_an_absent_effect():
    """Wide scatter around zero: nothing is significant, and nothing is shown to be absent."""
    noisy = effect(0.0, clusters=6, noise=0.6, seed=1)
    assert not equivalence_test(noisy, 0.15, 0.05, seed=0, claim="c").equivalent


def test_interval_and_equivalence_agree():
    for mean in (0.0, 0.1, 0.13, 0.15, 0.3):
        found = equivalence_test(effect(mean), 0.15, 0.05, seed=0, claim="c")
        assert found.equivalent is (found.upper.interval.high < 0.15)


def test_a_strong_negative_effect_is_not_absent_either():
    negative = effect(-0.5)
    assert equivalence_test(negative, 0.15, 0.05, seed=0, claim="c").equivalent
    both = equivalence_test(negative, 0.15, 0.05, seed=0, claim="c", lower=-0.15)
    assert not both.equivalent
    assert both.p == both.lower.p > 0.9
    assert equivalence_test(effect(0.02), 0.15, 0.05, seed=0, claim="c", lower=-0.15).equivalent
    with pytest.raises(SampleError, match="should be below the threshold"):
        equivalence_test(negative, 0.15, 0.05, seed=0, claim="c", lower=0.2)


@pytest.mark.parametrize(("clusters", "power"), [(8, 0.653), (12, 0.859), (20, 0.978), (300, 1.0)])
def test_power_of_the_effect_test(clusters, power):
    """Of the t test it would be .716, .881 and .982: what samples skewed by chance cost."""
    assert effect_test_power(0.87, clusters, 0.05) == pytest.approx(power, abs=0.006)


def test_power_of_many_clusters_is_that_of_the_t_test():
    for distance in (0.2, 0.3, 0.4):
        few, many = (effect_test_power(distance, n, 0.05) for n in (60, 61))
        assert many == pytest.approx(few, abs=0.02)


@pytest.mark.parametrize(("level", "clusters"), [(0.05, 11), (0.0125, 17), (0.0025, 24)])
def test_clusters_needed_for_80_percent(level, clusters):
    plan = clusters_for_power(0.87, level)
    assert plan.clusters == clusters
    assert effect_test_power(0.87, clusters, level) >= 0.8
    assert effect_test_power(0.87, clusters - 1, level) < 0.8


def test_however_large_the_effect_the_level_needs_its_clusters():
    plan = clusters_for_power(50.0, 0.0025)
    assert (plan.clusters, plan.reason) == (9, "fewest clusters that can reach the level")
    assert effect_test_power(50.0, 8, 0.0025) == 0
    assert plan.clusters == needed_clusters(0.0025)


def test_what_no_number_of_clusters_shows_is_said():
    assert "not beyond the threshold" in clusters_for_power(-0.1, 0.05).reason
    assert clusters_for_power(0.0, 0.05).clusters is None
    assert "too near the threshold" in clusters_for_power(1e-4, 0.05).reason
    assert "random sign patterns" in clusters_for_power(1.0, 1e-5).reason


def test_more_effect_never_needs_more_clusters():
    needed = [clusters_for_power(d, 0.0125).clusters for d in (0.2, 0.4, 0.8, 1.6, 3.2, 40)]
    assert needed == sorted(needed, reverse=True)


def test_a_pilot_tells_the_distance():
    pilot = effect(0.8, clusters=40, noise=0.2)
    distance = standardised_distance(pilot, 0.5, 0.8)
    shares = np.array(pilot.numerators) / 2
    assert distance == pytest.approx(0.3 / shares.std(ddof=1))
    assert plan_clusters(pilot, 0.5, 0.05).clusters < plan_clusters(pilot, 0.7, 0.05).clusters
    below = plan_clusters(effect(0.1, 40, 0.2), 0.2, 0.05, alternative="less")
    assert below.clusters > 5
    assert plan_clusters(pilot, 0.9, 0.05).clusters is None
    absent = cluster_effect([1, 1], [1, -1], [0, 1])
    assert plan_clusters(absent, 0.5, 0.05).reason == "the pilot shows no behaviour"


def test_unusable_numbers_are_refused():
    with pytest.raises(SampleError, match="do not differ"):
        standardised_distance(effect(0.8, noise=0), 0.5, 0.8)
    with pytest.raises(NonFiniteError, match="distance is not"):
        clusters_for_power(float("nan"), 0.05)
    with pytest.raises(SampleError, match="power lies outside"):
        clusters_for_power(0.5, 0.05, power=1.0)
