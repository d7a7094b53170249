"""A circuit transfers when it does on another task what it does on its own."""

import pytest

from mechtest.assertions import assert_sufficient, assert_transfers, check_transfers
from mechtest.errors import ClaimInvalid, ClaimRefuted
from mechtest.interventions import Circuit, Runner
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, LEVEL, of_rows, prompts, prose

STATE = Circuit(CARRIES)
WRITTEN = Circuit("blocks.1.hook_out_proj@last")
"""All that layer 1 adds for the answer."""


def transfers(target, *, circuit=STATE, source="fact_city", **options):
    return check_transfers(prose(), circuit, prompts(source), target, **{"level": LEVEL, **options})


def test_the_state_that_carries_a_city_carries_a_material():
    found = transfers(prompts("fact_material"), own=WRITTEN)
    assert (found.verdict, found.kind) == ("supported", "transfer")
    (measured,) = found.evidence
    assert (measured.kind, measured.label) == ("transfer", "target")
    assert measured.effect.estimate == pytest.approx(0.97, abs=0.02)
    assert measured.controls.stopped == "specific"
    (relative,) = [guard for guard in measured.guards if guard.name == "relative"]
    assert relative.passed
    assert "it does 0.966 of what" in relative.detail
    assert found.p >= relative.p
    assert "on the source prompts the effect is 0.95" in found.notes[0]
    assert found.settings["of"] == "necessity"
    assert ClaimRecord.from_json(found.to_json()) == found


def test_it_does_not_carry_the_indirect_object():
    found = transfers(prompts("ioi"))
    assert (found.verdict, found.binding) == ("refuted", "target effect")
    with pytest.raises(ClaimRefuted, match=r"target: the effect 0.2.* is below 0.5"):
        assert_transfers(prose(), STATE, prompts(), prompts("ioi"), level=LEVEL)


def test_an_effect_that_is_small_beside_that_of_the_tasks_own_circuit_is_refuted():
    found = transfers(prompts("ioi"), threshold=0.1, own=Circuit(INERT))
    assert (found.verdict, found.binding) == ("refuted", "target relative")
    assert found.evidence[0].p_effect <= LEVEL
    assert found.evidence[0].controls is None  # they could not save it


def test_a_share_beside_rho_is_inconclusive():
    found = transfers(prompts("fact_material"), own=WRITTEN, rho=0.966)
    assert (found.verdict, found.binding) == ("inconclusive", "target relative")
    assert found.settle


def test_all_of_several_targets_have_to_hold():
    targets = {"material": prompts("fact_material"), "object": prompts("ioi")}
    found = transfers(targets)
    assert (found.verdict, found.binding) == ("refuted", "object effect")
    assert [part.label for part in found.evidence] == ["material", "object"]
    assert found.evidence[0].controls is None


def test_sufficiency_can_transfer_too():
    found = transfers(prompts("fact_material"), using=assert_sufficient, own=WRITTEN)
    assert found.settings["of"] == "sufficiency"
    assert found.settings["mode"] == "restore"
    assert (found.verdict, found.evidence[0].intervention) == ("supported", "patch")


def test_the_rate_of_false_refutations_is_shared_by_targets_and_parts(monkeypatch):
    from mechtest.assertions import compound

    seen, begin = [], compound.begin

    def noting(study, terms, claim, *, label):
        seen.append(terms.refutation)
        return begin(study, terms, claim, label=label)

    monkeypatch.setattr(compound, "begin", noting)
    targets = {"a": prompts("fact_material"), "b": prompts("ioi")}
    transfers(targets)
    assert seen == pytest.approx([0.05 / 2] * 2)
    seen.clear()
    transfers(targets, own=WRITTEN)
    assert seen == pytest.approx([2 * 0.05 / 6] * 2)  # three routes, each read at half of it


def test_a_circuit_found_on_the_targets_test_half_is_circular():
    other = prompts("fact_material")
    halves = other.split()
    swapped = of_rows([*halves[1].rows])  # its discovery half holds templates of the test half
    honest = Circuit(CARRIES, channels=range(4), fitted_on=other.discovery.fingerprints)
    assert transfers(other, circuit=honest).verdict != "invalid"
    cheated = Circuit(CARRIES, channels=range(4), fitted_on=swapped.fingerprints)
    record = transfers(other, circuit=cheated)
    assert (record.verdict, record.binding) == ("invalid", "MT703")
    assert "circular" in record.reason


@pytest.mark.parametrize(
    ("target", "options", "text"),
    [
        (lambda: prompts(), {}, "shares prompts with the task"),
        (dict, {}, "there are no target prompts"),
        (lambda: prompts("gender"), {"rho": 0}, "rho=0"),
        (lambda: prompts("gender"), {"own": {"city": STATE}}, "own circuits of city"),
        (lambda: prompts("gender"), {"using": print}, "no assertion that can be made of another"),
        (lambda: prompts("agree_attractor"), {}, "target: behaviour absent"),
        (lambda: prompts("gender").discovery, {}, "circular"),
        (lambda: prompts("gender"), {"circuit": Circuit("blocks.1.state@subject_last")}, "person"),
        (lambda: prompts("gender"), {"level": 1e-9}, "clusters can never give"),
    ],
)
def test_what_cannot_be_tested_is_invalid(target, options, text):
    found = transfers(target(), **options)
    assert found.verdict == "invalid"
    assert text in found.reason
    with pytest.raises(ClaimInvalid, match=r"transfer of .* cannot be tested"):
        assert_transfers(
            prose(), options.pop("circuit", STATE), prompts(), target(),
            **{"level": LEVEL, **options},
        )  # fmt: skip


def test_a_plan_adds_the_targets_up_and_runs_nothing(monkeypatch):
    monkeypatch.setattr(Runner, "logits_after", None)
    targets = {"material": prompts("fact_material"), "object": prompts("ioi")}
    with running(RunningClaim(planning=True)) as claim:
        record = transfers(targets, own=WRITTEN)
    (plan,) = claim.plans
    assert plan["attainable"], plan["problem"]
    assert plan["needed_controls"] == 2 * 12
    assert plan["prompts"] == 25 + 25
    assert plan["settings"] == record.settings
    assert plan["cost"]["gflop"] > 0
    with running(RunningClaim(planning=True)) as claim:
        transfers(targets, level=1e-9)
    assert "material" in claim.plans[0]["problem"]
