"""Effects at two checkpoints, prompt by prompt, of which a known share was kept."""

import numpy as np

from mechtest.stats import noninferiority_test

MARGIN, LEVEL = 0.2, 0.05
PROMPTS = 8
ALIKE = 0.3
"""Share of the noise's variance that prompts of one template have in common."""


def two_checkpoints(rng, clusters, kept):
    """Return (before, after, labels): heavy tails (t4), templates that differ, prompts alike."""
    before = 1 + 0.5 * _noise(rng, clusters)
    after = kept * before + 0.3 * _noise(rng, clusters)
    return before, after, np.repeat(np.arange(clusters), PROMPTS)


def _noise(rng, clusters):
    shared = np.repeat(rng.standard_t(4, size=clusters), PROMPTS)
    own = rng.standard_t(4, size=clusters * PROMPTS)
    return (np.sqrt(ALIKE) * shared + np.sqrt(1 - ALIKE) * own) / np.sqrt(2)


def paired(before, after, labels):
    """Return whether the effect is called held: the test that is used."""
    return noninferiority_test(before, after, labels, LEVEL, margin=MARGIN).held


def regressed(before, after, labels):
    """Return whether the effect is called regressed."""
    return noninferiority_test(before, after, labels, LEVEL, margin=MARGIN).regressed


def unpaired(before, after, labels):
    """Return what Welch's t test of template means says, which forgets which prompt is which."""
    from scipy.stats import ttest_ind

    old, new = ((1 - MARGIN) * _means(before, labels), _means(after, labels))
    return ttest_ind(new, old, equal_var=False, alternative="greater").pvalue <= LEVEL


def per_prompt(before, after, labels):
    """Return what a paired t test says that takes prompts for independent."""
    from scipy.stats import ttest_1samp

    scores = after - (1 - MARGIN) * before
    return ttest_1samp(scores, 0, alternative="greater").pvalue <= LEVEL


def no_difference(before, after, labels):
    """Return whether a paired t test of template means finds no significant difference."""
    from scipy.stats import ttest_1samp

    return ttest_1samp(_means(after - before, labels), 0).pvalue > LEVEL


def _means(values, labels):
    return np.bincount(labels, weights=values) / np.bincount(labels)


def rate(rule, clusters, kept, runs, seed=0):
    """Return the share of runs in which a rule says yes."""
    rng = np.random.default_rng([seed, clusters, round(100 * kept)])
    return sum(bool(rule(*two_checkpoints(rng, clusters, kept))) for _ in range(runs)) / runs
