"""The largest of several effects, and the largest of several controls."""

from itertools import product

import numpy as np
import pytest

from mechtest.errors import ControlsError, SampleError, UnattainableLevelError
from mechtest.stats import (
    CandidateControls,
    best_of_test,
    cluster_effect,
    effect_interval,
    effect_p_value,
)


def effects_of(means, clusters=8, seed=0, spread=0.3):
    rng = np.random.default_rng(seed)
    b = 1 + 0.1 * rng.normal(size=clusters)
    return [
        cluster_effect(
            mean * b + spread * rng.normal(size=clusters), b, [f"{k:02}" for k in range(clusters)]
        )
        for mean in means
    ]


def by_hand(effects, threshold):
    """Enumerate signs one by one."""
    scores = np.array([effect.scores(threshold) for effect in effects])
    size = np.sqrt((scores**2).sum(1))
    winner = np.argmax([effect.estimate for effect in effects])
    observed = (scores.sum(1) / size)[winner]
    hits = [
        ((scores * signs).sum(1) / size).max() >= observed - 1e-12
        for signs in product([1, -1], repeat=scores.shape[1])
    ]
    return np.mean(hits)


@pytest.mark.parametrize("threshold", [-0.2, 0.1, 0.4])
def test_p_is_what_enumerating_by_hand_gives(threshold):
    effects = effects_of([0.1, 0.3, 0.2])
    found = best_of_test(effects, threshold, 0.05, seed=0, claim="c")
    assert found.p == pytest.approx(by_hand(effects, threshold))
    assert found.winner == np.argmax(found.estimates)
    assert found.p >= found.alone


def test_one_candidate_is_the_ordinary_test():
    (effect,) = effects_of([0.3], clusters=10)
    found = best_of_test([effect], 0.1, 0.05, seed=0, claim="c")
    assert found.p == found.alone == effect_p_value(effect, 0.1, seed=0, claim="c")
    ordinary = effect_interval(effect, 0.9, seed=0, claim="c")
    assert found.interval.low == pytest.approx(ordinary.low, abs=1e-5)
    assert found.interval.high == ordinary.high


@pytest.mark.parametrize("clusters", [9, 20])
def test_interval_and_p_never_contradict_each_other(clusters):
    effects = effects_of([0.5, 0.45, 0.4], clusters=clusters, seed=3)
    found = best_of_test(effects, 0.2, 0.05, seed=0, claim="c")
    low = found.interval.low
    for step, rejected in [(-1e-4, True), (1e-4, False)]:
        again = best_of_test(effects, low + step, 0.05, seed=0, claim="c")
        assert (again.p <= 0.05) == rejected
    alone = effect_interval(effects[found.winner], 0.9, seed=0, claim="c")
    assert low <= alone.low + 1e-6
    assert found.interval.high >= alone.high


def test_effects_far_below_the_threshold_do_not_drown_the_winner():
    """Their scores are large, and so are their flips."""
    inert = effects_of([0.0] * 5, clusters=12, spread=0.01)
    b = np.array(inert[0].denominators)
    noise = 0.05 * np.random.default_rng(1).normal(size=12)
    winner = cluster_effect(0.9 * b + noise, b, inert[0].labels)
    found = best_of_test([*inert, winner], 0.7, 0.05, seed=0, claim="c")
    assert found.winner == 5
    assert found.p < 0.005
    assert found.interval.low > 0.7


def test_too_few_clusters_leave_no_lower_bound():
    found = best_of_test(effects_of([0.3, 0.2], clusters=4), 0.1, 0.05, seed=0, claim="c")
    assert found.interval.low is None
    assert "no lower" in found.interval.reason


def test_skewed_scores_ask_for_the_bootstrap_of_as_many():
    labels = list(range(10))
    tail = np.array([0.5] * 9 + [-2.0])
    effects = [cluster_effect(tail + shift, np.ones(10), labels) for shift in (0.5, 0.4)]
    found = best_of_test(effects, 0.1, 0.05, seed=0, claim="c")
    assert "2 times a test for skewed scores" in found.method
    assert found.p >= found.alone


def test_other_behaviours_and_nothing_are_refused():
    one, other = effects_of([0.1])[0], effects_of([0.1], seed=1)[0]
    with pytest.raises(SampleError, match="different behaviours"):
        best_of_test([one, other], 0.0, 0.05, seed=0, claim="c")
    with pytest.raises(SampleError, match="nothing to take the largest"):
        best_of_test([], 0.0, 0.05, seed=0, claim="c")


STRATA = {f"{kind}{k}": kind for kind, count in (("a", 8), ("b", 5)) for k in range(count)}
CANDIDATES = (("a0", "a1"), ("a1", "a2"), ("a3", "b0"))


def test_controls_keep_sizes_strata_and_overlaps():
    controls = CandidateControls(CANDIDATES, STRATA, 0, "c")
    for number in range(20):
        drawn = controls.draw(number)
        kinds = [sorted(STRATA[name] for name in found) for found in drawn]
        assert kinds == [["a", "a"], ["a", "a"], ["a", "b"]]
        sets = list(map(set, drawn))
        assert len(sets[0] & sets[1]) == 1
        assert not (sets[0] | sets[1]) & sets[2]
    assert controls.draw(3) == CandidateControls(CANDIDATES, STRATA, 0, "c").draw(3)
    assert controls.draw(3) != controls.draw(4)


def test_every_renaming_is_equally_likely():
    controls = CandidateControls((("a0",), ("a1",)), {f"a{k}": "a" for k in range(3)}, 0, "c")
    assert controls.family_size == 6
    drawn = [controls.draw(number) for number in range(1200)]
    counts = [drawn.count(pair) for pair in set(drawn)]
    assert len(counts) == 6
    assert min(counts) > 150


def test_families_that_are_too_small_are_refused():
    controls = CandidateControls(CANDIDATES, STRATA, 0, "c")
    assert controls.family_size == 8 * 7 * 6 * 5 * 5  # a1, a0, a2, a3 in order, and one b
    controls.require_level(0.01)
    with pytest.raises(UnattainableLevelError, match="1400 sets of candidates"):
        controls.require_level(0.0005)
    with pytest.raises(ControlsError, match="everything in its strata"):
        CandidateControls((("a", "b"), ("a", "b")), {"a": 0, "b": 0}, 0, "c")
    with pytest.raises(SampleError, match="in no stratum"):
        CandidateControls((("z",),), STRATA, 0, "c")
    with pytest.raises(SampleError, match="names its components"):
        CandidateControls(((),), STRATA, 0, "c")
