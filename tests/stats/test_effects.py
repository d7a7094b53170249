"""Effects: ratios of cluster means, and what is told about bad values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import skew

from mechtest.errors import NonFiniteError, SampleError
from mechtest.stats import cluster_effect

NAN = float("nan")


def test_the_effect_is_a_ratio_of_means_with_each_cluster_once():
    """Cluster x has means (2, 4), cluster y (3, 3): 5 / 7, not the mean of ratios 3 / 4."""
    effect = cluster_effect([1, 3, 3], [3, 5, 3], ["x", "x", "y"])
    assert effect.estimate == pytest.approx(5 / 7)
    assert (effect.labels, effect.counts) == (("x", "y"), (2, 1))
    assert (effect.numerators, effect.denominators) == ((2.0, 3.0), (4.0, 3.0))
    assert (effect.clusters, effect.prompts) == (2, 3)


def test_each_prompt_once_is_the_ratio_of_sums():
    effect = cluster_effect([1, 3, 3], [3, 5, 3], ["x", "x", "y"], weight="prompt")
    assert effect.estimate == pytest.approx(7 / 11)


def test_scores_ask_about_the_threshold():
    effect = cluster_effect([1, 3, 3], [3, 5, 3], ["x", "x", "y"])
    assert effect.scores(0.5) == pytest.approx([0, 1.5])
    assert effect.scores(effect.estimate).mean() == pytest.approx(0)


def test_without_behaviour_there_is_no_share_of_it():
    assert cluster_effect([1, 1], [1, -1], ["a", "b"]).estimate is None


def test_heterogeneity_names_the_worst_cluster():
    found = cluster_effect([1, 2, -5], [1, 1, 1], ["a", "b", "c"]).heterogeneity(0.0)
    assert (found.positive, found.clusters, found.worst, found.worst_score) == (2, 3, "c", -5.0)
    scores = np.array([1, 2, -5.0])
    assert found.skewness == pytest.approx(skew(scores))
    assert cluster_effect([1, 1], [1, 1], ["a", "b"]).heterogeneity(0.3).skewness == 0


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 6))
def test_order_of_prompts_and_names_of_clusters_change_nothing(random, clusters):
    rows = [
        (random.uniform(-1, 2), random.uniform(0.1, 3), index % clusters) for index in range(17)
    ]
    straight = cluster_effect(*zip(*rows, strict=True))
    shuffled = random.sample(rows, len(rows))
    other = cluster_effect(*zip(*((a, b, f"name {9 - g}") for a, b, g in shuffled), strict=True))
    assert other.estimate == pytest.approx(straight.estimate)
    assert sorted(other.scores(0.4)) == pytest.approx(sorted(straight.scores(0.4)))


@pytest.mark.parametrize(
    ("a", "b", "labels", "error", "message"),
    [
        ([1, NAN, 3], [1, 1, 1], [*"xyz"], NonFiniteError, r"numerators holds NaN.*1 of 3 prompts"),
        ([1, 2], [float("inf"), 1], ["x", "y"], NonFiniteError, "denominators holds NaN or inf"),
        ([], [], [], SampleError, "numerators needs at least 1 prompt"),
        ([1, 2], [1, 2], ["x", "x"], SampleError, r"one cluster(.|\n)*2 prompts of cluster 'x'"),
        ([1, 2], [1, 2], ["x"], SampleError, r"differ in length(.|\n)*2 prompts, 1 labels"),
        ([1, 2], [1, 2, 3], ["x", "y"], SampleError, "2 numerators, 3 denominators"),
        ([1, 2], [1, 2], [1, "1"], SampleError, r"both read '1'(.|\n)*1 and '1'"),
        ([1, 2], [1, 2], ["x", None], SampleError, "has no cluster label"),
        ([1, 2], [1, 2], "xy", SampleError, r"one label a prompt(.|\n)*the text 'xy'"),
        ([[1, 2]], [1, 2], ["x", "y"], SampleError, r"shape \(1, 2\)"),
        (["a", "b"], [1, 2], ["x", "y"], SampleError, "should be real numbers"),
    ],
)
def test_bad_values_are_refused_by_name(a, b, labels, error, message):
    with pytest.raises(error, match=message):
        cluster_effect(a, b, labels)


def test_a_nan_names_its_prompts():
    values = np.ones(20)
    values[[3, 5, 7, 9, 11, 13]] = np.nan
    with pytest.raises(NonFiniteError, match=r"6 of 20(.|\n)*prompt 3, 5, 7, 9, 11, \.\.\."):
        cluster_effect(values, np.ones(20), list(range(20)))


def test_an_unknown_weight_or_threshold_is_refused():
    with pytest.raises(SampleError, match="'cluster' or 'prompt'"):
        cluster_effect([1, 2], [1, 2], [1, 2], weight="token")
    with pytest.raises(NonFiniteError, match="threshold is not a finite number"):
        cluster_effect([1, 2], [1, 2], [1, 2]).scores(NAN)
