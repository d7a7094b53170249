"""The best of several random channel sets, from activations to verdict, errs at its level."""

import jaxtyping
import numpy as np
import pytest
from scipy.stats import binom

from mechtest.assertions import candidates
from mechtest.assertions.asking import Asked
from mechtest.assertions.candidates import CandidateTerms, answer_best, best_of
from mechtest.assertions.guards import require_no_cut
from mechtest.assertions.necessity import necessity_terms
from mechtest.assertions.study import prepare_study
from mechtest.interventions import Circuit
from mechtest.running_claim import RunningClaim
from mechtest.tasks import PromptPairs
from tests.assertions.zoo import of_rows, prose

CLAIMS, LEVEL, SITES, CHANNELS = 20, 0.2, 3, 6


@pytest.fixture(autouse=True)
def measured_once(monkeypatch):
    """What depends on the model alone is measured for the first claim and kept."""
    guards = []

    def no_cut(question, circuit, *, seed, claim):
        if not guards:
            guards.append(require_no_cut(question, circuit, seed=seed, claim=claim))
        return guards[0]

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(candidates, "require_no_cut", no_cut)


def test_the_best_of_random_channel_sets_is_special_at_the_level():
    """The threshold is out of the way, so that the rank among controls decides."""
    test = PromptPairs.from_jsonl("fixtures/prompts/fact_city.jsonl").split()[1]
    rows = [part.rows[0] for part in test.by_template().values()][:6]
    study = prepare_study(prose(), [], of_rows(rows), "logit_difference")
    generator = np.random.default_rng(8)
    supported = 0
    for number in range(CLAIMS):
        chosen = generator.permutation(64)[: SITES * CHANNELS].reshape(SITES, CHANNELS)
        circuits = [Circuit("hook_norm@last", channels=row.tolist()) for row in chosen]
        each = tuple(necessity_terms(one, -10.0, Asked()) for one in circuits)
        claim = RunningClaim(key=f"null {number}", level=LEVEL, seed=number)
        found, _ = answer_best(study, CandidateTerms(best_of(circuits), each), claim)
        supported += str(found.decision.verdict) == "supported"
    low, high = binom.ppf([0.0005, 0.9995], CLAIMS, LEVEL) / CLAIMS
    print(f"best of {SITES} random channel sets: supported {supported / CLAIMS} at {LEVEL}")
    assert low <= supported / CLAIMS <= high
