"""A circuit is minimal when leaving out any of its parts costs something."""

import pytest

from mechtest.assertions import assert_minimal, check_minimal
from mechtest.assertions.minimality import random_orders
from mechtest.errors import ClaimInconclusive, ClaimInvalid, ClaimRefuted
from mechtest.interventions import Circuit, Runner
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, prompts, prose

HALVES = {"low": range(64), "high": range(64, 128)}
QUARTERS = {"one": range(32), "two": range(32, 64), "three": range(64, 96), "four": range(96, 128)}
BACKUPS = Circuit("blocks.1.hook_out_proj@last", "blocks.1.hook_resid_post@last")
"""The second holds what the first adds: either alone changes the answer, so neither is missed."""


def minimal(circuit, task="fact_city", **options):
    return check_minimal(prose(), circuit, prompts(task), **options)


@pytest.fixture(scope="module")
def both_layers():
    """Names of the indirect object go through both layers' states."""
    return minimal(Circuit(INERT, CARRIES), "ioi", order="random")


def test_a_circuit_whose_parts_all_add_something_is_supported(both_layers):
    assert (both_layers.verdict, both_layers.kind) == ("supported", "minimality")
    parts = both_layers.evidence[:2]
    assert [found.label for found in parts] == [INERT, CARRIES]
    assert [found.effect.estimate for found in parts] == pytest.approx([0.8, 0.19], abs=0.02)
    assert all(found.threshold == 0.02 for found in parts)
    assert all(found.effect.low > 0.02 for found in parts)
    assert both_layers.p == max(found.p_effect for found in parts) <= 0.05
    assert both_layers.binding in (INERT, CARRIES)
    assert any("mutual backups" in text for text in parts[0].assumptions)
    assert ClaimRecord.from_json(both_layers.to_json()) == both_layers


def test_a_part_that_adds_nothing_refutes_the_claim_and_is_named():
    found = minimal(Circuit(CARRIES, INERT))
    assert (found.verdict, found.binding) == ("refuted", INERT)
    assert [part.verdict for part in found.evidence] == ["supported", "refuted"]
    with pytest.raises(ClaimRefuted, match=f"{INERT}.*is below 0.02"):
        assert_minimal(prose(), Circuit(CARRIES, INERT), prompts())


@pytest.mark.parametrize("mode", ["ablate", "restore"])
def test_groups_of_channels_are_parts(mode):
    found = minimal(Circuit(CARRIES), groups=HALVES, mode=mode)
    assert (found.verdict, found.binding) == ("supported", found.binding)
    assert [part.label for part in found.evidence] == ["low", "high"]


def test_what_is_kept_alone_is_minimal_too():
    circuit = Circuit(CARRIES, channels=range(126))
    found = minimal(circuit, groups={"low": range(64), "high": range(64, 126)}, mode="keep")
    assert found.verdict == "supported"


def test_a_part_beside_the_margin_is_inconclusive_and_says_what_would_settle_it():
    found = minimal(Circuit(CARRIES), groups=QUARTERS)
    assert (found.verdict, found.binding) == ("inconclusive", "two")
    assert "templates" in found.settle
    with pytest.raises(ClaimInconclusive, match=r"two: 0.0187 is not shown to be above 0.02"):
        assert_minimal(prose(), Circuit(CARRIES), prompts(), groups=QUARTERS)


def test_mutual_backups_look_unneeded_and_random_orders_show_them():
    found = minimal(BACKUPS, order="random", orders=6)
    assert found.verdict == "refuted"
    alone, over_orders = found.evidence[:2], found.evidence[2:]
    assert all(abs(part.effect.estimate) < 0.02 for part in alone)
    assert all("6 random orders" in part.label for part in over_orders)
    assert all(part.p_effect is None for part in over_orders)
    added = [part.effect.estimate for part in over_orders]
    assert added == pytest.approx([0.5, 0.5], abs=0.01)  # each comes first in half of them
    assert sum(added) == pytest.approx(1, abs=0.002)  # whatever the order, they end at the whole


def test_orders_are_keyed_by_claim_and_seed(both_layers):
    assert minimal(Circuit(INERT, CARRIES), "ioi", order="random") == both_layers
    assert random_orders(4, 6, 0, "c") == random_orders(4, 8, 0, "c")[:6]
    assert random_orders(4, 6, 0, "c") != random_orders(4, 6, 1, "c")
    assert random_orders(4, 6, 0, "c") != random_orders(4, 6, 0, "d")


def test_everything_is_measured_in_one_call(monkeypatch):
    calls, logits_after = [], Runner.logits_after

    def counting(self, circuits, *args, **kwargs):
        calls.append(len(circuits))
        return logits_after(self, circuits, *args, **kwargs)

    monkeypatch.setattr(Runner, "logits_after", counting)
    minimal(Circuit(CARRIES), groups=QUARTERS)
    assert calls == [5]


@pytest.mark.parametrize(
    ("circuit", "options", "text"),
    [
        (Circuit(CARRIES), {}, "one part is minimal by definition"),
        (Circuit(CARRIES), {"groups": {"low": range(64)}}, "share the circuit's channels out"),
        (Circuit(CARRIES), {"groups": {**HALVES, "none": []}}, "no empty group"),
        (Circuit(CARRIES), {"groups": {**HALVES, "low": range(60)}}, "not in both: 60, 61"),
        (Circuit(CARRIES, INERT), {"delta": -0.1}, "delta=-0.1"),
        (Circuit(CARRIES, INERT), {"delta": float("nan")}, "delta=nan"),
        (Circuit(CARRIES, INERT), {"mode": "destroy"}, "no mode 'destroy'"),
        (Circuit(CARRIES, INERT), {"order": "shuffled"}, "order='shuffled'"),
        (Circuit(CARRIES, "blocks.9.state@last"), {}, "layer"),
        (Circuit(CARRIES, INERT), {"level": 1e-9}, "clusters can never give"),
        (Circuit(CARRIES, "blocks.0.state@0"), {}, "changed no activation"),
    ],
)
def test_what_cannot_be_tested_is_invalid(circuit, options, text):
    found = minimal(circuit, **options)
    assert found.verdict == "invalid"
    assert text in found.reason
    with pytest.raises(ClaimInvalid, match=r"minimality of .* cannot be tested"):
        assert_minimal(prose(), circuit, prompts(), **options)


def test_a_plan_runs_nothing_and_says_what_it_takes(monkeypatch):
    monkeypatch.setattr(Runner, "logits_after", None)
    with running(RunningClaim(planning=True)) as claim:
        minimal(Circuit(CARRIES), groups=QUARTERS)
    (plan,) = claim.plans
    assert plan["attainable"]
    assert (plan["controls"], plan["forward_passes"]) == (0, 7)
    assert plan["settings"]["parts"] == list(QUARTERS)
    assert plan["cost"]["gflop"] > 0
