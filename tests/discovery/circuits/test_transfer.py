"""Circuits on other tasks, and nodes of other seeds, are compared by what they do."""

import numpy as np
import pytest

from mechtest.discovery.circuits import (
    SeedMatches,
    TransferMatrix,
    greedy_prune,
    match_across_seeds,
    transfer_matrix,
)
from mechtest.discovery.circuits.measuring import Bench
from mechtest.discovery.circuits.nodes import nodes_of
from mechtest.discovery.circuits.seed_matching import _gram
from mechtest.errors import DiscoveryError
from mechtest.interventions import Circuit, ResampleAblation, Runner, read_activations
from mechtest.stats import linear_cka
from mechtest.tasks import logit_difference
from tests.assertions.zoo import prompts, prose
from tests.discovery.circuits.compiled_circuits import FIRST, SECOND, STORES, compiled

SITES = {FIRST: 1.0, SECOND: 1.0}


@pytest.fixture(scope="module")
def slots():
    """The colour in either slot: each is a task, and a direction of the same state."""
    built = compiled("marked_slots", 1.0)
    tasks = {slot: built.prompts.filter(behaviour=slot) for slot in ("first", "second")}
    circuits = {slot: built.row(f"{slot} slot 0, {slot} asked").circuit for slot in tasks}
    return transfer_matrix(
        built.model, {**circuits, "store": Circuit(FIRST)}, tasks, progress=False
    )


def test_each_slot_does_its_own_task_and_the_store_does_both(slots):
    found = [[slots.share(c, t).estimate for t in slots.tasks] for c in slots.circuits]
    assert np.allclose(found, [[1, 0], [0, 1], [1, 1]], atol=5e-3)
    with pytest.raises(DiscoveryError, match="no such cell"):
        slots.share("first", "third")


def test_a_table_comes_back_and_can_be_drawn(slots, tmp_path):
    assert TransferMatrix.load(slots.save(tmp_path / "table.json")) == slots
    slots.plot(tmp_path / "table.png")


@pytest.fixture(scope="module")
def pruned():
    return greedy_prune(prose(), prompts(), STORES, keep=1, progress=False)


@pytest.mark.parametrize("mode", ["restore", "keep"])
def test_other_modes_and_a_role_that_a_task_lacks(mode, pruned):
    tasks = {"city": prompts(), "gender": prompts("gender")}
    circuits = {
        "pruned": pruned,
        "subject": Circuit("blocks.1.state@subject_last"),
    }
    found = transfer_matrix(prose(), circuits, tasks, mode=mode, progress=False)
    assert found.share("pruned", "city").estimate > 0.9
    lacking = found.share("subject", "gender")
    assert lacking.estimate is None
    assert "subject_last" in lacking.reason
    assert found.about.fitted_on & tasks["gender"].discovery.fingerprints


def test_bad_tables_are_refused():
    with pytest.raises(DiscoveryError, match="no mode"):
        transfer_matrix(prose(), {"one": Circuit(FIRST)}, {"city": prompts()}, mode="patch")
    with pytest.raises(DiscoveryError, match="one is no circuit"):
        transfer_matrix(prose(), {"one": 3}, {"city": prompts()}, progress=False)
    with pytest.raises(DiscoveryError, match="circuits and tasks"):
        transfer_matrix(prose(), {}, {"city": prompts()})


@pytest.fixture(scope="module")
def across():
    """IOI sits in layer 0 of seed 0, and in layer 1 of another."""
    return match_across_seeds(
        {seed: prose(seed) for seed in (0, 1)},
        lambda model, half: SITES,
        prompts("ioi"),
        at_least=0.6,
        progress=False,
    )


def test_nodes_are_matched_by_what_they_do_wherever_they_stand(across):
    assert across.effects[0][0] > 0.7 > 0.1 > abs(across.effects[1][0])
    (carries,) = (one for one in across.matches if one.node == FIRST)
    assert carries.match == SECOND
    assert not carries.same_place
    assert carries.matched_effect == across.effects[1][1] > 0.9
    assert across.in_every_seed == (FIRST,)
    assert across.same_place_share == 0.0


def test_matches_come_back_and_can_be_drawn(across, tmp_path):
    assert SeedMatches.load(across.save(tmp_path / "seeds.json")) == across
    across.plot(tmp_path / "seeds.png")
    assert set(across.scores()) == set(SITES)


def test_a_model_matches_itself_and_what_does_nothing_matches_nothing():
    found = match_across_seeds(
        [(0, prose()), (1, prose())], lambda model, half: SITES, prompts(), progress=False
    )
    by_name = {one.node: one for one in found.matches}
    assert by_name[SECOND].same_place
    assert by_name[SECOND].similarity == pytest.approx(1.0, abs=1e-6)
    assert by_name[FIRST].match == ""
    alike = match_across_seeds(
        [(0, prose()), (1, prose())],
        lambda model, half: SITES,
        prompts(),
        by="activations",
        progress=False,
    )
    assert all(one.same_place for one in alike.matches)
    assert min(alike.scores().values()) == pytest.approx(1.0, abs=1e-6)


def test_the_similarity_of_activations_is_linear_cka():
    pairs = prompts().discovery.encode(prose().tokenizer)
    bench = Bench(Runner(prose(), pairs), (), (), ResampleAblation(), logit_difference)
    names = ["blocks.0.hook_out_proj@last", "blocks.1.hook_h@last"]
    nodes = nodes_of(prose(), names)
    rows = [
        next(iter(read_activations(bench.runner, Circuit(name)).values())).flatten(1).numpy()
        for name in names
    ]
    one, other = (_gram(bench, node) for node in nodes)
    similarity = one @ other / (np.linalg.norm(one) * np.linalg.norm(other))
    assert similarity == pytest.approx(linear_cka(*rows), rel=1e-6)


def test_one_seed_and_a_finder_that_finds_nothing_are_refused():
    with pytest.raises(DiscoveryError, match="two seeds"):
        match_across_seeds({0: prose()}, lambda model, half: SITES, prompts(), progress=False)
    with pytest.raises(DiscoveryError, match="no node"):
        match_across_seeds({0: prose()}, lambda model, half: {}, prompts(), progress=False)
    with pytest.raises(DiscoveryError, match="index"):
        match_across_seeds({0: prose()}, lambda model, half: SITES, prompts(), by="index")
