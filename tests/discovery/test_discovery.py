"""What is looked for is found, on the discovery half only, and remembers what it has seen."""

import pytest
import torch

from mechtest.assertions import check_necessary
from mechtest.discovery import find_channels, find_difference_subspace, map_effects
from mechtest.errors import ClaimInvalid, MetricError, ShapeError, UnknownSiteError
from mechtest.interventions import Circuit, ResampleAblation, Runner
from mechtest.models import HookedMamba
from mechtest.tasks import logit_difference
from tests.assertions.zoo import CARRIES, INERT, LEVEL, prompts, prose

OUTPUT = "blocks.1.hook_out_proj@last"


@pytest.fixture(scope="module")
def planted():
    """A model whose second layer's output has two directions of difference and no others."""
    model = HookedMamba.from_pretrained("fixtures/zoo/prose/seed0/step-02500")
    directions = torch.linalg.qr(torch.randn(64, 2, generator=torch.Generator().manual_seed(0))).Q
    with torch.no_grad():
        weight = model.blocks[1].mixer.out_proj.weight
        weight.copy_(directions @ (directions.T @ weight))
    return model, directions.double()


def test_planted_directions_of_difference_are_found(planted):
    model, directions = planted
    found = find_difference_subspace(model, OUTPUT, prompts().discovery, rank=2)
    basis = found.subspace.basis
    outside = basis - directions @ (directions.T @ basis)
    assert outside.norm() < 1e-3 * basis.norm()
    assert torch.linalg.matrix_rank(basis) == 2


def test_one_direction_is_close_to_the_difference_of_means():
    """Where all pairs differ alike: the number of the same noun."""
    pairs = prompts("gender").discovery.filter(lambda row: row.answer[0] == " he")
    found = find_difference_subspace(prose(), OUTPUT, pairs, rank=1)
    runner = Runner(prose(), pairs.encode(prose().tokenizer))
    seen = runner.model.run_with_cache(
        runner.pairs.clean_tokens, attention_mask=runner.pairs.attention_mask, names_filter=OUTPUT
    )[1]
    twins = runner.model.run_with_cache(
        runner.pairs.corrupted_tokens,
        attention_mask=runner.pairs.attention_mask,
        names_filter=OUTPUT,
    )[1]
    means = (next(iter(seen.values())) - next(iter(twins.values()))).flatten(1).double().mean(0)
    scale = (found.subspace.basis / found.subspace.dual).abs().sqrt().flatten()
    basis = found.subspace.basis.flatten()
    cosine = (basis / scale) @ (means / scale) / (basis / scale).norm() / (means / scale).norm()
    assert abs(cosine) > 0.9


def test_more_directions_carry_more_and_can_be_claimed():
    effects = []
    for rank in (2, 12):
        found = find_difference_subspace(
            prose(), "blocks.1.hook_h@last", prompts().discovery, rank=rank
        )
        record = check_necessary(prose(), found, prompts(), threshold=0.1, level=LEVEL)
        assert record.verdict != "invalid", record.reason
        effects.append(record.evidence[0].effect.estimate)
    assert 0 < effects[0] < effects[1]


FINDERS = {
    "subspace": lambda pairs: find_difference_subspace(prose(), OUTPUT, pairs, rank=2),
    "channels": lambda pairs: find_channels(prose(), OUTPUT, pairs, count=4),
    "map": lambda pairs: map_effects(prose(), pairs, positions=["last"]),
}


@pytest.mark.parametrize("half", ["test", "whole"])
@pytest.mark.parametrize("find", FINDERS.values(), ids=FINDERS.keys())
def test_only_the_discovery_half_is_looked_at(find, half):
    pairs = prompts().test if half == "test" else prompts()
    with pytest.raises(ClaimInvalid, match="discovery half"):
        find(pairs)


@pytest.mark.parametrize("name", ["subspace", "channels"])
def test_what_was_found_remembers_the_prompts_it_was_found_on(name):
    found = FINDERS[name](prompts().discovery)
    seen = found.fitted_on
    assert seen.texts == prompts().discovery.fingerprints.texts
    assert seen.clusters == prompts().discovery.fingerprints.clusters
    assert len(seen.tokens) > 0
    assert not seen & prompts().test.fingerprints


def test_what_was_found_on_one_split_cannot_be_tested_on_another():
    """Another salt deals the templates out anew."""
    discovery, _ = prompts().split("another salt")
    found = find_channels(prose(), OUTPUT, discovery, count=4)
    record = check_necessary(prose(), found, prompts(), level=LEVEL)
    assert (record.verdict, record.binding) == ("invalid", "MT703")
    assert "circular" in record.reason


def test_channels_that_matter_are_found(planted):
    """The residual stream's channels that the unembedding reads and nothing else moves."""
    model = HookedMamba.from_pretrained("fixtures/zoo/prose/seed0/step-02500")
    kept = [3, 17, 40]
    with torch.no_grad():
        weight = model.blocks[1].mixer.out_proj.weight
        mask = torch.zeros(64, 1)
        mask[kept] = 1
        weight.mul_(mask)
    found = find_channels(model, OUTPUT, prompts().discovery, count=3)
    assert found.channels == tuple(kept)


def test_found_channels_are_those_with_the_largest_single_effects():
    found = find_channels(prose(), OUTPUT, prompts().discovery, count=5)
    runner = Runner(prose(), prompts().discovery.encode(prose().tokenizer))
    clean = logit_difference(runner.logits("clean"), runner.pairs)
    single = [
        float(
            (
                clean
                - logit_difference(
                    runner.run(Circuit(OUTPUT, channels=[k]), ResampleAblation()).logits,
                    runner.pairs,
                )
            ).mean()
        )
        for k in range(64)
    ]
    assert set(found.channels) == set(sorted(range(64), key=lambda k: -single[k])[:5])


@pytest.mark.parametrize("count", [0, 64, 65, -1])
def test_a_number_of_channels_the_site_does_not_have(count):
    with pytest.raises(ShapeError, match="64 channels"):
        find_channels(prose(), OUTPUT, prompts().discovery, count=count)


@pytest.mark.parametrize("rank", [0, 25, 64, -1])
def test_a_rank_the_differences_do_not_have(rank):
    with pytest.raises(ShapeError, match="directions"):
        find_difference_subspace(prose(), OUTPUT, prompts().discovery, rank=rank)


def test_a_state_site_is_two_hooks_and_has_no_subspace():
    with pytest.raises(ShapeError, match="one hook"):
        find_difference_subspace(prose(), CARRIES, prompts().discovery, rank=2)


def test_places_that_do_not_exist():
    with pytest.raises(UnknownSiteError):
        find_channels(prose(), "blocks.5.hook_y@last", prompts().discovery, count=2)


# --- maps --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table():
    pairs = prompts().discovery
    return map_effects(prose(), pairs, positions=["subject_first-1", "subject_last", "last"])


def test_a_map_has_no_number_before_the_first_difference(table):
    assert table.rows == ("layer 0", "layer 1")
    assert table.columns == ("subject_first-1", "subject_last", "last")
    assert [row[0] for row in table.values] == [None, None]
    assert all(value is not None for row in table.values for value in row[1:])
    assert table.values[0][2] == pytest.approx(0, abs=0.03)
    assert table.values[1][2] == pytest.approx(0.96, abs=0.05)


def test_columns_bear_the_words_of_the_first_prompt(table):
    first = prompts().discovery.rows[0]
    words = first.clean.split()
    assert len(table.tokens) == 3
    assert table.tokens[2] == words[-1]
    assert table.tokens[1] in words
    assert words.index(table.tokens[1]) > words.index(table.tokens[0])


def test_a_map_holds_what_single_runs_give(table):
    runner = Runner(prose(), prompts().discovery.encode(prose().tokenizer))
    clean, corrupted = (
        logit_difference(runner.logits(run), runner.pairs) for run in ("clean", "corrupted")
    )
    for layer, row in enumerate(table.values):
        for place, value in zip(table.columns[1:], row[1:], strict=True):
            run = runner.run(Circuit(f"blocks.{layer}.state@{place}"), ResampleAblation())
            moved = (clean - logit_difference(run.logits, runner.pairs)).mean()
            assert value == pytest.approx(float(moved / (clean - corrupted).mean()), abs=1e-5)


def test_a_map_takes_the_roles_every_prompt_has():
    found = map_effects(prose(), prompts().discovery, "hook_out_proj")
    assert found.columns == ("subject_first", "subject_last", "last")
    assert "resample of hook_out_proj, 24 discovery prompts" in found.title


def test_a_map_of_no_behaviour_is_refused():
    """Equal scores of both runs: every share would be a division by zero."""

    class Nothing:
        name, unit, sign = "nothing", "logits", "none"

        def __call__(self, logits, encoded, *, position=None, reference=None):
            return torch.zeros(len(logits))

    with pytest.raises(MetricError, match="no behaviour to take shares of"):
        map_effects(prose(), prompts().discovery, metric=Nothing(), positions=["last"])


def test_layers_claims_and_maps_tell_the_same_story():
    found = map_effects(prose(), prompts().discovery, positions=["last"])
    inert, carries = (row[0] for row in found.values)
    assert abs(inert) < 0.05 < 0.9 < carries
    record = check_necessary(prose(), Circuit(INERT), prompts(), level=LEVEL)
    assert record.evidence[0].effect.estimate == pytest.approx(inert, abs=0.05)
