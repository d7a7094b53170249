"""Levels and adjusted p values: against statsmodels, and for what a registry needs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from mechtest.errors import NonFiniteError, SampleError
from mechtest.stats import ClaimFamily, closed_gates, fixed_sequence, holm, static_levels

P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@settings(max_examples=15, deadline=None)  # statsmodels collects garbage in every call
@given(P_VALUES)
def test_holm_agrees_with_statsmodels(p_values):
    np.testing.assert_allclose(holm(p_values), multipletests(p_values, method="holm")[1])


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx((0.03, 0.06, 0.06))
    assert holm([]) == ()
    assert holm([0.5, 0.9]) == (1.0, 1.0)


@settings(max_examples=40, deadline=None)
@given(P_VALUES, st.randoms(use_true_random=False))
def test_holm_follows_its_claims_and_never_lowers(p_values, random):
    adjusted = holm(p_values)
    assert all(a >= p for a, p in zip(adjusted, p_values, strict=True))
    order = random.sample(range(len(p_values)), len(p_values))
    assert holm([p_values[i] for i in order]) == pytest.approx([adjusted[i] for i in order])


def test_holm_rejects_whatever_the_static_levels_reject():
    """The controller can upgrade a worker's verdict, never take it back."""
    rng = np.random.default_rng(0)
    levels = static_levels({"f": ClaimFamily(("a", "b", "c", "d"), ordered=False)}, 0.05)
    for _ in range(200):
        p_values = rng.uniform(0, 0.05, 4)
        for p, adjusted in zip(p_values, holm(p_values), strict=True):
            assert p > levels["a"] or adjusted <= 0.05


def test_gates_carry_the_largest_p_so_far():
    assert fixed_sequence([0.01, 0.2, 0.03]) == (0.01, 0.2, 0.2)


def test_families_share_alpha_and_gates_do_not():
    levels = static_levels(
        {
            "fact": ClaimFamily(("f1", "f2", "f3")),
            "ioi": ClaimFamily(("i1", "i2"), ordered=False),
        },
        0.05,
    )
    assert levels == {"f1": 0.025, "f2": 0.025, "f3": 0.025, "i1": 0.0125, "i2": 0.0125}


def test_a_gate_closes_all_behind_it():
    family = ClaimFamily(("a", "b", "c", "d"))
    assert closed_gates(family, {"a": True, "b": False, "c": True, "d": True}) == ("c", "d")
    assert closed_gates(family, {"b": True}) == ("b", "c", "d")
    assert closed_gates(family, dict.fromkeys("abcd", True)) == ()
    assert closed_gates(ClaimFamily(("a", "b"), ordered=False), {}) == ()


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: holm([0.1, float("nan")]), NonFiniteError, r"p values holds NaN(.|\n)*claim 1"),
        (lambda: holm([0.1, 1.1]), SampleError, r"outside \[0, 1\](.|\n)*0.1 to 1.1"),
        (lambda: fixed_sequence([-0.1]), SampleError, r"outside \[0, 1\]"),
        (lambda: static_levels({}), SampleError, "no family"),
        (lambda: static_levels({"f": ClaimFamily(())}), SampleError, "'f' has no claims"),
        (
            lambda: static_levels({"f": ClaimFamily(("a",)), "g": ClaimFamily(("a",))}),
            SampleError,
            r"registered twice(.|\n)*a",
        ),
        (lambda: static_levels({"f": ClaimFamily(("a",))}, 0), SampleError, "alpha lies outside"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
