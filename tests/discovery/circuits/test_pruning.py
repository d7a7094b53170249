"""Pruning finds the nodes that were built in, and says less where it cannot see more."""

import pytest

from mechtest.discovery.circuits import (
    acdc_prune,
    evaluate_circuit,
    greedy_prune,
    minimal_circuits,
)
from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import ClaimInvalid, DiscoveryError, MetricError
from tests.assertions.zoo import prompts, prose
from tests.discovery.circuits.compiled_circuits import (
    FIRST,
    SECOND,
    STORES,
    THIRD,
    compiled,
    model_and_prompts,
)


@pytest.mark.parametrize("mode", ["ablate-one", "one-pass"])
@pytest.mark.parametrize(
    ("family", "share", "planted"),
    [
        ("conjunction", 1.0, {FIRST, SECOND}),
        ("marked_slots", 0.75, {FIRST, SECOND}),
        ("redundancy", 1.0, {FIRST}),  # either will do: the other one is what greedy misses
    ],
)
def test_pruning_keeps_the_planted_nodes_and_no_other(family, share, planted, mode):
    model, pairs = model_and_prompts(family, share)
    found = greedy_prune(model, pairs, STORES, mode=mode, progress=False)
    assert set(found.kept) == planted
    assert found.share.estimate == pytest.approx(1.0, abs=2e-3)
    assert {name for name, score in found.scores().items() if score > 1} == planted
    assert set(map(str, found.circuit().sites)) == planted
    assert found.circuit().fitted_on == found.about.fitted_on


def test_adding_one_by_one_is_blind_to_two_that_are_needed_together():
    model, pairs = model_and_prompts("conjunction")
    found = greedy_prune(model, pairs, STORES, mode="add-one", keep=1, progress=False)
    assert found.share.estimate == pytest.approx(0.0, abs=2e-3)
    whole = greedy_prune(model, pairs, STORES, mode="add-one", progress=False)
    assert {FIRST, SECOND} <= set(whole.kept)


def test_the_planted_channels_are_found_among_all_channels_of_the_stores():
    built = compiled("marked_slots", 1.0)
    model, pairs = model_and_prompts("marked_slots", 1.0)
    planted = set(built.row("store channels 0").circuit.channels)
    names = [f"{FIRST}#{channel}" for channel in range(model.cfg.E)]
    found = greedy_prune(model, pairs, names, mode="one-pass", tolerance=0.02, progress=False)
    kept = set(found.circuit().channels)
    # A colour that no discovery prompt stores leaves nothing to see of its channel.
    assert kept <= planted
    assert len(kept) >= 4
    assert found.share.estimate == pytest.approx(1.0, abs=0.021)


@pytest.mark.parametrize(
    ("family", "planted"),
    [("conjunction", {FIRST, SECOND}), ("redundancy", {FIRST})],
)
@pytest.mark.parametrize("metric", ["kl_divergence", "logit_difference"])
def test_a_threshold_keeps_the_planted_nodes(family, planted, metric):
    model, pairs = model_and_prompts(family)
    found = acdc_prune(model, pairs, STORES, tau=0.1, metric=metric, progress=False)
    assert set(found.kept) == planted
    # From the last layer to the first: of two backups, the later one goes.
    assert [step.node for step in found.steps] == [THIRD, SECOND, FIRST]


def test_a_divergence_saturates_and_a_threshold_on_it_then_drops_a_real_part():
    model, pairs = model_and_prompts("marked_slots", 0.75)
    by_kl = acdc_prune(model, pairs, STORES, tau=0.1, progress=False)
    by_logits = acdc_prune(model, pairs, STORES, tau=0.1, metric="logit_difference", progress=False)
    assert set(by_kl.kept) == {FIRST}
    assert set(by_logits.kept) == {FIRST, SECOND}


def test_where_either_will_do_both_circuits_are_found():
    model, pairs = model_and_prompts("redundancy")
    found = minimal_circuits(model, pairs, STORES, progress=False)
    assert [one.nodes for one in found.found] == [(FIRST,), (SECOND,)]
    assert found.complete
    assert found.in_all == ()
    assert found.scores() == {FIRST: 0.5, SECOND: 0.5, THIRD: 0.0}
    assert len(found.circuits()) == 2


def test_where_both_are_needed_there_is_one_circuit():
    model, pairs = model_and_prompts("conjunction")
    found = minimal_circuits(model, pairs, STORES, progress=False)
    assert [one.nodes for one in found.found] == [(FIRST, SECOND)]
    assert found.in_all == (FIRST, SECOND)
    cut_off = minimal_circuits(model, pairs, STORES, searches=1, progress=False)
    assert not cut_off.complete


def test_a_circuit_without_its_backup_is_faithful_and_not_complete():
    model, pairs = model_and_prompts("redundancy")
    half = evaluate_circuit(model, pairs, FIRST, progress=False)
    assert half.faithfulness.estimate == pytest.approx(1.0, abs=2e-3)
    assert half.incompleteness == pytest.approx(1.0, abs=2e-3)
    assert half.knocked_out[0].difference == pytest.approx(1.0, abs=2e-3)
    whole = evaluate_circuit(model, pairs, [FIRST, SECOND], progress=False)
    assert whole.incompleteness == pytest.approx(0.0, abs=2e-3)
    # Each counts, though leaving it out alone loses nothing: with the other out too it is all.
    assert whole.scores() == pytest.approx({FIRST: 1.0, SECOND: 1.0}, abs=2e-3)
    assert all(one.without for one in whole.worth)


def test_a_node_that_does_nothing_is_worth_nothing():
    model, pairs = model_and_prompts("conjunction")
    found = evaluate_circuit(model, pairs, STORES, progress=False)
    assert found.worth[0].node == THIRD
    assert found.least_worth == pytest.approx(0.0, abs=2e-3)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mode": "both"}, "no mode"),
        ({"keep": 4}, "keep=4"),
        ({"outside": "leave"}, "ablated or kept"),
    ],
)
def test_bad_requests_are_refused(options, why):
    model, pairs = model_and_prompts("conjunction")
    with pytest.raises(DiscoveryError, match=why):
        greedy_prune(model, pairs, STORES, **options)


def test_nothing_to_lose_is_no_circuit():
    model, pairs = model_and_prompts("conjunction")
    with pytest.raises(MetricError, match="loses nothing"):
        greedy_prune(model, pairs, THIRD, outside="keep", progress=False)


def test_the_test_half_is_refused():
    with pytest.raises(ClaimInvalid, match="discovery half"):
        greedy_prune(prose(), prompts().test, STORES)


def test_records_come_back_equal_and_can_be_drawn(tmp_path):
    model, pairs = model_and_prompts("redundancy")
    records = [
        greedy_prune(model, pairs, STORES, progress=False),
        minimal_circuits(model, pairs, STORES, progress=False),
        evaluate_circuit(model, pairs, [FIRST, SECOND], progress=False),
    ]
    for number, record in enumerate(records):
        back = DiscoveryRecord.load(record.save(tmp_path / f"{number}.json"))
        assert back == record
        assert back.lines() == record.lines()
        figure = record.plot(tmp_path / "one.png" if number == 0 else None)
        assert figure.axes[0].get_title(loc="left")
    assert (tmp_path / "one.png").stat().st_size > 1000


def test_the_share_is_what_a_claim_in_mode_keep_says():
    from mechtest.assertions.question import Question
    from mechtest.assertions.study import Study
    from mechtest.interventions import Circuit, ResampleAblation, Runner
    from mechtest.stats import cluster_effect

    pairs = prompts()
    found = greedy_prune(prose(), pairs, STORES, keep=1, progress=False)
    study = Study.__new__(Study)
    study.model, study.metric = prose(), __import__("mechtest").logit_difference
    study.runner = Runner(prose(), pairs.discovery.encode(prose().tokenizer))
    circuit = Circuit(*found.kept)
    asked = Question(study, "keep", ResampleAblation(), circuit).measure([circuit])
    effect = cluster_effect(asked.moved_part, asked.behaviour, study.labels)
    assert found.share.estimate == pytest.approx(effect.estimate, abs=1e-6)
