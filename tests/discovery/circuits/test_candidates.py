"""What was built in comes out on top, whatever pointed at it."""

import numpy as np
import pytest

from mechtest.discovery.circuits import CandidateTable, candidates, greedy_prune
from mechtest.discovery.circuits.channel_groups import channel_correlations, channel_groups
from mechtest.errors import DiscoveryError
from mechtest.interventions import Circuit, Runner
from tests.discovery.circuits.compiled_circuits import (
    FIRST,
    SECOND,
    STORES,
    compiled,
    model_and_prompts,
)


@pytest.fixture(scope="module")
def table():
    model, pairs = model_and_prompts("marked_slots", 1.0)
    planted = compiled("marked_slots", 1.0).row("store channels 0").circuit
    nodes = f"{FIRST}#{','.join(map(str, planted.channels))}"
    return candidates(
        model,
        pairs,
        positions=["last"],
        channels=5,
        groups=3,
        given={
            "the truth": planted,
            "the same, by its node": {nodes: 1.0},
            "a ranking": {f"{SECOND}#3": 2.0, f"{SECOND}#4": 1.0},
            "pruned": greedy_prune(model, pairs, STORES, progress=False),
        },
        progress=False,
    )


def test_the_planted_channels_are_found_and_stand_first(table):
    planted = compiled("marked_slots", 1.0).row("store channels 0").circuit
    best = table.rows[0]
    assert best.circuit.channels == planted.channels
    assert best.size == len(planted.channels)
    assert (best.ablated.estimate, best.restored.estimate) == pytest.approx((1, 1), abs=2e-3)
    # Named twice by others, and found one by one.
    assert {"the truth", "the same, by its node", "single channels"} <= set(best.sources)


def test_every_source_is_in_the_table(table):
    sources = {source for row in table.rows for source in row.sources}
    assert {"a ranking", "pruned", "directions of difference", "best 2 of the sweep"} <= sources
    assert any(source.startswith("sweep") for source in sources)
    inert = next(row for row in table.rows if row.sources == ("a ranking",))
    assert inert.worth == pytest.approx(0.0, abs=2e-3)
    worths = [round(row.worth, 2) for row in table.rows]
    assert worths == sorted(worths, reverse=True)


def test_circuits_carry_what_was_looked_at(table):
    for circuit in table.circuits():
        assert circuit.fitted_on == table.about.fitted_on
    assert table.circuit(0).channels == table.rows[0].circuit.channels
    with pytest.raises(DiscoveryError, match="rank=99"):
        table.circuit(99)


def test_scores_put_the_planted_channels_before_all_others(table):
    planted = set(compiled("marked_slots", 1.0).row("store channels 0").circuit.channels)
    single = {name: score for name, score in table.scores().items() if "#" in name}
    best = sorted(single, key=lambda name: -single[name])[: len(planted)]
    assert {int(name.partition("#")[2]) for name in best} == planted


def test_overlapping_circuits_are_merged():
    model, pairs = model_and_prompts("marked_slots", 1.0)
    given = {
        "half": Circuit(FIRST, channels=range(24)),
        "half and one": Circuit(FIRST, channels=range(25)),
        "other": Circuit(FIRST, channels=range(24, 48)),
    }
    options = {"hooks": (), "given": given, "progress": False}
    merged = candidates(model, pairs, overlap=0.8, **options)
    apart = candidates(model, pairs, overlap=1.0, **options)
    assert (len(merged.rows), len(apart.rows)) == (2, 3)
    joined = next(row for row in merged.rows if row.merged)
    assert set(joined.sources) == {"half", "half and one"}


def test_the_table_comes_back_and_can_be_drawn(table, tmp_path):
    back = CandidateTable.load(table.save(tmp_path / "table.json"))
    assert back == table
    assert back.circuit(0).channels == table.circuit(0).channels
    table.plot(tmp_path / "table.png")


def test_channels_that_change_alike_are_one_group():
    model, pairs = model_and_prompts("redundancy")
    runner = Runner(model, pairs.discovery.encode(model.tokenizer))
    alike = channel_correlations(runner, FIRST)
    assert alike.shape == (48, 48)
    assert np.allclose(alike, alike.T)
    assert np.allclose(np.diag(alike), 1.0)
    groups = channel_groups(runner, FIRST, 6)
    members = [channel for group in groups for channel in group]
    assert len(members) == len(set(members))
    for group in groups:
        inside = np.abs(alike[np.ix_(group, group)]).mean()
        rest = [channel for channel in range(48) if channel not in group]
        assert inside > np.abs(alike[np.ix_(group, rest)]).mean()


def test_nothing_to_try_and_what_names_no_place_are_refused():
    model, pairs = model_and_prompts("redundancy")
    with pytest.raises(DiscoveryError, match="nothing to try"):
        candidates(model, pairs, hooks=(), progress=False)
    with pytest.raises(DiscoveryError, match="odd names no place"):
        candidates(model, pairs, hooks=(), given={"odd": 3}, progress=False)
