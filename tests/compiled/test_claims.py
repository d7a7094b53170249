"""Assertions answer rightly on what is known of compiled models, at level .05.

The table below says what follows from a row of truth. Necessity and sufficiency ask two questions:
a part of a layer that does the work is more special than channels at random, so that such claims
are supported. A whole layer is compared with half of all channels, and half of them may hold what
matters too: such claims need not be supported, and must not be refuted.
"""

import jaxtyping
import pytest

from mechtest.assertions import check_necessary, check_not_necessary, check_sufficient
from tests.compiled.builds import MIXED, NAMES, built

NOISE = 0.005
MARGIN = 0.15
NEGLIGIBLE = 0.2
TERMS = {"level": 0.05, "losses": 1}


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Other tests check the shapes of every call; here that would be most of the time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def build(name, share=MIXED):
    """Return a build with noise, so that effects differ from template to template."""
    return built(name, share=share, noise=NOISE, templates=32, per_template=1)


def verdict(check, compiled, row, **terms):
    prompts = compiled.prompts_of(row)
    return str(check(compiled.model, row.circuit, prompts, **TERMS, **terms).verdict)


def is_part(row):
    return row.circuit.channels is not None or row.circuit.subspace is not None


def expected_above(row, effect):
    """Return the verdicts a claim may get that is true of this effect, with a margin."""
    if "cut" in row.roles:
        return {"invalid"}
    if "illusory" in row.roles:
        return {"refuted"}
    leads = is_part(row) and effect > 0.5  # a lesser lane has to compete with the greater one
    return {"supported"} if leads else {"supported", "inconclusive"}


def expected_absent(row):
    """Return the verdicts that "ablating it loses less than a fifth" may get."""
    if abs(row.ablated) < NEGLIGIBLE - 0.1:
        return {"supported"}
    return {"refuted"} if row.ablated > NEGLIGIBLE + 0.05 else {"supported", "inconclusive"}


def verdicts(compiled, row):
    """Yield what was claimed of a row, the verdict, and the verdicts that are right."""
    effects = [(check_necessary, row.ablated)]
    if is_part(row) or row.ablated != row.restored:  # elsewhere the two ask the same
        effects.append((check_sufficient, row.restored))
    for check, effect in effects:
        if effect > MARGIN + 0.05:
            found = verdict(check, compiled, row, threshold=effect - MARGIN)
            yield f"{check.__name__} above", found, expected_above(row, effect)
    if row.ablated > MARGIN and (not is_part(row) or "illusory" in row.roles):
        more = verdict(check_necessary, compiled, row, threshold=row.ablated + MARGIN)
        # Subspace claims are carried out in standardised units: a trap does more or less there.
        yield "check_necessary beyond", more, {"invalid"} if "cut" in row.roles else {"refuted"}
    absent = verdict(check_not_necessary, compiled, row, threshold=NEGLIGIBLE)
    yield "check_not_necessary", absent, expected_absent(row)


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
