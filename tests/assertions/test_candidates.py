"""The best of several circuits is judged as the best of so many."""

import pytest

from mechtest.assertions import (
    assert_necessary,
    best_of,
    check_beats_random_subspaces,
    check_necessary,
    check_not_necessary,
    check_sufficient,
)
from mechtest.discovery import find_difference_subspace
from mechtest.errors import ClaimInvalid, ClaimRefuted
from mechtest.interventions import Circuit, Runner
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, LEVEL, prompts, prose

LAYERS = best_of([Circuit(INERT), Circuit(CARRIES)])


@pytest.fixture(scope="module")
def layers():
    return check_necessary(prose(), LAYERS, prompts(), threshold=0.75, level=LEVEL)


def test_the_layer_that_carries_the_city_wins_and_is_supported(layers):
    assert (layers.verdict, layers.kind) == ("supported", "necessity")
    best, other = layers.evidence
    assert (best.label, best.circuit) == ("best of 2", (CARRIES,))
    assert best.effect.estimate == pytest.approx(0.95, abs=0.02)
    assert best.effect.low < best.effect.estimate < best.effect.high
    assert "max-T" in best.method
    assert best.controls.stopped == "specific"
    assert any("picked on these prompts as the best of 2" in text for text in best.assumptions)
    assert (other.label, other.circuit) == (f"candidate 1: {INERT}", (INERT,))
    assert (other.p_effect, other.threshold, other.controls) == (None, None, None)
    assert abs(other.effect.estimate) < 0.01
    assert ClaimRecord.from_json(layers.to_json()) == layers


def test_the_lock_registers_the_candidates_and_not_the_winner(layers):
    assert [one["circuit"] for one in layers.settings["candidates"]] == [[INERT], [CARRIES]]
    other = check_necessary(prose(), LAYERS, prompts("ioi"), threshold=0.75, level=LEVEL)
    assert other.evidence[0].circuit == (INERT,)
    same = {"prompts"}
    assert {k: v for k, v in other.settings.items() if k not in same} == {
        k: v for k, v in layers.settings.items() if k not in same
    }


def test_each_control_is_the_best_of_as_many_sets(layers):
    """So controls do more than those of one circuit of the same size."""
    alone = check_necessary(prose(), Circuit(CARRIES), prompts(), threshold=0.75, level=LEVEL)
    both = layers.evidence[0].controls.null_mean, alone.evidence[0].controls.null_mean
    assert both[0] > both[1] + 0.05
    assert layers.evidence[0].p_effect >= alone.evidence[0].p_effect


def test_when_every_candidate_is_below_the_threshold_it_is_refuted():
    found = check_necessary(prose(), LAYERS, prompts(), threshold=0.99, level=LEVEL)
    assert (found.verdict, found.binding) == ("refuted", "effect")
    with pytest.raises(ClaimRefuted, match=f"best of {INERT}; {CARRIES} is refuted"):
        assert_necessary(prose(), LAYERS, prompts(), threshold=0.99, level=LEVEL)


def test_a_threshold_beside_the_best_is_inconclusive(layers):
    effect = layers.evidence[0].effect.estimate
    found = check_necessary(prose(), LAYERS, prompts(), threshold=effect, level=0.05)
    assert (found.verdict, found.binding) == ("inconclusive", "effect")
    assert found.settle


def test_restoring_can_be_claimed_of_the_best_too():
    found = check_sufficient(prose(), LAYERS, prompts("fact_material"), level=LEVEL)
    assert (found.kind, found.evidence[0].circuit) == ("sufficiency", (CARRIES,))
    assert found.evidence[0].p_effect <= LEVEL


def test_channel_groups_are_candidates():
    groups = [Circuit(CARRIES, channels=range(8 * k, 8 * k + 8), name=f"{k}") for k in range(4)]
    found = check_necessary(prose(), best_of(groups), prompts(), threshold=0.01, level=LEVEL)
    assert len(found.evidence) == 4
    assert found.evidence[0].controls.drawn >= 3
    again = check_necessary(prose(), best_of(groups), prompts(), threshold=0.01, level=LEVEL)
    assert again == found


@pytest.mark.parametrize(
    ("circuits", "text"),
    [
        ([], "two or more"),
        ([Circuit(CARRIES)], "two or more"),
        ([Circuit(CARRIES), Circuit(CARRIES)], "each once"),
        ([CARRIES, INERT], "needs circuits"),
    ],
)
def test_what_is_no_choice_is_refused(circuits, text):
    with pytest.raises(ClaimInvalid, match=text):
        best_of(circuits)


def test_subspaces_cannot_be_candidates():
    found = find_difference_subspace(
        prose(), "blocks.1.hook_out_proj@last", prompts().discovery, rank=2
    )
    with pytest.raises(ClaimInvalid, match="subspaces cannot be candidates"):
        best_of([found, Circuit(CARRIES)])


@pytest.mark.parametrize(
    ("check", "options", "text"),
    [
        (check_not_necessary, {}, "can be claimed to be necessary"),
        (check_sufficient, {"mode": "keep"}, "mode 'keep'"),
        (check_beats_random_subspaces, {}, "only a subspace"),
        (check_necessary, {"level": 1e-9}, "clusters can never give"),
        (check_necessary, {"max_controls": 3}, "3 controls can never give"),
    ],
)
def test_what_cannot_be_tested_is_invalid(check, options, text):
    found = check(prose(), LAYERS, prompts(), **{"level": LEVEL, **options})
    assert found.verdict == "invalid"
    assert text in found.reason


@pytest.mark.parametrize("second", ["blocks.9.state@last", "blocks.0.state@0"])
def test_one_candidate_that_cannot_be_edited_makes_it_invalid(second):
    choice = best_of([Circuit(CARRIES), Circuit(second)])
    found = check_necessary(prose(), choice, prompts(), level=LEVEL)
    assert found.verdict == "invalid"


def test_a_plan_counts_every_candidate_of_every_control(monkeypatch):
    monkeypatch.setattr(Runner, "logits_after", None)
    with running(RunningClaim(planning=True, level=LEVEL)) as claim:
        record = check_necessary(prose(), LAYERS, prompts())
        check_necessary(prose(), Circuit(CARRIES), prompts())
    best, alone = claim.plans
    assert best["attainable"], best["problem"]
    assert best["settings"] == record.settings
    assert best["controls"] == alone["controls"]
    assert best["forward_passes"] > 1.8 * alone["forward_passes"]
    assert best["cost"]["gflop"] > 1.8 * alone["cost"]["gflop"]
