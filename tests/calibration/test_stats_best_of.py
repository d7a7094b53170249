"""How often the best of many noise sites is called an effect, or special, with max-T or without."""

import jaxtyping
import numpy as np
import pytest
from scipy.stats import binom

from mechtest.stats import CandidateControls, ControlTest, best_of_test, cluster_effect

RUNS, LEVEL, CLUSTERS, SITES = 400, 0.05, 10, 16
LABELS = list(range(CLUSTERS))
INSIDE = binom.ppf([0.0005, 0.9995], RUNS, LEVEL) / RUNS


@pytest.fixture(autouse=True)
def shapes_unchecked(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def sites(rng, count, theta=0.5, spread=0.3):
    """Return cluster effects of sites that all lie at theta; templates move them together."""
    b = 1 + 0.1 * rng.normal(size=CLUSTERS)
    template = 0.5 * spread * rng.normal(size=CLUSTERS)
    noise = spread * rng.standard_t(4, size=(count, CLUSTERS))
    return [cluster_effect(theta * b + template + row, b, LABELS) for row in noise]


def test_the_best_of_many_null_effects_is_called_large_at_the_level():
    rng = np.random.default_rng(3)
    corrected = alone = covered = 0
    for run in range(RUNS):
        found = best_of_test(sites(rng, SITES), 0.5, LEVEL, seed=0, claim=f"run {run}")
        corrected += found.p <= LEVEL
        alone += found.alone <= LEVEL
        covered += found.interval.low <= 0.5
    print(f"best of {SITES}: {corrected / RUNS} with max-T, {alone / RUNS} without")
    assert INSIDE[0] <= corrected / RUNS <= INSIDE[1]
    assert alone / RUNS > 0.3
    assert covered / RUNS >= 1 - INSIDE[1]


def test_a_true_effect_among_noise_is_still_found():
    rng = np.random.default_rng(4)
    hits = 0
    for run in range(100):
        effects = sites(rng, SITES, theta=0.2)
        b = np.array(effects[0].denominators)
        effects[7] = cluster_effect(1.2 * b + 0.3 * rng.normal(size=CLUSTERS), b, LABELS)
        found = best_of_test(effects, 0.5, LEVEL, seed=0, claim=f"run {run}")
        hits += found.p <= LEVEL and found.winner == 7
    print(f"true effect among {SITES}: {hits / 100}")
    assert hits > 90


def test_the_best_of_many_null_sites_is_special_at_the_level():
    """48 components, 16 disjoint pairs; the largest sum of the 16, prompts held fixed."""
    rng = np.random.default_rng(5)
    names = [f"c{k:02}" for k in range(48)]
    strata = dict.fromkeys(names, "all")
    candidates = tuple(tuple(names[2 * k : 2 * k + 2]) for k in range(SITES))
    special = naive = 0
    for run in range(RUNS):
        worth = dict(zip(names, rng.standard_t(3, size=len(names)), strict=True))

        def largest(sets, worth=worth):
            return max(sum(worth[name] for name in found) for found in sets)

        controls = CandidateControls(candidates, strata, run, "null")
        test, wrong = (ControlTest(largest(candidates), LEVEL) for _ in range(2))
        number = 0
        while "running" in (test.stop, wrong.stop):
            drawn = controls.draw(number)
            test.feed(largest(drawn))
            wrong.feed(largest(drawn[:1]))  # one control set against the best of 16
            number += 1
        special += test.stop == "specific"
        naive += wrong.stop == "specific"
    print(f"best of {SITES} among controls: {special / RUNS} with max-T, {naive / RUNS} without")
    assert INSIDE[0] <= special / RUNS <= INSIDE[1]
    assert naive / RUNS > 0.3
