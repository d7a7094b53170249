"""The cluster sign-flip test against enumeration by hand, scipy, and its own properties."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import permutation_test

from mechtest.errors import NonFiniteError, SampleError, UnattainableLevelError
from mechtest.stats import (
    bootstrap_t_p,
    keyed_generator,
    needed_clusters,
    require_clusters,
    sign_flip_test,
    smallest_sign_flip_p,
)

SCORES = st.lists(
    st.integers(-40, 40).map(lambda tenths: tenths / 10), min_size=2, max_size=9
).filter(any)


def enumerated(scores):
    """Return the p value by its definition."""
    means = [
        np.mean(np.multiply(s, scores)) for s in itertools.product([1, -1], repeat=len(scores))
    ]
    return np.mean([mean >= np.mean(scores) - 1e-9 for mean in means])


def test_three_clusters_by_hand():
    """P counts the subsets whose flipping keeps the mean as large: those with a sum <= 0."""
    assert sign_flip_test([1, 2, 3]).p == 1 / 8
    # Subsets with a sum <= 0: none, {-1}, {1, -1}.
    assert sign_flip_test([1, 2, -1]).p == 3 / 8
    assert sign_flip_test([1, 2, 3], alternative="less").p == 1


@settings(max_examples=60, deadline=None)
@given(SCORES)
def test_p_is_its_definition_and_bounded(scores):
    found = sign_flip_test(scores)
    assert found.p == enumerated(scores)
    assert found.smallest_p <= found.p <= 1
    assert found.smallest_p == 2.0 ** -len(scores)
    assert (found.method, found.patterns) == ("exact", 2 ** len(scores))


@settings(max_examples=60, deadline=None)
@given(SCORES, st.randoms(use_true_random=False), st.floats(0.01, 100))
def test_order_and_scale_change_nothing(scores, random, factor):
    p = sign_flip_test(scores).p
    assert sign_flip_test(random.sample(scores, len(scores))).p == p
    assert sign_flip_test(np.array(scores) * factor).p == p
    assert sign_flip_test(-np.array(scores), alternative="less").p == p


@settings(max_examples=60, deadline=None)
@given(SCORES, st.floats(0, 3), st.data())
def test_raising_a_score_never_raises_p(scores, more, data):
    raised = list(scores)
    raised[data.draw(st.integers(0, len(scores) - 1))] += more
    assert sign_flip_test(raised).p <= sign_flip_test(scores).p


@pytest.mark.parametrize("alternative", ["greater", "less"])
def test_scipy_agrees(alternative):
    scores = np.random.default_rng(1).normal(0.3, 1, 9)
    theirs = permutation_test(
        (scores,), np.mean, permutation_type="samples", alternative=alternative, n_resamples=10**4
    )
    assert sign_flip_test(scores, alternative=alternative).p == pytest.approx(theirs.pvalue)


def test_many_clusters_are_drawn_and_agree_with_enumeration():
    scores = np.random.default_rng(2).normal(0.25, 1, 16)
    sums = np.zeros(1)
    for score in scores:
        sums = np.concatenate([sums, sums + score])
    exact = np.mean(sums <= 0)
    found = sign_flip_test(scores, generator=keyed_generator(0, "t", "sign flips"))
    assert (found.method, found.patterns, found.smallest_p) == ("monte carlo", 10_000, 1e-4)
    assert found.p == pytest.approx(exact, abs=4 * np.sqrt(exact / 9_999))
    assert found.p == sign_flip_test(scores, generator=keyed_generator(0, "t", "sign flips")).p


def test_drawn_patterns_include_the_observed_one():
    """P is never 0, however clear the effect."""
    found = sign_flip_test(np.ones(40), generator=keyed_generator(0, "t", "x"), flips=99)
    assert found.p == 1 / 100


def test_ties_count_against_the_claim():
    """A cluster that says nothing halves the resolution; float32 noise does not undo that."""
    assert sign_flip_test([0, 1, 1]).p == sign_flip_test([1e-8, 1, 1]).p == 2 / 8
    assert sign_flip_test([0, 0]).p == 1
    assert sign_flip_test(np.float32([0.1, -0.1, 1]) + np.float64([0, 1e-9, 0])).p == 3 / 8


@pytest.mark.parametrize(
    ("level", "clusters"), [(0.05, 5), (0.0125, 7), (0.0025, 9), (0.001, 10), (0.0625, 4), (0.5, 2)]
)
def test_needed_clusters_is_where_the_level_becomes_reachable(level, clusters):
    assert needed_clusters(level) == clusters
    assert smallest_sign_flip_p(clusters) <= level
    assert clusters == 2 or smallest_sign_flip_p(clusters - 1) > level
    assert sign_flip_test(np.ones(clusters)).p <= level
    require_clusters(clusters, level)


def test_too_few_clusters_are_said_beforehand():
    with pytest.raises(UnattainableLevelError, match=r"6 clusters can never(.|\n)*at least 7"):
        require_clusters(6, 0.0125)
    with pytest.raises(UnattainableLevelError, match=r"raise flips"):
        require_clusters(20, 5e-5)


@pytest.mark.parametrize(
    ("scores", "options", "error", "message"),
    [
        ([1, float("nan")], {}, NonFiniteError, r"scores holds NaN(.|\n)*cluster 1"),
        ([1], {}, SampleError, r"scores needs at least 2 clusters"),
        ([], {}, SampleError, r"scores needs at least 2 clusters"),
        ([1, 2], {"alternative": "two-sided"}, SampleError, "'greater' or 'less'"),
        ([1] * 15, {}, SampleError, "15 clusters have too many sign patterns"),
        ([1] * 15, {"generator": np.random.default_rng(0), "flips": 0}, SampleError, "flips=0"),
    ],
)
def test_bad_input_is_refused(scores, options, error, message):
    with pytest.raises(error, match=message):
        sign_flip_test(scores, **options)


def test_the_bootstrap_t_is_repeatable_and_points_the_same_way():
    scores = np.random.default_rng(3).normal(1, 1, 12)
    p = bootstrap_t_p(scores, keyed_generator(0, "t", "bootstrap t"))
    assert p == bootstrap_t_p(scores, keyed_generator(0, "t", "bootstrap t"))
    assert p < 0.05
    assert bootstrap_t_p(-scores, keyed_generator(0, "t", "b")) > 0.9


def test_scores_without_spread_never_bootstrap_to_significance():
    assert bootstrap_t_p(np.ones(8), keyed_generator(0, "t", "b")) == 1
    with pytest.raises(SampleError, match="resamples=0"):
        bootstrap_t_p([1, 2], keyed_generator(0, "t", "b"), resamples=0)
