"""Effects are in an order when every pair says so; a profile rises when no step falls."""

import pytest

from mechtest.assertions import (
    assert_monotone,
    assert_ranked,
    check_monotone,
    check_ranked,
)
from mechtest.errors import ClaimInvalid, ClaimRefuted
from mechtest.interventions import Circuit, Runner
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, prompts, prose

ALL = Circuit("blocks.1.hook_out_proj@last", name="all")
STATE = Circuit(CARRIES, name="second")
FIRST = Circuit(INERT, name="first")
HALF = Circuit(CARRIES, channels=range(64, 128), name="half")
"""Shares of the city: 1, .95, 0 and about .65."""


def ranked(circuits, **options):
    return check_ranked(prose(), circuits, prompts(), **options)


def monotone(circuits, **options):
    return check_monotone(prose(), circuits, prompts(), **options)


def test_effects_in_their_order_are_supported():
    found = ranked([STATE, HALF, FIRST])
    assert (found.verdict, found.kind) == ("supported", "ranking")
    assert [row.label for row in found.evidence] == [
        "second over half", "half over first", "second", "half", "first",
    ]  # fmt: skip
    pairs, each = found.evidence[:2], found.evidence[2:]
    assert all(row.effect.low > 0 for row in pairs)
    assert found.p == max(row.p_effect for row in pairs) <= 0.05
    assert [row.effect.estimate for row in each] == pytest.approx([0.95, 0.63, 0.0], abs=0.06)
    assert pairs[0].effect.estimate == pytest.approx(
        each[0].effect.estimate - each[1].effect.estimate, abs=1e-4
    )
    assert all(row.p_effect is None for row in each)
    assert ClaimRecord.from_json(found.to_json()) == found


def test_a_wrong_order_is_refuted_by_the_pair_that_is_wrong():
    found = ranked([HALF, STATE, FIRST])
    assert (found.verdict, found.binding) == ("refuted", "half over second")
    with pytest.raises(ClaimRefuted, match=r"half over second: -0\.3"):
        assert_ranked(prose(), [HALF, STATE, FIRST], prompts())


def test_the_first_can_be_the_largest_whatever_the_order_of_the_others():
    circuits = {"b": STATE, "a": FIRST, "c": HALF}
    assert ranked(circuits).verdict == "refuted"
    found = ranked(circuits, order="first is largest")
    assert found.verdict == "supported"
    assert [row.label for row in found.evidence[:2]] == ["b over a", "b over c"]


def test_a_lead_beside_the_margin_is_inconclusive():
    lead = ranked([STATE, HALF]).evidence[0].effect.estimate
    found = ranked([STATE, HALF], margin=lead)
    assert (found.verdict, found.binding) == ("inconclusive", "second over half")
    assert found.settle
    assert ranked([STATE, HALF], margin=0.1, mode="restore").verdict == "supported"


def test_a_profile_that_rises_is_monotone_and_one_that_falls_is_not():
    assert monotone([FIRST, HALF, STATE, ALL]).verdict == "supported"
    found = monotone([FIRST, STATE, HALF])
    assert (found.verdict, found.binding, found.kind) == (
        "refuted", "half over second", "profile",
    )  # fmt: skip
    assert monotone([ALL, STATE, HALF], direction="non-increasing").verdict == "supported"
    with pytest.raises(ClaimRefuted, match=r"below -0\.05"):
        assert_monotone(prose(), [FIRST, STATE, HALF], prompts())


def test_a_fall_of_the_tolerance_is_inconclusive():
    fall = ranked([ALL, STATE]).evidence[0].effect.estimate
    assert 0 < fall < 0.1
    found = monotone([ALL, STATE], tolerance=fall)
    assert (found.verdict, found.binding) == ("inconclusive", "second over all")
    assert monotone([ALL, STATE], tolerance=3 * fall).verdict == "supported"


@pytest.mark.parametrize(
    ("circuits", "options", "text"),
    [
        ([STATE], {}, "two circuits or more"),
        ([STATE, Circuit(CARRIES, name="second")], {}, "a name of its own"),
        ({}, {}, "two circuits or more"),
        ([STATE, FIRST], {"order": "ascending"}, "no order 'ascending'"),
        ([STATE, FIRST], {"margin": -1}, "margin=-1"),
        ([STATE, FIRST], {"mode": "keep"}, "mode 'keep'"),
        ([STATE, Circuit("blocks.7.state@last")], {}, "layer"),
        ([STATE, Circuit("blocks.0.state@0")], {}, "changed no activation"),
        ([STATE, FIRST], {"level": 1e-9}, "clusters can never give"),
    ],
)
def test_what_cannot_be_ranked_is_invalid(circuits, options, text):
    found = ranked(circuits, **options)
    assert found.verdict == "invalid"
    assert text in found.reason
    with pytest.raises(ClaimInvalid, match="ranking of"):
        assert_ranked(prose(), circuits, prompts(), **options)


@pytest.mark.parametrize("options", [{"direction": "up"}, {"tolerance": float("nan")}])
def test_what_is_no_profile_is_invalid(options):
    assert monotone([FIRST, STATE], **options).verdict == "invalid"


def test_a_plan_runs_nothing(monkeypatch):
    monkeypatch.setattr(Runner, "logits_after", None)
    with running(RunningClaim(planning=True)) as claim:
        record = ranked([STATE, HALF, FIRST])
        monotone([FIRST, STATE])
    order, profile = claim.plans
    assert order["attainable"]
    assert order["settings"] == record.settings
    assert order["settings"]["circuits"]["first"] == [INERT]
    assert (order["forward_passes"], profile["forward_passes"]) == (5, 4)
