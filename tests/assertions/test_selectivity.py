"""A circuit is specific to a task when it serves it and leaves another behaviour alone."""

import pytest

from mechtest.assertions import assert_specific_to, check_specific_to
from mechtest.errors import ClaimInvalid, ClaimRefuted
from mechtest.interventions import Circuit, Runner
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, prompts, prose

FIRST, SECOND = Circuit(INERT), Circuit(CARRIES)
"""The first layer's state carries the indirect object and no city; the second's, the city."""


def specific(circuit, task, off, **options):
    return check_specific_to(prose(), circuit, prompts(task), off, **options)


def test_a_state_that_carries_one_thing_and_not_another_is_specific():
    found = specific(FIRST, "ioi", prompts("fact_city"))
    assert (found.verdict, found.kind) == ("supported", "selectivity")
    task, off = found.evidence
    assert (task.label, off.label) == ("task", "off-target")
    assert (task.direction, off.direction) == ("greater", "less")
    assert task.effect.estimate == pytest.approx(0.81, abs=0.02)
    assert abs(off.effect.estimate) < 0.01
    assert found.p == max(task.p_effect, off.p_effect) <= 0.05
    assert task.controls is None
    assert ClaimRecord.from_json(found.to_json()) == found


def test_a_state_that_carries_both_is_not():
    found = specific(SECOND, "fact_city", prompts("gender"))
    assert (found.verdict, found.binding) == ("refuted", "off-target effect")
    with pytest.raises(ClaimRefuted, match=r"off-target: the effect 0.96\d* is not small"):
        assert_specific_to(prose(), SECOND, prompts(), prompts("gender"))


def test_a_small_effect_on_the_task_refutes_too():
    found = specific(FIRST, "fact_city", prompts("gender"))
    assert (found.verdict, found.binding) == ("refuted", "task effect")


def test_an_off_target_effect_at_its_threshold_is_inconclusive():
    seen = specific(SECOND, "fact_city", prompts("ioi")).evidence[1].effect.estimate
    found = specific(SECOND, "fact_city", prompts("ioi"), threshold_off=seen)
    assert (found.verdict, found.binding) == ("inconclusive", "off-target effect")
    assert found.settle


def test_every_off_target_behaviour_has_to_be_left_alone():
    off = {"city": prompts("fact_city"), "numbers": prompts("greater_than")}
    found = specific(FIRST, "ioi", off)
    assert (found.verdict, found.binding) == ("refuted", "numbers effect")
    assert [part.label for part in found.evidence] == ["task", "city", "numbers"]


def test_selective_compares_shares_of_the_two_tasks():
    """A fifth of the other behaviour is not small, but clearly smaller."""
    assert specific(SECOND, "fact_city", prompts("ioi")).verdict == "refuted"
    found = specific(SECOND, "fact_city", prompts("ioi"), selective=True)
    assert found.verdict == "supported"
    (guard,) = [guard for guard in found.evidence[1].guards if guard.name == "selective"]
    assert guard.passed
    assert guard.p == found.evidence[1].p == 1e-4
    assert found.evidence[1].threshold is None
    assert found.evidence[1].method == "shown, not judged"
    again = specific(SECOND, "fact_city", prompts("ioi"), selective=True)
    assert again == found


def test_selective_says_when_the_other_task_loses_more():
    found = specific(SECOND, "ioi", prompts("fact_city"), threshold=0.1, selective=True)
    assert (found.verdict, found.binding) == ("refuted", "off-target selective")


def test_equal_shares_are_not_selective():
    found = specific(SECOND, "fact_city", prompts("fact_material"), selective=True)
    assert (found.verdict, found.binding) == ("inconclusive", "off-target selective")


@pytest.mark.parametrize(
    ("off", "options", "text"),
    [
        (lambda: prompts(), {}, "off-target prompts are the task's own"),
        (dict, {}, "there are no off-target prompts"),
        (lambda: {"task": prompts("ioi")}, {}, "'task' is what the record calls the task"),
        (lambda: prompts("agree_attractor"), {}, "off-target: behaviour absent"),
        (lambda: prompts("gender"), {"threshold_off": float("nan")}, "finite number"),
        (lambda: prompts("ioi", 1, 4), {"selective": True}, "24 and 4 clusters of two tasks"),
        (lambda: prompts("gender"), {"level": 1e-9}, "clusters can never give"),
        (lambda: prompts("gender").discovery, {}, "circular"),
    ],
)
def test_what_cannot_be_tested_is_invalid(off, options, text):
    found = specific(SECOND, "fact_city", off(), **options)
    assert found.verdict == "invalid"
    assert text in found.reason
    with pytest.raises(ClaimInvalid, match="selectivity of"):
        assert_specific_to(prose(), SECOND, prompts(), off(), **options)


def test_a_plan_runs_nothing_and_tells_what_cannot_be(monkeypatch):
    monkeypatch.setattr(Runner, "logits_after", None)
    with running(RunningClaim(planning=True)) as claim:
        record = specific(FIRST, "ioi", prompts("fact_city"), selective=True)
        specific(FIRST, "ioi", prompts("fact_city", 1, 4), selective=True)
    good, bad = claim.plans
    assert good["attainable"], good["problem"]
    assert (good["needed_controls"], good["clusters"]) == (0, 24)
    assert good["settings"] == record.settings
    assert not bad["attainable"]
    assert "25 and 4 clusters of two tasks" in bad["problem"]
