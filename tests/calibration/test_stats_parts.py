"""How often claims about all of several parts err, on synthetic cluster scores."""

import jaxtyping
import numpy as np
import pytest
from scipy.stats import binom

from mechtest.stats import all_parts_test, cluster_effect

RUNS, LEVEL, CLUSTERS = 200, 0.05, 10
LABELS = list(range(CLUSTERS))


@pytest.fixture(autouse=True)
def shapes_unchecked(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def inside(rate, level=LEVEL):
    """Say whether a rate lies in the 99.9 % range of a binomial of the level."""
    low, high = binom.ppf([0.0005, 0.9995], RUNS, level) / RUNS
    return low <= rate <= high


def rates(adds, delta=0.02, spread=0.1, runs=RUNS):
    """Return shares of supported and refuted claims, the parts' true shares being `adds`."""
    generator = np.random.default_rng(11)
    supported = refuted = 0
    for run in range(runs):
        behaviour = 1 + 0.1 * generator.normal(size=CLUSTERS)
        template = 0.05 * generator.normal(size=CLUSTERS)
        effects = {
            str(part): cluster_effect(
                add * behaviour + template + spread * generator.standard_t(4, size=CLUSTERS),
                behaviour,
                LABELS,
            )
            for part, add in enumerate(adds)
        }
        found = all_parts_test(effects, delta, LEVEL, seed=0, claim=f"run {run}")
        supported += found.p <= LEVEL
        refuted += min(part.against for part in found.parts) <= LEVEL
    print(f"{len(adds)} parts {adds}: supported {supported / runs}, refuted {refuted / runs}")
    return supported / runs, refuted / runs


def test_a_part_exactly_at_the_margin_is_called_needed_at_the_level():
    supported, _ = rates([0.4, 0.4, 0.02])
    assert inside(supported)


def test_parts_all_at_the_margin_are_hardly_ever_supported():
    supported, refuted = rates([0.02] * 3)
    assert supported <= LEVEL
    assert refuted <= binom.ppf(0.9995, RUNS, LEVEL) / RUNS  # Holm, for correlated parts


def test_needed_parts_are_found_and_a_redundant_one_is_not_missed():
    supported, refuted = rates([0.4] * 4, runs=150)
    assert supported > 0.95
    assert refuted == 0
    supported, _ = rates([0.4] * 3 + [0.0], runs=150)
    assert supported < 0.05
