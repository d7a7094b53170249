"""Every part at the full level, the opposite with Holm: against scipy and statsmodels."""

import numpy as np
import pytest
from scipy.stats import permutation_test, skew
from statsmodels.stats.multitest import multipletests

from mechtest.errors import NonFiniteError, SampleError
from mechtest.stats import all_parts_test, cluster_effect, effect_p_value


def effects_of(means, clusters=10, spread=0.1, seed=0):
    """Return one effect a mean, with denominators around 1."""
    generator = np.random.default_rng(seed)
    labels = list(range(clusters))
    return {
        f"part {k}": cluster_effect(
            mean + spread * generator.normal(size=clusters),
            1 + 0.1 * generator.normal(size=clusters),
            labels,
        )
        for k, mean in enumerate(means)
    }


def sign_flips(scores, alternative):
    return permutation_test(
        (scores,), np.mean, permutation_type="samples", n_resamples=np.inf, alternative=alternative
    ).pvalue


def test_parts_and_their_opposites_agree_with_scipy_and_statsmodels():
    effects = effects_of([0.15, 0.02, -0.03, 0.08])
    found = all_parts_test(effects, 0.02, 0.05, seed=0, claim="c")
    scores = [one.scores(0.02) for one in effects.values()]
    joined = 0
    for part, row in zip(found.parts, scores, strict=True):
        flips = sign_flips(row, "greater")
        joined += skew(row) < 0
        if skew(row) < 0:  # another test joins
            assert part.p >= flips - 1.01 / 1024
        else:
            assert part.p == pytest.approx(flips, abs=1.01 / 1024)  # a near tie
    assert 0 < joined < len(scores)
    against = [
        effect_p_value(one, 0.02, seed=0, claim=f"c|{name}", alternative="less")
        for name, one in effects.items()
    ]
    adjusted = multipletests(against, method="holm")[1]
    assert [part.against for part in found.parts] == pytest.approx(adjusted, abs=4.04 / 1024)
    assert found.p == max(part.p for part in found.parts)
    assert {part.p: part.name for part in found.parts}[found.p] == found.binding


def test_one_part_is_that_part_alone():
    found = all_parts_test(effects_of([0.3]), 0.0, 0.05, seed=0, claim="c")
    assert (found.p, found.binding) == (found.parts[0].p, "part 0")


def test_more_clusters_than_can_be_enumerated_are_flipped_by_key():
    effects = effects_of([0.1, 0.05], clusters=20)
    one = all_parts_test(effects, 0.0, 0.05, seed=0, claim="c")
    assert one == all_parts_test(effects, 0.0, 0.05, seed=0, claim="c")
    alone = all_parts_test(dict([list(effects.items())[1]]), 0.0, 0.05, seed=0, claim="c")
    assert alone.parts[0].p == one.parts[1].p  # no part depends on the others


def test_no_part_and_nan_are_refused():
    with pytest.raises(SampleError, match="no part"):
        all_parts_test({}, 0.0, 0.05, seed=0, claim="c")
    with pytest.raises(NonFiniteError):
        all_parts_test(effects_of([np.nan]), 0.0, 0.05, seed=0, claim="c")
