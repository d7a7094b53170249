"""The sequential control test: its rule, its bounds, and that batches change nothing."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from mechtest.errors import NonFiniteError, SampleError, UnattainableLevelError
from mechtest.stats import (
    ControlTest,
    control_power,
    most_controls,
    needed_controls,
    smallest_control_level,
)

LEVELS = st.sampled_from([0.05, 0.05 / 3, 0.0125, 0.1, 0.3])


@pytest.mark.parametrize(("level", "count"), [(0.05, 57), (0.0125, 237), (0.0025, 1197)])
def test_a_claim_that_nothing_beats_needs_three_over_level_minus_three(level, count):
    found = ControlTest(1.0, level).feed([0.0] * 5000).summary()
    assert (found.drawn, found.at_least_as_extreme, found.stop) == (count, 0, "specific")
    assert found.p == pytest.approx(level)
    assert needed_controls(level) == count
    assert smallest_control_level(count) == pytest.approx(level)


def test_three_losses_end_it():
    found = ControlTest(1.0, 0.05).feed([0, 2, 0, 2, 2, 0, 0]).summary()
    assert (found.drawn, found.at_least_as_extreme, found.stop) == (5, 3, "futile")
    # h / (t + h - L): 3/4, 3/4, 3/5, 3/5, then 3/5.
    assert found.p == 3 / 5
    assert found.values == (0, 2, 0, 2, 2)


def test_the_rule_at_its_edge():
    """With two losses the 59th control decides: 3 / (59 + 3 - 2) = .05."""
    last = [0.0] * 57 + [2.0, 2.0]
    assert ControlTest(1.0, 0.05).feed([2.0, 2.0, *[0.0] * 56]).stop == "running"
    assert ControlTest(1.0, 0.05).feed([2.0, 2.0, *[0.0] * 57]).stop == "specific"
    assert ControlTest(1.0, 0.05).feed([2.0, 2.0, *[0.0] * 56, 2.0]).stop == "futile"
    assert ControlTest(1.0, 0.05).feed(last).summary().drawn == 57


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), LEVELS, st.integers(1, 5), st.data())
def test_any_batching_gives_the_same_answer(seed, level, losses, data):
    values = np.random.default_rng(seed).normal(0, 1, 600)
    whole = ControlTest(1.5, level, losses=losses).feed(values).summary()
    one_by_one = ControlTest(1.5, level, losses=losses)
    for value in values:
        one_by_one.feed(float(value))
    assert one_by_one.summary() == whole
    batched, start = ControlTest(1.5, level, losses=losses), 0
    while start < len(values):
        size = data.draw(st.integers(1, 64)) if start < 200 else 400
        batched.feed(values[start : start + size].astype(np.float64))
        start += size
    assert batched.summary() == whole


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), LEVELS, st.integers(1, 5), st.floats(-1, 3))
def test_it_is_the_fixed_test_stopped_early(seed, level, losses, observed):
    """Supported exactly when fewer than h of the first ceil(h / level) - 1 controls reach it."""
    values = np.random.default_rng(seed).normal(0, 1, 600)
    found = ControlTest(observed, level, losses=losses).feed(values).summary()
    lost = (values[: most_controls(level, losses=losses)] >= observed).sum()
    assert (found.stop == "specific") is bool(lost < losses)
    assert found.stop in {"specific", "futile"}
    assert 1 / (1 + found.drawn) <= found.p <= 1
    assert (found.p <= level * (1 + 1e-9)) is (found.stop == "specific")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=1, max_size=50), st.floats(-3, 3), st.floats(0, 2))
def test_a_larger_claim_never_has_a_larger_p(values, observed, more):
    """At the same controls, none stopped: a level far below what they can reach."""
    smaller = ControlTest(observed, 1e-3, losses=60).feed(values).summary()
    larger = ControlTest(observed + more, 1e-3, losses=60).feed(values).summary()
    assert larger.p <= smaller.p
    assert larger.at_least_as_extreme <= smaller.at_least_as_extreme


def test_ties_count_against_the_claim():
    for observed, tied, not_tied in [(0.5, 0.5 - 9e-7, 0.499998), (400.0, 399.9997, 399.99)]:
        assert ControlTest(observed, 0.05).feed(tied).summary().at_least_as_extreme == 1
        assert ControlTest(observed, 0.05).feed(not_tied).summary().at_least_as_extreme == 0


def test_the_summary_describes_the_null():
    test = ControlTest(5.0, 0.05)
    assert test.summary().p == 1
    assert (test.summary().null_mean, test.summary().exceedance) == (None, None)
    found = test.feed(np.float32([1, 2, 3, 9])).summary()
    assert (found.null_mean, found.stop, test.next_control) == (3.75, "running", 4)
    assert found.null_quantiles == pytest.approx(np.quantile([1, 2, 3, 9], [0.05, 0.5, 0.95]))
    assert found.exceedance.low < 1 / 4 < found.exceedance.high


def test_refutation_needs_the_third_loss_within_thirteen_controls():
    for drawn, refuted in [(13, True), (14, False)]:
        values = [0.0] * (drawn - 3) + [9.0] * 3
        found = ControlTest(1.0, 0.0025).feed(values).summary()
        assert found.stop == "futile"
        assert (found.exceedance.low > 0.05) is refuted


def test_a_cap_that_can_never_suffice_is_refused_before_any_control():
    with pytest.raises(UnattainableLevelError, match=r"199 controls can never(.|\n)*least 1197"):
        ControlTest(1.0, 0.05 / 20, cap=199)
    found = ControlTest(1.0, 0.05, cap=57).feed([2.0] + [0.0] * 80).summary()
    assert (found.stop, found.drawn) == ("cap", 57)
    assert ControlTest(1.0, 0.05, cap=9999).cap == 59


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ControlTest(float("nan"), 0.05), NonFiniteError, "statistic of the claim is not"),
        (lambda: ControlTest(1, 5), SampleError, r"level lies outside \(0, 1\)"),
        (lambda: ControlTest(1, 0.05, losses=0), SampleError, "losses should be a whole number"),
        (
            lambda: ControlTest(1, 0.05).feed([0.5, 0.1, float("nan")]),
            NonFiniteError,
            "control 2 has no finite statistic",
        ),
        (lambda: smallest_control_level(-1), SampleError, "cannot be negative"),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("level", [0.05, 0.0125])
@pytest.mark.parametrize("losses", [1, 3, 10])
def test_power_against_controls_that_are_sometimes_as_good(level, losses):
    for share in (0, level / 5, level, 0.5, 1):
        ours = control_power(share, level, losses=losses)
        assert ours == pytest.approx(binom.cdf(losses - 1, round(losses / level) - 1, share))
    with pytest.raises(SampleError, match=r"outside \[0, 1\]"):
        control_power(1.5, level)
