"""An effect is absent when it is shown to be small, not when nothing was found."""

import pytest

from mechtest.assertions import check_not_necessary
from mechtest.interventions import Circuit, ResampleAblation
from mechtest.records import ClaimRecord
from tests.assertions.zoo import CARRIES, INERT, prompts, prose


def test_an_inert_layer_is_shown_to_be_inert():
    found = check_not_necessary(prose(), Circuit(INERT), prompts(), threshold=0.1)
    assert (found.verdict, found.kind) == ("supported", "absence")
    (measured,) = found.evidence
    assert measured.controls is None
    assert measured.direction == "less"
    assert abs(measured.effect.estimate) < 0.05
    assert found.p == measured.p_effect <= 0.05
    assert ClaimRecord.from_json(found.to_json()) == found


def test_a_layer_that_carries_the_answer_is_not():
    found = check_not_necessary(prose(), Circuit(CARRIES), prompts())
    assert (found.verdict, found.binding) == ("refuted", "effect")
    assert "not small" in found.reason


def test_an_effect_at_the_threshold_is_inconclusive():
    effect = check_not_necessary(prose(), Circuit(CARRIES), prompts()).evidence[0].effect
    found = check_not_necessary(prose(), Circuit(CARRIES), prompts(), threshold=effect.estimate)
    assert (found.verdict, found.binding) == ("inconclusive", "effect")
    assert found.settle


class Exaggerate(ResampleAblation):
    """Go on from the twin's activation beyond the prompt's own."""

    def replacement(self, value, reference, site, rows):
        return value + 0.5 * (value - reference)


@pytest.mark.parametrize(("two_sided", "verdict"), [(True, "refuted"), (False, "supported")])
def test_an_ablation_that_strongly_helps_is_not_absent(two_sided, verdict):
    """Unless the claim is about losses only."""
    found = check_not_necessary(
        prose(),
        Circuit(CARRIES),
        prompts(),
        intervention=Exaggerate(),
        threshold=0.05,
        two_sided=two_sided,
    )
    assert found.evidence[0].effect.estimate < -0.1
    assert found.verdict == verdict
    assert found.settings["two_sided"] is two_sided
