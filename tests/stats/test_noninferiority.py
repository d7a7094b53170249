"""What was kept of an effect, against hand-made numbers and the tests it is made of."""

import numpy as np
import pytest

from mechtest.errors import NonFiniteError, SampleError
from mechtest.stats import (
    cluster_effect,
    effect_test,
    equivalence_test,
    inversion_interval,
    noninferiority_test,
    sign_flip_test,
    still_absent_test,
)

LABELS = [f"t{i // 3}" for i in range(24)]


def draw(seed=0, kept=0.95, spread=0.2):
    rng = np.random.default_rng(seed)
    before = rng.uniform(0.5, 3, size=24)
    return before, kept * before + spread * rng.normal(size=24)


@pytest.mark.parametrize("seed", range(5))
def test_p_and_interval_are_those_of_the_effect_test_of_the_ratio(seed):
    """The score after - (1 - margin) * before is one of the ratio after / before."""
    before, after = draw(seed)
    found = noninferiority_test(before, after, LABELS, 0.05, margin=0.2)
    ratio = cluster_effect(after, before, LABELS)
    scores = ratio.scores(0.8)
    assert found.p >= sign_flip_test(scores).p
    assert found.p == effect_test(ratio, 0.8, 0.05, seed=0, claim="x").p
    assert found.kept == ratio.estimate
    wide = inversion_interval(ratio, 0.95)
    assert (found.wide.low, found.wide.high) == (wide.low, wide.high)
    assert (found.clusters, found.prompts) == (8, 24)


def test_the_interval_and_the_test_never_contradict_each_other():
    for seed in range(20):
        found = noninferiority_test(*draw(seed, kept=0.75), LABELS, 0.025, margin=0.2)
        if "bootstrap" not in found.method:
            assert found.held == (found.wide.low > 0.8)
        assert not (found.held and found.regressed)


def test_equal_effects_are_held_at_the_smallest_p_there_is():
    before, _ = draw()
    found = noninferiority_test(before, before, LABELS, 0.01)
    assert (found.kept, found.p, found.wide.low, found.wide.high) == (1, 2**-8, 1, 1)
    assert (found.held, found.drifted, found.regressed, found.grew) == (True, False, False, False)


def test_two_sided_growth_beyond_the_margin_is_no_longer_held():
    before, _ = draw()
    grown = noninferiority_test(before, 1.5 * before, LABELS, 0.05, two_sided=True)
    assert (grown.held, grown.regressed, grown.grew) == (False, True, True)
    one_sided = noninferiority_test(before, 1.5 * before, LABELS, 0.05)
    assert (one_sided.held, one_sided.regressed, one_sided.drifted) == (True, False, True)
    ratio = cluster_effect(1.1 * before, before, LABELS)
    both = noninferiority_test(before, 1.1 * before, LABELS, 0.05, two_sided=True)
    assert both.p == equivalence_test(ratio, 1.2, 0.05, seed=0, claim="x", lower=0.8).p
    assert "two-sided" in both.method


def test_beyond_14_templates_patterns_are_drawn_once_and_the_answer_repeats():
    labels = [f"t{i}" for i in range(24)]
    first = noninferiority_test(*draw(1), labels, 0.05)
    assert "monte carlo" in first.method
    assert first == noninferiority_test(*draw(1), labels, 0.05)


def test_scores_skewed_against_the_claim_are_put_to_a_second_test():
    before = np.ones(24)
    after = np.full(24, 1.3) + np.arange(24) * 1e-3
    after[:3] = -0.5  # one template lost everything
    found = noninferiority_test(before, after, LABELS, 0.3)
    assert "skewed scores" in found.method
    assert found.p > sign_flip_test(cluster_effect(after, before, LABELS).scores(0.8)).p


def test_an_effect_that_was_nothing_before_has_no_kept_share():
    found = noninferiority_test(-np.ones(24), np.ones(24), LABELS, 0.05)
    assert (found.kept, found.p, found.held, found.regressed) == (None, 1, False, False)
    assert found.wide.reason == "the mean to take a share of is not positive"
    absent = still_absent_test(np.zeros(24), -np.ones(24), LABELS, 0.15, 0.05)
    assert (absent.effect, absent.held, absent.regressed) == (None, False, False)


def test_an_absence_is_held_against_its_threshold():
    behaviour, _ = draw()
    assert still_absent_test(0.05 * behaviour, behaviour, LABELS, 0.15, 0.05).held
    above = still_absent_test(0.3 * behaviour, behaviour, LABELS, 0.15, 0.05)
    assert (above.held, above.regressed, above.effect) == (False, True, pytest.approx(0.3))
    ratio = cluster_effect(*draw(2)[::-1], LABELS)
    found = still_absent_test(*draw(2)[::-1], LABELS, 1.2, 0.05)
    assert found.p == equivalence_test(ratio, 1.2, 0.05, seed=0, claim="x").p


@pytest.mark.parametrize("margin", [0, 1, -0.2, 20])
def test_a_margin_is_a_share(margin):
    with pytest.raises(SampleError, match="a margin is a share"):
        noninferiority_test(*draw(), LABELS, 0.05, margin=margin)


def test_bad_input_is_refused():
    before, after = draw()
    with pytest.raises(SampleError, match="differ in length"):
        noninferiority_test(before[:5], after, LABELS, 0.05)
    with pytest.raises(SampleError, match="one cluster"):
        noninferiority_test(before, after, ["t"] * 24, 0.05)
    with pytest.raises(NonFiniteError):
        noninferiority_test(before, [*after[:-1], float("nan")], LABELS, 0.05)
