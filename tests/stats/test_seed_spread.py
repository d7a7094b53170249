"""The next seed, and what seeds differ by: against scipy and statsmodels, traps included."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.meta_analysis import combine_effects

from mechtest.errors import NonFiniteError, SampleError
from mechtest.stats import (
    between_seeds,
    cluster_effect,
    mean_over_seeds,
    prediction_interval,
    stable_seeds,
)

EFFECTS = [0.9, 0.7, 0.8, 0.95, 0.6]


def test_the_prediction_interval_is_that_of_a_normal_sample():
    found = prediction_interval(EFFECTS, 0.9)
    k = len(EFFECTS)
    reach = scipy_stats.t.ppf(0.95, k - 1) * np.std(EFFECTS, ddof=1) * np.sqrt(1 + 1 / k)
    assert (found.low, found.high) == pytest.approx(
        (np.mean(EFFECTS) - reach, np.mean(EFFECTS) + reach)
    )
    assert mean_over_seeds(EFFECTS, 0.5, confidence=0.9).prediction == found


@pytest.mark.parametrize("k", [3, 5, 10])
def test_it_covers_the_next_seed(k):
    rng = np.random.default_rng(0)
    draws = rng.standard_normal((2000, k + 1))
    inside = 0
    for *seen, last in draws:
        found = prediction_interval(seen, 0.95)
        inside += found.low <= last <= found.high
    low, high = scipy_stats.binom.interval(0.999, 2000, 0.95)
    assert low <= inside <= high


def factor(k, confidence, share=0.95):
    """Howe's factor: how many standard deviations hold a share of seeds, with confidence."""
    chi = scipy_stats.chi2.ppf(1 - confidence, k - 1)
    return scipy_stats.norm.ppf((1 + share) / 2) * np.sqrt((k - 1) * (1 + 1 / k) / chi)


def test_p_is_where_the_tolerance_interval_touches_the_margin():
    found = stable_seeds(EFFECTS, 0.4)
    assert factor(len(EFFECTS), 1 - found.p) * found.deviation == pytest.approx(0.4)
    assert found.prediction == prediction_interval(EFFECTS, 0.95)
    assert factor(10, 0.95) == pytest.approx(3.379, rel=0.02), "published table: 10, .95, .95"


def test_three_seeds_hardly_ever_establish_stability_and_say_how_many_would():
    """Seeds that differ by .15, a margin of .5: the interval of 3 is 1.33 wide at the median."""
    rng = np.random.default_rng(1)
    found = [stable_seeds(rng.normal(0.8, 0.15, 3), 0.5) for _ in range(1000)]
    assert np.mean([one.p <= 0.05 for one in found]) < 0.4
    widths = [one.prediction.high - one.prediction.low for one in found]
    assert np.median(widths) == pytest.approx(1.33, abs=0.1)
    open_ = next(one for one in found if one.p > 0.05 and one.needed)
    assert open_.needed > 3
    k = open_.needed
    assert factor(k, 0.95) * open_.deviation <= 0.5 < factor(k - 1, 0.95) * open_.deviation


def test_a_spread_that_no_number_of_seeds_brings_inside():
    found = stable_seeds([0.1, 0.5, 0.9, 0.3, 0.7], 0.3)
    assert found.needed is None
    assert found.p > 0.05


@pytest.mark.parametrize("k", [3, 5, 10, 30])
def test_rates_at_the_margin(k):
    """5 % of seeds outside the margin around the truth: either error in at most 5 % of samples.

    A prediction interval, asked to lie within the margin, errs three to six times as often.
    """
    rng = np.random.default_rng(2)
    margin = scipy_stats.norm.ppf(0.975)
    found = [stable_seeds(rng.standard_normal(k), margin) for _ in range(2000)]
    refuted = sum(one.contradicted for one in found)
    low, high = scipy_stats.binom.interval(0.999, 2000, 0.05)
    assert low <= refuted <= high
    stable = sum(one.p <= 0.05 for one in found)
    assert stable <= high
    narrow = [one.prediction.high - one.estimate <= margin for one in found]
    assert np.mean(narrow) > 0.1
    print(f"\nat the margin, {k} seeds: {stable / 2000:.3f} stable, {refuted / 2000:.3f} not")


def test_equal_seeds_show_no_stability():
    found = stable_seeds([0.9, 0.9, 0.9], 0.1)
    assert (found.p, found.needed, found.contradicted) == (1.0, None, False)
    assert "no spread" in found.prediction.reason


def test_heterogeneity_is_statsmodels_where_that_is_sound():
    errors = np.array([0.05, 0.04, 0.06, 0.05, 0.05])
    found = between_seeds(EFFECTS, errors)
    known = combine_effects(np.array(EFFECTS), errors**2, method_re="iterated")
    assert found.tau == pytest.approx(np.sqrt(known.tau2), abs=1e-4)
    assert (found.q, found.i2) == pytest.approx((known.q, known.i2))
    assert found.estimate == pytest.approx(known.mean_effect_re, abs=1e-6)
    assert 0.5 < found.i2 < 1


def test_the_traps_of_combine_effects_are_closed():
    """Equal effects: a negative variance, I2 of minus infinity, an interval of no width."""
    effects, errors = np.full(5, 0.5), np.full(5, 0.1)
    close = np.array([0.5, 0.52, 0.48, 0.51, 0.49])
    raw = combine_effects(close, errors**2, method_re="dl", use_t=True)
    assert raw.tau2 < 0
    found = between_seeds(effects, errors)
    assert (found.tau, found.i2, found.q) == (0, 0, pytest.approx(0, abs=1e-12))
    reach = scipy_stats.t.ppf(0.975, 4) * 0.1 / np.sqrt(5)
    assert found.interval.high - 0.5 == pytest.approx(reach)


def test_without_differences_between_seeds_the_mean_is_covered():
    """Where the moment estimate's interval covers .735 of nominal .95."""
    rng = np.random.default_rng(3)
    errors = np.full(5, 0.1)
    covered = 0
    for _ in range(1000):
        interval = between_seeds(rng.normal(0.5, 0.1, 5), errors).interval
        covered += interval.low <= 0.5 <= interval.high
    assert covered / 1000 > 0.95


def test_tau_is_recovered():
    rng = np.random.default_rng(4)
    found = [between_seeds(rng.normal(0.5, np.hypot(0.2, 0.1), 200), np.full(200, 0.1)).tau
             for _ in range(20)]  # fmt: skip
    assert np.mean(found) == pytest.approx(0.2, abs=0.01)


@pytest.mark.parametrize("errors", [[0.1, 0.0], [0.1], [0.1, -0.1]])
def test_errors_that_are_none_are_refused(errors):
    with pytest.raises(SampleError, match="standard error"):
        between_seeds([0.5, 0.6], errors)


def test_bad_input():
    with pytest.raises(SampleError, match="two seeds"):
        prediction_interval([0.5])
    with pytest.raises(SampleError, match="two seeds"):
        between_seeds([0.5], [0.1])
    with pytest.raises(SampleError, match="margin"):
        stable_seeds(EFFECTS, 0.0)
    with pytest.raises(NonFiniteError):
        stable_seeds([0.5, float("nan")], 0.1)


def test_the_error_of_a_ratio_is_the_spread_of_its_simulated_values():
    rng = np.random.default_rng(5)
    labels = np.arange(40).tolist()
    found = []
    for _ in range(300):
        b = rng.normal(4, 0.5, 40)
        found.append(cluster_effect(0.6 * b + rng.normal(0, 1, 40), b, labels))
    spread = np.std([one.estimate for one in found])
    assert np.mean([one.error for one in found]) == pytest.approx(spread, rel=0.1)
    assert cluster_effect([1.0, 2.0], [-1.0, -1.0], ["a", "b"]).error is None
