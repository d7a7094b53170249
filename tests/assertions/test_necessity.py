"""A circuit is necessary when ablating it costs the behaviour, and few others cost as much."""

import json
import math
from dataclasses import fields

import pytest
import torch

from mechtest.assertions import check_necessary
from mechtest.assertions.control_sets import choose_controls
from mechtest.assertions.study import prepare_study
from mechtest.discovery import find_difference_subspace
from mechtest.interventions import Circuit, Runner, Subspace, ZeroAblation
from mechtest.records import ClaimRecord, Evidence
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, LEVEL, prompts, prose, recall


@pytest.fixture(scope="module")
def true():
    """The city of a landmark stands in layer 1's state at the last token."""
    return check_necessary(prose(), Circuit(CARRIES), prompts(count=2), threshold=0.75, level=LEVEL)


def test_a_true_claim_is_supported(true):
    assert (true.verdict, true.kind) == ("supported", "necessity")
    (found,) = true.evidence
    assert found.effect.estimate == pytest.approx(0.96, abs=0.02)
    assert found.effect.low < found.effect.estimate < found.effect.high
    assert found.controls.stopped == "specific"
    assert found.controls.drawn == 12
    assert found.controls.null_mean == pytest.approx(0.5, abs=0.1)


def test_it_holds_in_another_model_and_task():
    found = check_necessary(recall(), Circuit(INERT), prompts("recall"), threshold=0.9, level=LEVEL)
    assert found.verdict == "supported"


def test_a_claim_about_the_wrong_layer_is_refuted_without_controls():
    """The effect decides already, so nothing is ranked."""
    found = check_necessary(prose(), Circuit(INERT), prompts(), level=LEVEL)
    assert (found.verdict, found.binding) == ("refuted", "effect")
    assert found.evidence[0].controls is None
    assert found.p > 0.9
    assert "below 0.5" in found.reason


def test_a_component_as_good_as_any_other_is_refuted_by_its_controls():
    """Eight directions at random move an eighth of the answer; so do any other eight."""
    directions = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    subspace = Subspace.spanned_by(directions)
    found = check_necessary(
        prose(),
        Circuit("blocks.1.hook_out_proj@last", subspace=subspace),
        prompts(),
        threshold=0.05,
    )
    assert (found.verdict, found.binding) == ("refuted", "controls")
    (measured,) = found.evidence
    assert measured.p_effect <= 0.05
    assert measured.controls.stopped == "futile"
    assert measured.controls.exceedance_low > 0.05
    assert "controls are as good" in found.reason


def test_a_threshold_beside_the_effect_is_inconclusive_and_says_what_would_settle_it(true):
    effect = true.evidence[0].effect.estimate
    found = check_necessary(
        prose(), Circuit(CARRIES), prompts(count=2), threshold=effect, level=0.05
    )
    assert (found.verdict, found.binding) == ("inconclusive", "effect")
    assert "templates" in found.settle or "template" in found.settle
    assert found.evidence[0].controls.drawn <= 13
    assert found.evidence[0].controls.stopped in ("not needed", "futile")


def test_p_is_the_largest_of_the_parts(true):
    (found,) = true.evidence
    parts = [found.p_effect, found.controls.p]
    parts += [guard.p for guard in found.guards if guard.p is not None]
    assert true.p == found.p == max(parts) == found.controls.p
    assert true.p <= LEVEL


def test_the_record_is_filled_and_finite_and_goes_through_json(true):
    assert ClaimRecord.from_json(true.to_json()) == true
    (found,) = true.evidence
    empty = {"label", "ablations", "counterexample"}
    for field in fields(Evidence):
        value = getattr(found, field.name)
        assert field.name in empty or value not in (None, "", ()), field.name
    assert len(found.effects) == len(found.behaviours) == len(found.prompt_ids) == found.prompts
    assert found.prompts == 2 * found.clusters
    assert 0.9 * found.clusters < found.clusters_positive <= found.clusters
    assert [guard.name for guard in found.guards] == ["behaviour", "accuracy", "no cut", "changed"]
    assert all(math.isfinite(value) for value in (*found.effects, *found.controls.values))
    assert found.effect.estimate == pytest.approx(
        sum(found.effects) / sum(found.behaviours), rel=1e-4
    )
    settings = json.loads(json.dumps(dict(true.settings)))
    assert settings["threshold"] == 0.75
    assert settings["circuit"] == [CARRIES]
    assert settings["origin"] == "declared"
    assert len(found.model.weights) == 64


def test_the_same_call_gives_an_equal_record(true):
    again = check_necessary(
        prose(), Circuit(CARRIES), prompts(count=2), threshold=0.75, level=LEVEL
    )
    assert again == true


def test_other_batches_change_rounding_only(true, monkeypatch):
    monkeypatch.setattr(Runner.__init__, "__defaults__", (7, 2**22, "auto", None))
    found = check_necessary(
        prose(), Circuit(CARRIES), prompts(count=2), threshold=0.75, level=LEVEL
    )
    ours, theirs = found.evidence[0], true.evidence[0]
    assert (found.verdict, found.binding, found.p) == (true.verdict, true.binding, true.p)
    assert ours.effects == pytest.approx(theirs.effects, abs=1e-4)
    assert ours.controls.values == pytest.approx(theirs.controls.values, abs=1e-4)


def test_controls_are_keyed_by_site_and_seed_and_not_by_claim(true):
    """Another seed draws others; another claim on the same site has the same ones."""
    with running(RunningClaim(key="claim", level=LEVEL, seed=1)):
        other = check_necessary(prose(), Circuit(CARRIES), prompts(count=2), threshold=0.75)
    assert other.evidence[0].controls.values != true.evidence[0].controls.values
    assert other.evidence[0].effect.estimate == true.evidence[0].effect.estimate
    with running(RunningClaim(key="another claim", level=LEVEL)):
        same = check_necessary(prose(), Circuit(CARRIES), prompts(count=2), threshold=0.5)
    assert same.evidence[0].controls.values == true.evidence[0].controls.values


@pytest.mark.parametrize("kind", ["components", "block"])
def test_control_k_does_not_depend_on_order(kind):
    circuit = Circuit("blocks.1.hook_out_proj@last", channels=range(20))
    if kind == "block":
        circuit = find_difference_subspace(
            prose(), "blocks.1.hook_out_proj@last", prompts().discovery, rank=2
        )
    study = prepare_study(prose(), [circuit], prompts(), "logit_difference")
    sets = choose_controls(study, circuit, kind, 0, LEVEL)
    again = choose_controls(study, circuit, kind, 0, LEVEL)
    forward = [sets.draw(number) for number in range(5)]
    backward = [again.draw(number) for number in reversed(range(5))][::-1]
    for ours, theirs in zip(forward, backward, strict=True):
        for one, other in zip(ours.circuits, theirs.circuits, strict=True):
            assert one.sites == other.sites
            assert one.channels == other.channels
            if kind == "block":
                assert one.subspace.basis.equal(other.subspace.basis)


def test_component_controls_have_as_many_channels_of_the_same_hooks():
    circuit = Circuit(CARRIES, channels=range(40))
    study = prepare_study(prose(), [circuit], prompts(), "logit_difference")
    sets = choose_controls(study, circuit, "components", 0, LEVEL)
    for number in range(5):
        drawn = sets.draw(number).circuits
        assert sum(len(one.channels) for one in drawn) == 40
        assert {str(site) for one in drawn for site in one.sites} == {CARRIES, INERT}


def test_other_ablations_are_carried_out():
    found = check_necessary(
        prose(), Circuit(CARRIES), prompts(), level=LEVEL, intervention=ZeroAblation()
    )
    assert found.evidence[0].intervention == found.settings["intervention"] == "zero"
    assert found.evidence[0].effect.estimate != pytest.approx(0.96, abs=1e-3)


def test_channels_of_a_layer_are_a_claim_of_their_own():
    """All channels but a few do nearly what the whole layer does."""
    most = Circuit(CARRIES, channels=range(120))
    found = check_necessary(prose(), most, prompts(), level=LEVEL)
    assert found.settings["channels"] == 120
    assert 0.5 < found.evidence[0].effect.estimate < 1
