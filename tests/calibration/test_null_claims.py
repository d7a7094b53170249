"""A short run of the calibration: null claims err at their level, true ones are found as planned.

The long run, and what it came to, is docs/calibration.md. Seeds are fixed; gates are 99.9 %
binomial ranges, so a broken test fails and luck does not.
"""

import numpy as np
import pytest
from scipy.stats import binom

from mechtest.interventions import Runner
from mechtest.tasks import logit_difference
from tests.calibration.catalogue import CELLS, NAIVE, POWERS, compiled
from tests.calibration.cells import rates

CLAIMS, LEVEL, CLUSTERS = 60, 0.05, 12
SHIFT = "compiled/token_shift"


def test_every_kind_of_claim_is_in_the_catalogue():
    kinds = {name.split(" | ")[1].partition(",")[0] for name in CELLS}
    assert kinds >= {"necessary", "sufficient", "sufficient (keep)", "not necessary"}
    assert set(NAIVE) <= set(CELLS)


@pytest.mark.parametrize(
    "name",
    [
        f"{SHIFT} | necessary | boundary",
        f"{SHIFT} | necessary | exchangeable",
        f"{SHIFT} | sufficient | boundary",
        f"{SHIFT} | not necessary | boundary",
    ],
)
def test_what_is_not_true_is_supported_at_the_level(name):
    found = rates(CELLS[name](), CLAIMS, LEVEL, CLUSTERS)
    print(name, found)
    assert found.verdicts.get("supported", 0) <= binom.ppf(0.999, CLAIMS, LEVEL)
    assert "invalid" not in found.verdicts


def test_what_is_true_is_found_as_often_as_planned():
    found = rates(POWERS[f"{SHIFT} | necessary | planned 0.80"](), CLAIMS, LEVEL, CLUSTERS)
    print(found)
    low, high = binom.ppf([0.0005, 0.9995], CLAIMS, 0.8) / CLAIMS
    assert low <= found.supported <= high
    seen = binom.ppf(0.999, CLAIMS, LEVEL)
    assert found.verdicts["supported"] > seen, "among null claims, these would be noticed"


def test_claim_number_i_is_the_same_whoever_asks():
    cell = CELLS[f"{SHIFT} | necessary | exchangeable"]()
    whole = rates(cell, 10, LEVEL, CLUSTERS)
    parts = [rates(cell, 5, LEVEL, CLUSTERS, first=first) for first in (5, 0)]
    assert sum(part.controls for part in parts) == whole.controls
    for verdict, count in whole.verdicts.items():
        assert count == sum(part.verdicts.get(verdict, 0) for part in parts)


def test_a_sample_reads_what_the_engine_would_give_it():
    """The rows of a population are those of a run over the sample alone."""
    population = compiled("token_shift", "shift")
    study = population.draw(5, np.random.default_rng(0))
    alone = Runner(population.model, study.pairs)
    for run in ("clean", "corrupted"):
        gap = alone.logits(run) - study.runner.logits(run)
        assert float(gap.abs().max()) < 1e-4
    ours = study.read(study.runner.logits("clean"))
    theirs = logit_difference(alone.logits("clean"), study.pairs)
    assert ours == pytest.approx(theirs.double().numpy(), abs=1e-4)
    assert len(set(study.labels)) == 5
