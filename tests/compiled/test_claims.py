"""Assertions answer rightly on what is known of compiled models, at level .05."""

import jaxtyping
import pytest

from mechtest.assertions import check_necessary, check_not_necessary
from tests.compiled.builds import NAMES
from tests.compiled.claims_of_rows import TERMS, build, verdict, verdicts


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Other tests check the shapes of every call; here that would be most of the time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("name", NAMES)
def test_every_claim_about_a_row_gets_the_right_verdict(name):
    compiled = build(name)
    wrong = []
    for row in compiled.truth:
        for claim, found, right in verdicts(compiled, row):
            print(f"{name} | {row.name} | {', '.join(row.roles)} | {claim} | {found}")
            if found not in right:
                wrong.append((row, claim, found, right))
    assert not wrong


def test_a_whole_layer_that_carries_everything_is_supported():
    compiled = build("marked_slots", share=1.0)
    for layer, right in ((0, ("supported", "refuted")), (1, ("refuted", "supported"))):
        row = compiled.row(f"store {layer}")
        assert verdict(check_necessary, compiled, row, threshold=0.8) == right[0]
        assert verdict(check_not_necessary, compiled, row) == right[1]


def test_a_trap_is_refused_also_where_its_effect_is_large():
    """Beside a layer that does nothing, a guard says what it is."""
    compiled = build("decay", share=1.0)
    row = compiled.row("trap")
    record = check_necessary(
        compiled.model, row.circuit, compiled.prompts_of(row), threshold=0.2, **TERMS
    )
    assert (str(record.verdict), record.binding) == ("refuted", "illusion")


def test_too_far_to_answer_is_no_behaviour():
    compiled = build("decay")
    far = compiled.prompts.filter(behaviour="far")
    record = check_necessary(compiled.model, compiled.row("store 0").circuit, far, **TERMS)
    assert str(record.verdict) == "invalid"
    assert "behaviour absent" in record.reason
