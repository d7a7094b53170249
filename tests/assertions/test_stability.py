"""A claim over seeds is as good as its worst seed, and says how many seeds that is."""

import dataclasses

import pytest

from mechtest.assertions import (
    assert_not_necessary,
    assert_stable_across_seeds,
    assert_sufficient,
    best_of,
    check_necessary,
    check_stable_across_seeds,
    stability,
)
from mechtest.discovery import find_channels
from mechtest.errors import ClaimRefuted
from mechtest.interventions import Circuit
from mechtest.records import ClaimRecord, Guard
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, LEVEL, prompts, prose

IN_LAYER_0 = "blocks.0.state@last"
"""Where names are kept in seed 0; seed 1 keeps them in layer 1."""


def seeds(*numbers):
    return {number: prose(number) for number in numbers}


def check(members, circuit, pairs=None, **options):
    pairs = prompts(templates=8) if pairs is None else pairs
    return check_stable_across_seeds(members, circuit, pairs, **{"level": LEVEL, **options})


@pytest.fixture(scope="module")
def everywhere():
    """Layer 1's state carries the city in every seed."""
    return check(seeds(0, 1, 2, 3, 4), Circuit(CARRIES), threshold=0.5)


def test_supported_in_every_seed_is_supported_with_its_exact_bound(everywhere):
    assert (everywhere.verdict, everywhere.binding) == ("supported", "seeds")
    assert [item.label for item in everywhere.evidence] == [f"seed {k}" for k in range(5)]
    assert "more than 55% of seeds" in everywhere.notes[0]
    assert "supported in 5 of 5 seeds" in everywhere.notes[0]
    assert everywhere.p == max(item.p for item in everywhere.evidence) <= LEVEL
    assert len({item.model.weights for item in everywhere.evidence}) == 5
    assert everywhere.settings["of"] == "necessity"
    assert everywhere.settings["seeds"] == [0, 1, 2, 3, 4]
    assert ClaimRecord.from_json(everywhere.to_json()) == everywhere


def test_every_seed_draws_controls_of_its_own(everywhere):
    drawn = [item.controls.values for item in everywhere.evidence]
    assert len(set(drawn)) == 5


def test_the_rate_of_refuting_is_shared_by_the_seeds(monkeypatch):
    """Each of two seeds gets half of it, in either mode."""
    rates = []
    begin = stability.begin

    def noted(study, terms, claim, *, label):
        rates.append(terms.refutation)
        return begin(study, terms, claim, label=label)

    monkeypatch.setattr(stability, "begin", noted)
    check(seeds(0, 1), Circuit(CARRIES), threshold=0.5)
    check(seeds(0, 1), Circuit(CARRIES), threshold=0.5, target="mean", assume_normal_seeds=True)
    assert rates == [0.025] * 4


def test_one_seed_that_refutes_refutes_all_and_spares_the_controls():
    members = seeds(0, 1)
    with pytest.raises(ClaimRefuted, match="is refuted") as raised:
        assert_stable_across_seeds(
            members, Circuit(IN_LAYER_0), prompts("ioi", templates=8), level=LEVEL
        )
    record = raised.value.record
    assert (record.verdict, record.binding) == ("refuted", "seed 1 effect")
    assert "refuted in seed 1" in record.reason
    assert [item.verdict for item in record.evidence] == ["inconclusive", "refuted"]
    assert all(item.controls is None for item in record.evidence)
    assert record.evidence[0].effect.estimate > 0.7
    assert "supported in 0 of 2 seeds" in record.notes[0]


def test_a_seed_that_does_not_decide_leaves_it_open():
    """A threshold beside one seed's effect."""
    members = seeds(0, 1)
    pairs = prompts(templates=8)
    effects = [
        check_necessary(model, Circuit(CARRIES), pairs, level=LEVEL).evidence[0].effect.estimate
        for model in members.values()
    ]
    low = min(effects)
    found = check(members, Circuit(CARRIES), threshold=low)
    assert found.verdict == "inconclusive"
    assert found.binding == f"seed {effects.index(low)} effect"
    assert found.settle


def test_each_seed_can_have_a_circuit_of_its_own():
    asked = []

    def find(model, discovery):
        asked.append(discovery.side)
        layer = 0 if model is prose(0) else 1
        circuit = Circuit(f"blocks.{layer}.state@last")
        object.__setattr__(circuit, "fitted_on", discovery.fingerprints)
        return circuit

    found = check(seeds(0, 1), find, prompts("ioi", templates=8))
    assert found.verdict == "supported", found.reason
    assert asked == ["discovery", "discovery"]
    assert [item.circuit for item in found.evidence] == [(INERT,), (CARRIES,)]
    assert found.settings["origin"] == "found on discovery prompts"


def test_a_circuit_found_by_the_library_is_not_circular():
    def find(model, discovery):
        return find_channels(model, "blocks.1.hook_resid_pre@last", discovery, count=40)

    found = check(seeds(0, 1), find, using=assert_not_necessary, threshold=0.5)
    assert found.verdict == "supported", found.reason
    assert found.settings["of"] == "absence"
    assert found.settings["channels"] == 40


def test_other_assertions_over_seeds():
    found = check(seeds(0, 1), Circuit(CARRIES), using=assert_sufficient, threshold=0.5,
                  sufficiency_mode="keep")  # fmt: skip
    assert found.verdict == "supported", found.reason
    assert found.settings["mode"] == "keep"


def test_a_seed_that_cannot_be_tested_is_named():
    members = {0: prose(0), 7: prose(1, "step-00250")}
    found = check(members, Circuit(IN_LAYER_0), prompts("ioi", templates=8))
    assert (found.verdict, found.binding) == ("invalid", "MT705")
    assert "seed 7: behaviour absent" in found.reason


# --- the mean ----------------------------------------------------------------------------------


def test_a_mean_over_seeds_by_sign_flips():
    found = check(seeds(0, 1, 2), Circuit(CARRIES), target="mean", threshold=0.5)
    assert (found.verdict, found.binding) == ("supported", "mean over seeds")
    guard = found.evidence[0].guards[-1]
    assert (guard.name, guard.p) == ("mean over seeds", 0.125)
    assert found.p == max(guard.p, *(item.controls.p for item in found.evidence)) <= LEVEL
    assert all(item.p_effect is None for item in found.evidence)
    assert "conditional on the prompts" in found.notes[0]
    assert ClaimRecord.from_json(found.to_json()) == found


def test_a_mean_over_seeds_that_are_assumed_normal_says_so():
    found = check(seeds(0, 1), Circuit(CARRIES), target="mean", threshold=0.5,
                  assume_normal_seeds=True)  # fmt: skip
    assert found.verdict == "supported", found.reason
    assert "assumes that effects of seeds are normally distributed" in found.notes[0]
    assert found.settings["assume_normal_seeds"] is True


def test_seeds_that_disagree_leave_the_mean_open():
    """Effects of .8 and 0: no mean is shown by two seeds."""
    found = check(seeds(0, 1), Circuit(IN_LAYER_0), prompts("ioi", templates=8), target="mean",
                  threshold=0.1, assume_normal_seeds=True)  # fmt: skip
    assert found.verdict in ("inconclusive", "refuted")
    assert all(item.controls is not None for item in found.evidence)


def test_a_mean_asks_the_controls_of_every_seed():
    """Also of one whose own effect would have refuted: its controls were not drawn before."""
    found = check(seeds(0, 1), Circuit(IN_LAYER_0), prompts("ioi", templates=8), target="mean",
                  threshold=0.01, assume_normal_seeds=True, level=0.4)  # fmt: skip
    assert found.evidence[1].effect.estimate < 0.01
    assert found.evidence[1].controls is not None
    assert found.verdict != "supported"
    assert found.binding == "seed 1 controls"


def test_a_mean_asks_the_guards_of_every_seed(monkeypatch):
    """One seed with an illusion keeps the mean from being supported."""
    begin = stability.begin

    def spoilt(study, terms, claim, *, label):
        begun = begin(study, terms, claim, label=label)
        if label != "seed 1":
            return begun
        broken = Guard("illusion", passed=False, detail="an illusion")
        return dataclasses.replace(begun, guards=(*begun.guards, broken))

    monkeypatch.setattr(stability, "begin", spoilt)
    found = check(seeds(0, 1), Circuit(CARRIES), target="mean", threshold=0.5,
                  assume_normal_seeds=True)  # fmt: skip
    assert (found.verdict, found.binding) == ("refuted", "seed 1 illusion")
    assert "seed 1: an illusion" in found.reason


def test_a_mean_below_the_threshold_is_refuted():
    found = check(seeds(0, 1, 2), Circuit(IN_LAYER_0), target="mean", threshold=0.5)
    assert (found.verdict, found.binding) == ("refuted", "mean over seeds")
    assert "is below 0.5" in found.reason


# --- the next seed -----------------------------------------------------------------------------


def alike(numbers, circuit=CARRIES, **options):
    asking = {"target": "stable", "margin": 0.3, **options}
    return check(seeds(*numbers), Circuit(circuit), **asking)


def test_five_seeds_that_agree_are_stable_within_a_margin():
    found = alike(range(5))
    assert (found.verdict, found.binding) == ("supported", "spread of seeds")
    assert "the next seed is expected in" in found.reason
    assert [item.verdict for item in found.evidence] == ["supported"] * 5
    assert all(item.controls is None and item.threshold is None for item in found.evidence)
    assert found.p == found.evidence[0].guards[-1].p <= LEVEL
    assert found.settings["margin"] == 0.3
    assert found.settings["threshold"] is None
    assert ClaimRecord.from_json(found.to_json()) == found


def test_from_five_seeds_on_the_record_says_how_much_they_differ(everywhere):
    assert any("I2" in note for note in everywhere.notes)
    assert not any("I2" in note for note in alike((0, 1, 2)).notes)


def test_three_seeds_do_not_settle_it_and_say_what_would():
    """Effects of .95, 1 and .9 or so, and a margin of a tenth of that."""
    found = alike((0, 1, 2), margin=0.05, level=0.05)
    assert (found.verdict, found.binding) == ("inconclusive", "spread of seeds")
    assert "seeds" in found.settle
    assert "not shown to lie within 0.05" in found.reason


def test_seeds_that_keep_it_in_different_layers_are_not_stable():
    found = alike((0, 1, 2, 3, 4), IN_LAYER_0, margin=0.01, pairs=prompts("ioi", templates=8))
    assert (found.verdict, found.binding) == ("refuted", "spread of seeds")


def test_a_seed_whose_guards_fail_is_not_alike(monkeypatch):
    begin = stability.begin

    def spoilt(study, terms, claim, *, label):
        begun = begin(study, terms, claim, label=label)
        broken = Guard("illusion", passed=False, detail="an illusion")
        return dataclasses.replace(begun, guards=(*begun.guards, broken))

    monkeypatch.setattr(stability, "begin", spoilt)
    found = alike((0, 1))
    assert (found.verdict, found.binding) == ("refuted", "seed 0 illusion")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"margin": None}, "which needs one"),
        ({"target": "all"}, "which needs one"),
        ({"margin": 0.0}, "above 0"),
        ({"margin": float("nan")}, "above 0"),
        ({"ablations": ("resample", "zero")}, "hold the effect against a threshold"),
    ],
)
def test_a_margin_that_cannot_be_is_invalid(options, text):
    found = alike((0, 1), **options)
    assert found.verdict == "invalid"
    assert text in found.reason


# --- plans -------------------------------------------------------------------------------------


def test_a_plan_counts_all_seeds_and_tells_what_they_cannot_reach():
    with running(RunningClaim(id="t.py::t", planning=True, level=0.05)) as claim:
        check(seeds(0, 1), Circuit(CARRIES), target="mean", level=None)
        check(seeds(0, 1), Circuit(CARRIES), level=None)
    first, second = claim.plans
    assert not first["attainable"]
    assert "2 seeds can never have" in first["problem"]
    assert second["attainable"]
    assert second["seeds"] == 2
    assert second["forward_passes"] % 2 == 0
    assert claim.forward_passes == 0


@pytest.fixture(scope="module")
def some_layer():
    """The name is kept in one layer or the other, depending on the seed."""
    layers = best_of([Circuit(IN_LAYER_0), Circuit("blocks.1.state@last")])
    pairs = prompts("ioi", templates=8)
    return check(seeds(0, 1), layers, pairs, threshold=0.5)


def test_what_no_place_does_in_every_seed_some_place_does(some_layer):
    pairs = prompts("ioi", templates=8)
    for site in (IN_LAYER_0, "blocks.1.state@last"):
        alone = check(seeds(0, 1), Circuit(site), pairs, threshold=0.5)
        assert alone.verdict == "refuted"
    assert some_layer.verdict == "supported"
    places = [item.circuit for item in some_layer.evidence]
    assert places == [(IN_LAYER_0,), ("blocks.1.state@last",)]
    assert "blocks.0.state@last in seed 0; blocks.1.state@last in seed 1" in some_layer.notes[-1]
    assert [item.label for item in some_layer.evidence] == ["seed 0", "seed 1"]
    assert ClaimRecord.from_json(some_layer.to_json()) == some_layer


def test_each_seed_pays_for_its_choice(some_layer):
    """The p value is that of the largest of two, and so is every control."""
    assert len(some_layer.settings["candidates"]) == 2
    for item in some_layer.evidence:
        assert "max-T" in item.method
        assert "as the best of 2" in item.assumptions[-1]
        assert item.controls.drawn >= 12
    by_seed = check_necessary(
        prose(0), best_of([Circuit(IN_LAYER_0), Circuit("blocks.1.state@last")]),
        prompts("ioi", templates=8), threshold=0.5, level=LEVEL,
    )  # fmt: skip
    assert by_seed.evidence[0].effect.estimate == some_layer.evidence[0].effect.estimate


def test_none_of_several_places_is_refuted():
    inert = best_of([Circuit("blocks.0.hook_skip@-3"), Circuit(INERT)])
    found = check(seeds(0, 1), inert, threshold=0.5)
    assert found.verdict == "refuted"
    assert "seed 0" in found.reason


@pytest.mark.parametrize("options", [{"target": "mean"}, {"ablations": ("resample", "zero")}])
def test_candidates_are_for_every_seed_under_one_ablation(options):
    layers = best_of([Circuit(IN_LAYER_0), Circuit("blocks.1.state@last")])
    found = check(seeds(0, 1), layers, **options)
    assert found.verdict == "invalid"
    assert "claimed in every seed" in found.reason


def test_a_plan_of_candidates_counts_all_of_them():
    claim = RunningClaim(key="t.py::t", level=LEVEL, planning=True)
    layers = best_of([Circuit(IN_LAYER_0), Circuit("blocks.1.state@last")])
    with running(claim):
        check_stable_across_seeds(seeds(0, 1), layers, prompts("ioi", templates=8))
    (plan,) = claim.plans
    assert plan["attainable"]
    assert plan["seeds"] == 2
    assert plan["settings"]["across"] == "all"
    assert len(plan["settings"]["candidates"]) == 2
