"""Assertions attach what they found and say it with the numbers first; checks only return it."""

import pickle

import pytest
import torch

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
from mechtest.interventions import Circuit, Subspace, forget_runs
from mechtest.interventions.hooked import Hooked
from mechtest.interventions.rectangle import Rectangle
from mechtest.interventions.run_pool import POOL_VARIABLE
from mechtest.kernels import backend_name
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, LEVEL, of_rows, prompts, prose


@pytest.fixture
def claim(monkeypatch):
    """A claim whose passes are counted: nothing has been measured for others before."""
    monkeypatch.delenv(POOL_VARIABLE, raising=False)
    forget_runs()
    with running(RunningClaim(id="c.py::t[seed0]", key="c.py::t", statement="Layer 1 carries it",
                              level=LEVEL, seed=3)) as found:  # fmt: skip
        yield found


@pytest.fixture
def no_runs(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a forward pass was made")

    monkeypatch.setattr(Hooked, "count", refuse)
    monkeypatch.setattr(Rectangle, "_count", refuse)


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
    assert claim.forward_passes > 4


def test_a_check_attaches_nothing(claim):
    record = check_necessary(prose(), Circuit(CARRIES), prompts())
    assert record.verdict == "supported"
    assert claim.records == []
    assert claim.forward_passes > 4


@pytest.mark.parametrize("engine", ["packed", "hooked"])
def test_every_runner_of_a_claim_is_asked_for_its_engine_and_counts_for_it(claim, engine):
    claim.engine, claim.memory = engine, 2**23
    found = find_difference_subspace(prose(), "blocks.1.hook_h@last", prompts().discovery, rank=4)
    assert claim.engines == ""
    looked = claim.forward_tokens
    assert looked > 0
    check_necessary(prose(), found, prompts(), threshold=0.1, level=0.15)  # controls: discovery too
    check_necessary(prose(), Circuit(CARRIES), prompts(), level=0.15)  # the random twin
    assert claim.engines == ("hooked" if engine == "hooked" else "packed")
    assert claim.forward_tokens > looked
    assert claim.kernels == [backend_name("cpu", torch.float32)]


def test_passes_of_several_assertions_add_up_also_of_invalid_ones(claim):
    check_necessary(prose(), Circuit(CARRIES), prompts(), level=0.15)
    first = claim.forward_passes
    check_necessary(prose(), Circuit(CARRIES), prompts(), min_accuracy=1.01)
    assert claim.forward_passes == first, "the clean run is there already"
    forget_runs()
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
    assert [item["done"] for item in told] == [8, 16, 32, 57]
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
    assert plan["cost"]["forward_tokens"] >= 24 * (1 + plan["needed_controls"]) / 2
    assert plan["cost"]["gflop"] > 0
    assert 0 < plan["cost"]["bytes"] < 2**30


def test_a_plan_of_subspaces_costs_without_measuring_where_they_are_drawn(no_runs):
    circuit = Circuit("blocks.1.hook_h@last", subspace=Subspace.spanned_by(torch.eye(2048)[:, :2]))
    with running(RunningClaim(planning=True, level=0.05)) as claim:
        assert_necessary(prose(), circuit, prompts())
    (plan,) = claim.plans
    assert plan["problem"] == ""
    # The state of the last layer at the last token: half of one token a prompt.
    assert plan["cost"]["forward_tokens"] == 24 * (1 + plan["needed_controls"]) / 2


def test_a_plan_for_hooks_costs_whole_passes(no_runs):
    with running(RunningClaim(planning=True, level=0.05, engine="hooked")) as claim:
        assert_necessary(prose(), Circuit(CARRIES), prompts())
    (plan,) = claim.plans
    tokens = prompts().test.encode(prose().tokenizer).clean_tokens.numel()
    assert plan["cost"]["forward_tokens"] == tokens * (1 + plan["needed_controls"])


def test_a_plan_says_that_an_engine_cannot_carry_a_claim_out(no_runs):
    with running(RunningClaim(planning=True, level=0.05, engine="packed")) as claim:
        assert_necessary(prose(), Circuit("blocks.1.hook_A_bar@last"), prompts())
    (plan,) = claim.plans
    assert not plan["attainable"]
    assert plan["cost"] is None
    assert "packed rows cannot carry this out" in plan["problem"]


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
