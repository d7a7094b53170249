"""Under a true null the effect tests reject as often as they say; at a true effect, often enough.

Run with `-s` to see the measured rates that docs/statistics.md quotes. Seeds are fixed; gates are
99.9 % binomial ranges around what should hold, so a broken test fails and luck does not.
"""

import numpy as np
import pytest
from scipy.stats import binom, ttest_1samp

from mechtest.stats import (
    cluster_effect,
    effect_p_value,
    effect_test_power,
    fieller_interval,
    inversion_interval,
    sign_flip_test,
)

NOISE = {
    "normal": lambda rng, shape: rng.normal(size=shape),
    "heavy tails (t3)": lambda rng, shape: rng.standard_t(3, size=shape),
    "unequal clusters": lambda rng, shape: rng.normal(size=shape) * 3.0 ** np.arange(shape[-1]),
    "left-skewed (exponential)": lambda rng, shape: 1 - rng.exponential(size=shape),
}


def show(what, rate, runs):
    print(f"{what}: {rate:.4f} of {runs}")


def gate(rate, runs, level):
    """Return whether a rate is compatible with a level in `runs` runs."""
    low, high = binom.ppf([0.0005, 0.9995], runs, level) / runs
    return low <= rate <= high


@pytest.mark.parametrize("noise", ["normal", "heavy tails (t3)", "unequal clusters"])
@pytest.mark.parametrize(("clusters", "runs"), [(8, 4000), (12, 4000), (16, 1000)])
def test_sign_flips_hold_their_level_for_symmetric_scores(noise, clusters, runs):
    rng = np.random.default_rng([clusters, len(noise)])
    scores = NOISE[noise](rng, (runs, clusters))
    flips = 1999
    p = np.array([sign_flip_test(row, generator=rng, flips=flips).p for row in scores])
    for level in (0.05, 0.0025):
        patterns = 2**clusters if clusters <= 14 else flips + 1
        attainable = np.floor(level * patterns) / patterns
        rate = (p <= level).mean()
        show(f"sign flips, {noise}, {clusters} clusters, level {level}", rate, runs)
        assert gate(rate, runs, attainable)


@pytest.mark.parametrize("clusters", [8, 12, 31])
def test_skewed_scores_exceed_the_level_and_another_test_helps(clusters):
    """The honest limit of a test on few clusters: most score a bit, a few much less."""
    runs = 600
    rng = np.random.default_rng(0)
    scores = NOISE["left-skewed (exponential)"](rng, (runs, clusters))
    labels, ones = list(range(clusters)), np.ones(clusters)
    p = np.ones((2, runs))
    for index, row in enumerate(scores):
        p[0, index] = sign_flip_test(row, generator=rng, flips=999).p
        if p[0, index] <= 0.05:
            effect = cluster_effect(row, ones, labels)
            p[1, index] = max(p[0, index], effect_p_value(effect, 0.0, seed=index, claim="c"))
    alone, joined = (p <= 0.05).mean(1)
    show(f"sign flips alone, left-skewed, {clusters} clusters, level .05", alone, runs)
    show("with the test for skewed scores", joined, runs)
    assert alone > 0.075
    assert joined < alone - 0.02
    assert joined < 0.125


def prompts_in_clusters(rng, clusters, each=8, shared=0.3):
    """Return (a, b, labels) with theta = .5 and an intraclass correlation of `shared`."""
    labels = np.repeat(np.arange(clusters), each)
    b = rng.uniform(1, 3, len(labels))
    noise = np.sqrt(shared) * rng.normal(size=clusters)[labels]
    noise += np.sqrt(1 - shared) * rng.normal(size=len(labels))
    return 0.5 * b + noise, b, labels.tolist()


def test_prompts_of_one_template_are_not_independent():
    """A t test over prompts rejects a true null two to three times too often, clusters do not."""
    runs, rng = 800, np.random.default_rng(1)
    by_cluster, by_prompt = [], []
    for _ in range(runs):
        a, b, labels = prompts_in_clusters(rng, 8)
        by_cluster.append(sign_flip_test(cluster_effect(a, b, labels).scores(0.5)).p)
        by_prompt.append(ttest_1samp(a - 0.5 * b, 0, alternative="greater").pvalue)
    rates = [(np.array(p) <= 0.05).mean() for p in (by_cluster, by_prompt)]
    show("clusters, 8 templates of 8 prompts, level .05", rates[0], runs)
    show("t test over prompts", rates[1], runs)
    assert gate(rates[0], runs, 12 / 256)
    assert rates[1] > 0.12


@pytest.mark.parametrize("method", ["fieller", "inversion"])
def test_intervals_cover_the_truth(method):
    runs, rng = 2000, np.random.default_rng(2)
    inside = 0
    for _ in range(runs):
        b = rng.gamma(4, 0.5, 12)
        effect = cluster_effect(0.7 * b + rng.normal(0, 0.5, 12), b, [*range(12)])
        interval = {"fieller": fieller_interval, "inversion": inversion_interval}[method]
        found = interval(effect, 0.9)
        inside += found.low is None or found.low <= 0.7 <= found.high
    show(f"coverage of the 90 % {method} interval, 12 clusters", inside / runs, runs)
    low, high = binom.ppf([0.0005, 0.9995], runs, 0.9) / runs
    assert low <= inside / runs <= high


@pytest.mark.parametrize(("clusters", "level"), [(8, 0.05), (12, 0.05), (12, 0.0025)])
def test_power_is_what_planning_says(clusters, level):
    runs, rng = 500, np.random.default_rng(3)
    labels, ones = list(range(clusters)), np.ones(clusters)
    effects = (cluster_effect(row, ones, labels) for row in rng.normal(0.87, 1, (runs, clusters)))
    rate = np.mean([effect_p_value(one, 0.0, seed=0, claim="c") <= level for one in effects])
    planned = effect_test_power(0.87, clusters, level)
    show(f"power at d = .87, {clusters} clusters, level {level}, planned {planned:.3f}", rate, runs)
    # The plan counts on the weaker of two tests for samples that are skewed by chance.
    assert planned - 0.06 < rate < planned + 0.09
