"""What lost just the margin is called held as often as the level says, and no more often.

Run with `-s` to see the rates; docs/statistics.md has them from more runs, written by
benchmarks/noninferiority.py. Seeds are fixed; gates are 99.9 % binomial ranges.
"""

import numpy as np
import pytest
from scipy.stats import binom

from mechtest.stats import still_absent_test
from tests.calibration.checkpoints import (
    LEVEL,
    MARGIN,
    no_difference,
    paired,
    per_prompt,
    rate,
    regressed,
    two_checkpoints,
)


def most(runs, level=LEVEL):
    """Return the largest rate that is compatible with a level."""
    return binom.ppf(0.9995, runs, level) / runs


@pytest.mark.parametrize(("clusters", "runs"), [(6, 1500), (10, 1200), (20, 600)])
def test_what_lost_the_margin_is_rarely_called_held(clusters, runs):
    found = rate(paired, clusters, 1 - MARGIN, runs)
    print(f"held at the margin, {clusters} templates: {found:.4f} of {runs}")
    assert found <= most(runs)


def test_what_lost_the_margin_is_rarely_called_regressed():
    assert rate(regressed, 10, 1 - MARGIN, 800) <= most(800, 0.025)


def test_taking_prompts_for_independent_is_wrong_three_times_as_often():
    """The gate above would notice: the test that everybody writes first fails it."""
    found = rate(per_prompt, 10, 1 - MARGIN, 1000)
    print(f"per-prompt t at the margin: {found:.4f}")
    assert 0.12 < found < 0.3
    assert found > most(1000)


def test_no_significant_difference_passes_more_of_what_lost_a_third():
    assert rate(no_difference, 6, 0.65, 500) > 0.08
    assert rate(paired, 6, 0.65, 400) <= 0.03


@pytest.mark.parametrize(("clusters", "least"), [(6, 0.55), (10, 0.8), (20, 0.95)])
def test_what_was_kept_whole_is_found_to_be_held(clusters, least):
    assert rate(paired, clusters, 1.0, 300) > least


def test_an_effect_at_its_threshold_is_rarely_called_absent():
    rng = np.random.default_rng(4)
    runs, held = 1000, 0
    for _ in range(runs):
        behaviour, effect, labels = two_checkpoints(rng, 10, 0.15)
        held += still_absent_test(effect, behaviour, labels, 0.15, LEVEL).held
    assert held / runs <= most(runs)
