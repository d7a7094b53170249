"""Inputs on which published circuit tests go wrong, and what ours say to them.

The formulas are those of blei-lab/circuitry (`hypothesis_testing/`), which accompanies Shi et al.
2024, written out here from what they compute: each test first shows that the formula does go wrong.
"""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from mechtest.errors import MechtestError
from mechtest.stats import (
    ControlTest,
    cluster_effect,
    effect_test,
    equivalence_test,
    require_clusters,
    sign_flip_test,
)

LEVEL = 0.05
TEMPLATES, EACH = 12, 8
LABELS = np.repeat([f"t{n}" for n in range(TEMPLATES)], EACH).tolist()


def their_equivalence(difference, count, epsilon=0.1):
    """A chance of winning is asked for, and a mean difference of scores is put in."""
    wins = np.arange(count + 1)
    extreme = np.abs(wins / count - 0.5) >= abs(difference - 0.5)
    return float(binom.pmf(wins, count, 0.5 + epsilon)[extreme].sum())


def behaviour(seed=0):
    generator = np.random.default_rng(seed)
    return 3 + generator.normal(0, 0.3, TEMPLATES * EACH)


def share_of(kept, there, threshold):
    effect = cluster_effect(kept, there, LABELS)
    return effect_test(effect, threshold, LEVEL, seed=0, claim="pitfall")


def test_a_perfect_circuit_is_equivalent_and_a_broken_one_is_not():
    """There: no difference at all is "not equivalent", half a logit worse is."""
    assert their_equivalence(0.0, 100) < 1e-20
    assert their_equivalence(0.5, 100) == pytest.approx(1)
    there = behaviour()
    noise = np.random.default_rng(1).normal(0, 0.05, len(there))
    assert share_of(there + noise, there, 0.8).p <= LEVEL
    worse = cluster_effect(0.5 * there + noise, there, LABELS)
    found = equivalence_test(worse, 1.1, LEVEL, seed=0, claim="pitfall", lower=0.9)
    assert found.p > 0.5, "half of the behaviour is not equivalent to all of it"
    same = cluster_effect(there + noise, there, LABELS)
    assert equivalence_test(same, 1.1, LEVEL, seed=0, claim="p", lower=0.9).p <= LEVEL


def test_few_prompts_do_not_make_a_circuit_look_ideal():
    """There the claim is the null hypothesis, and what cannot be rejected is kept."""
    assert their_equivalence(0.3, 5) > LEVEL, "five prompts, retained"
    with pytest.raises(MechtestError, match=r"cluster|template"):
        require_clusters(4, LEVEL)
    there, kept = np.full(5, 3.0), np.array([0.9, 1.2, 0.4, 0.8, 1.1])
    few = cluster_effect(kept, there, [f"t{n}" for n in range(5)])
    assert effect_test(few, 0.8, LEVEL, seed=0, claim="few").p > LEVEL


def test_no_p_value_is_zero():
    """There a permutation p is the share of larger statistics, so it can be 0."""
    generator = np.random.default_rng(0)
    x = np.linspace(-1, 1, 40)
    larger = [abs(np.corrcoef(x, generator.permutation(x))[0, 1]) >= 1 for _ in range(200)]
    assert np.mean(larger) == 0
    assert sign_flip_test(np.full(40, 1.0), generator=generator).p > 0
    test = ControlTest(1.0, LEVEL)
    test.feed(np.zeros(200))
    assert 0 < test.summary().p <= LEVEL


def test_controls_as_good_as_the_claim_are_no_support():
    """There a tie counts for the claim in one test, and against it in the next."""
    ties = np.full(100, 0.7)
    assert binomtest(int((ties >= 0.7).sum()), 100, 0.9, alternative="greater").pvalue < LEVEL
    test = ControlTest(0.7, LEVEL)
    test.feed(ties)
    assert test.stop == "futile"
    assert test.summary().p > 0.9


def test_repeating_prompts_adds_no_evidence():
    """There prompts are independent, however alike they are."""
    wins = 7
    once = binomtest(wins, 10, 0.5, alternative="greater").pvalue
    again = binomtest(wins * 20, 200, 0.5, alternative="greater").pvalue
    assert once > LEVEL > again
    there, generator = behaviour(), np.random.default_rng(2)
    kept = there * np.repeat(generator.normal(0.6, 0.3, TEMPLATES), EACH)
    first = share_of(kept, there, 0.5)
    labels = LABELS * 20
    effect = cluster_effect(np.tile(kept, 20), np.tile(there, 20), labels)
    repeated = effect_test(effect, 0.5, LEVEL, seed=0, claim="pitfall")
    assert repeated.p == first.p
