"""Assertions attach what they found and say it with the numbers first; checks only return it."""

import pickle

import pytest

from mechtest.assertions import (
    assert_beats_random_subspaces,
    assert_necessary,
    assert_not_necessary,
    assert_stable_across_seeds,
    assert_sufficient,
    check_necessary,
)
from mechtest.discovery import find_difference_subspace
from mechtest.errors import ClaimInconclusive, ClaimInvalid, ClaimRefuted
from mechtest.interventions import Circuit, Runner
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, LEVEL, of_rows, prompts, prose


@pytest.fixture
def claim():
    with running(RunningClaim(id="c.py::t[seed0]", key="c.py::t", statement="Layer 1 carries it",
                              level=LEVEL, seed=3)) as found:  # fmt: skip
        yield found


@pytest.fixture
def no_runs(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass was made")

    monkeypatch.setattr(Runner, "_forward", refuse)
    monkeypatch.setattr(Runner, "_cached", refuse)


def refuted():
    return assert_necessary(prose(), Circuit(INERT), prompts())


def inconclusive():
    effect = check_necessary(prose(), Circuit(CARRIES), prompts()).evidence[0].effect.estimate
    return assert_necessary(prose(), Circuit(CARRIES), prompts(), threshold=effect)


def invalid():
    return assert_necessary(prose(), Circuit("blocks.9.state@last"), prompts())


FAILURES = [(refuted, ClaimRefuted), (inconclusive, ClaimInconclusive), (invalid, ClaimInvalid)]


def test_an_assertion_attaches_its_record_and_returns_it(claim):
    record = assert_necessary(prose(), Circuit(CARRIES), prompts())
    assert claim.records == [record]
    assert (record.id, record.statement) == ("c.py::t[seed0]", "Layer 1 carries it")
    assert (record.level, record.seed) == (LEVEL, 3)
    assert claim.forward_passes > 12


def test_a_check_attaches_nothing(claim):
    record = check_necessary(prose(), Circuit(CARRIES), prompts())
    assert record.verdict == "supported"
    assert claim.records == []
    assert claim.forward_passes > 12


def test_passes_of_several_assertions_add_up_also_of_invalid_ones(claim):
    check_necessary(prose(), Circuit(CARRIES), prompts(), level=0.15)
    first = claim.forward_passes
    check_necessary(prose(), Circuit(CARRIES), prompts(), min_accuracy=1.01)
    assert claim.forward_passes > first


def test_outside_a_test_there_is_nothing_to_attach_to():
    record = assert_necessary(prose(), Circuit(CARRIES), prompts(), level=LEVEL)
    assert record.id == ""
    assert record.statement == f"necessity of {CARRIES}"


def test_long_claims_tell_how_far_they_are():
    told = []
    claim = RunningClaim(level=0.05, on_event=lambda event, content: told.append(content))
    with running(claim):
        assert_necessary(prose(), Circuit(CARRIES), prompts())
    assert [item["done"] for item in told] == [20, 40]
    assert "components controls" in told[0]["note"]


@pytest.mark.parametrize(("make", "kind"), FAILURES, ids=["refuted", "inconclusive", "invalid"])
def test_failures_are_attached_and_raised(claim, make, kind):
    with pytest.raises(kind) as raised:
        make()
    assert claim.records == [raised.value.record]
    assert isinstance(raised.value, AssertionError) is (kind is not ClaimInvalid)
    assert "pytest 'c.py::t[seed0]' --mechtest-seed=3" in str(raised.value)


@pytest.mark.parametrize(("make", "kind"), FAILURES, ids=["refuted", "inconclusive", "invalid"])
def test_the_text_of_a_failure_survives_pickling(claim, make, kind):
    with pytest.raises(kind) as raised:
        make()
    again = pickle.loads(pickle.dumps(raised.value))
    assert type(again) is kind
    assert str(again) == str(raised.value)


def test_the_text_of_a_refuted_claim_has_everything_and_numbers_first(claim):
    with pytest.raises(ClaimRefuted) as raised:
        refuted()
    lines = str(raised.value).splitlines()
    record = raised.value.record
    estimate = record.evidence[0].effect.estimate
    assert lines[0].startswith(f"[MT701] {estimate:.2f} < 0.5, p 1, effect: necessity of {INERT}")
    assert lines[0].endswith("is refuted")
    starts = [line.split()[0] for line in lines[1:]]
    assert starts == ["given", "decided", "measured", "next", "replay"]
    assert "24 templates, 24 prompts" in lines[3]


def test_the_text_of_an_open_claim_says_what_would_settle_it(claim):
    with pytest.raises(ClaimInconclusive) as raised:
        inconclusive()
    lines = str(raised.value).splitlines()
    starts = [line.split()[0] for line in lines[1:]]
    assert starts == ["given", "decided", "measured", "controls", "next", "replay"]
    assert raised.value.record.settle in lines[-2]


def test_claims_that_controls_leave_open_say_whether_more_would_help():
    found = find_difference_subspace(prose(), "blocks.1.hook_h@last", prompts().discovery, rank=8)
    with pytest.raises(ClaimInconclusive, match="are weak") as raised:
        assert_beats_random_subspaces(prose(), found, prompts(), controls="haar", level=LEVEL)
    assert "controls='block'" in str(raised.value)


def test_templates_that_would_settle_a_claim_are_counted():
    """Half of the templates, a threshold close to the effect."""
    few = prompts(templates=6)
    effect = check_necessary(prose(), Circuit(CARRIES), few, level=0.05).evidence[0].effect
    found = check_necessary(
        prose(), Circuit(CARRIES), few, threshold=effect.estimate - 0.01, level=0.05
    )
    assert found.verdict == "inconclusive"
    assert "templates settle it in 8 of 10 studies" in found.settle
    assert f"{effect.estimate:.3g}, as seen here" in found.settle


# --- planning ----------------------------------------------------------------------------------


def plans_of(make, level=0.05, **options):
    with running(RunningClaim(id="c.py::t", planning=True, level=level)) as claim:
        record = make(prose(), Circuit(CARRIES), prompts(), **options)
    assert claim.records == []
    assert claim.forward_passes == 0
    assert record.verdict != "supported"
    (plan,) = claim.plans
    return plan


@pytest.mark.parametrize(
    "make", [assert_necessary, assert_sufficient, assert_not_necessary, check_necessary]
)
def test_a_plan_says_what_checking_takes_and_runs_nothing(no_runs, make):
    plan = plans_of(make)
    assert plan["attainable"]
    assert plan["problem"] == ""
    absence = make is assert_not_necessary
    assert plan["controls"] == (0 if absence else 59)
    assert plan["needed_controls"] == (0 if absence else 57)
    assert (plan["clusters"], plan["needed_clusters"], plan["prompts"]) == (24, 5, 24)
    assert plan["forward_passes"] >= plan["controls"] + 2
    assert plan["settings"]["circuit"] == [CARRIES]


@pytest.mark.parametrize(
    ("level", "options", "problem"),
    [
        (1e-9, {}, "24 clusters"),
        (0.05, {"max_controls": 10}, "10 controls can never"),
        (0.05, {"metric": "nonsense"}, "nonsense"),
        (0.05, {"losses": 0}, "losses"),
        (0.05, {"controls": "block"}, "do not fit"),
        (0.05, {"intervention": "zero"}, "intervention"),
        (0.05, {"threshold": float("nan")}, "finite number"),
    ],
    ids=["templates", "controls", "metric", "losses", "kind", "intervention", "threshold"],
)
def test_a_plan_says_what_can_never_be_supported(no_runs, level, options, problem):
    plan = plans_of(assert_necessary, level, **options)
    assert plan["attainable"] is False
    assert problem in plan["problem"]


def test_a_plan_tells_places_that_do_not_exist(no_runs):
    for site, text in (("blocks.9.state@last", "2 layers"), ("blocks.0.state@S9", "S9")):
        with running(RunningClaim(planning=True)) as claim:
            assert_necessary(prose(), Circuit(site), prompts())
        assert claim.plans[0]["attainable"] is False
        assert text in claim.plans[0]["problem"]


def test_a_plan_tells_a_circuit_found_on_what_it_would_be_tested_on(no_runs):
    circuit = Circuit(CARRIES, fitted_on=prompts().fingerprints)
    with running(RunningClaim(planning=True)) as claim:
        assert_necessary(prose(), circuit, prompts())
        assert_stable_across_seeds({0: prose()}, circuit, prompts())
        assert_necessary(prose(), Circuit(CARRIES), of_rows([]))
    assert ["circular" in plan["problem"] for plan in claim.plans] == [True, False, False]
    assert "two seeds" in claim.plans[1]["problem"]
    assert not any(plan["attainable"] for plan in claim.plans)
