"""What the test of an effect answers beyond what its parts are tested for."""

import numpy as np
import pytest

from mechtest.stats import cluster_effect, effect_interval, largest_upper_end


@pytest.mark.parametrize("confidence", [0.9, 0.995])
def test_the_largest_upper_end_is_that_of_all_intervals(confidence):
    """Asked for with far fewer tests: scores skewed either way, ends that do not exist."""
    rng = np.random.default_rng(8)
    for run in range(12):
        clusters = int(rng.integers(5, 13))
        labels = list(range(clusters))
        b = rng.gamma(4, 0.5, clusters)
        effects = [
            cluster_effect(0.5 * b + 0.3 * sign * rng.gamma(0.5, 1, clusters), b, labels)
            for sign in (1, -1, 1, -1)
        ]
        each = [effect_interval(one, confidence, seed=run, claim="c").high for one in effects]
        wanted = None if None in each else max(each)
        assert largest_upper_end(effects, confidence, seed=run, claim="c") == wanted
