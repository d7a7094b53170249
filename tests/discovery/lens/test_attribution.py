"""The parts of the logit difference sum to it, and each is what it says."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.compiled import FAMILIES
from mechtest.assertions import check_necessary
from mechtest.checkpoints import MambaCfg
from mechtest.discovery.lens import LogitAttribution, direct_logit_attribution
from mechtest.discovery.lens import attribution as attribution_module
from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import ClaimInvalid, ShapeError
from mechtest.models import HookedMamba
from mechtest.tasks import logit_difference
from mechtest.tasks.answers import AnswerIds
from tests.assertions.zoo import LEVEL, prompts, prose

BYS = ["layer", "branch", "channel", "state"]


@pytest.fixture(scope="module")
def pairs():
    return prompts(count=1).discovery.encode(prose().tokenizer)


@pytest.fixture(scope="module")
def by_layer(pairs):
    return direct_logit_attribution(prose(), pairs)


def of(by, pairs, **more):
    return direct_logit_attribution(prose(), pairs, by=by, **more)


def differences(model, pairs, run="clean"):
    tokens = pairs.clean_tokens if run == "clean" else pairs.corrupted_tokens
    with torch.no_grad():
        logits = model(tokens, attention_mask=pairs.attention_mask)
    return logit_difference(logits, pairs).double().numpy()


@pytest.mark.parametrize(
    ("by", "run"),
    [("layer", "difference"), ("branch", "clean"), ("channel", "clean"), ("state", "difference")],
)
def test_the_parts_sum_to_the_logit_difference(by, run, pairs):
    found = of(by, pairs, run=run)
    expected = differences(prose(), pairs)
    if run == "difference":
        expected = expected - differences(prose(), pairs, "corrupted")
    np.testing.assert_allclose(found.total, expected, atol=1e-4)
    summed = np.nansum(found.map.values, axis=(0, 1)) + found.rest
    np.testing.assert_allclose(summed, expected, rtol=1e-4, atol=1e-4)
    assert found.error < 1e-5
    if by in ("layer", "branch"):
        assert not found.rest.any()


@settings(max_examples=6, deadline=None, database=None)
@given(
    st.integers(0, 99), st.integers(1, 3), st.booleans(), st.booleans(), st.sampled_from(BYS),
    st.sampled_from(["frozen", "mean"]),
)  # fmt: skip
def test_random_models_too_biases_included(pairs, seed, n_layer, bias, tied, by, gate):
    cfg = MambaCfg(
        d_model=8, n_layer=n_layer, vocab_size=804, d_state=3, bias=bias, tie_embeddings=tied,
        pad_vocab_size_multiple=1,
    )  # fmt: skip
    model = HookedMamba(cfg, tokenizer=prose().tokenizer, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in model.parameters():
            part.add_(0.3 * torch.randn(part.shape, generator=generator))
    few = pairs[:4]
    found = direct_logit_attribution(
        model, few, by=by, gate=gate if by == "branch" else "frozen", progress=False
    )
    np.testing.assert_allclose(found.total, differences(model, few), rtol=1e-4, atol=1e-4)
    assert found.error < 1e-4
    columns = [one for one in found.map.columns if one == "bias"]
    assert bool(columns) == (bias and by == "branch")


def test_each_layer_adds_what_it_writes_through_the_frozen_norm(by_layer, pairs):
    """Taking one block's output out of the last stream, the divisor held, takes its share out."""
    model = prose()
    end = "blocks.1.hook_resid_post"
    names = ["blocks.0.hook_out_proj", "blocks.1.hook_out_proj", end]
    _, cache = model.run_with_cache(
        pairs.clean_tokens, attention_mask=pairs.attention_mask, names_filter=names
    )
    final = cache[end][:, -1]
    divisor = (final.pow(2).mean(1, keepdim=True) + model.cfg.norm_eps).sqrt()
    for row, name in enumerate(names[:2], start=1):
        without = (final - cache[name][:, -1]) / divisor * model.norm.weight
        rest = logit_difference((without @ model.lm_head.weight.T).detach(), pairs).double()
        np.testing.assert_allclose(
            by_layer.map.values[row, 0], by_layer.total - rest.numpy(), atol=1e-3
        )


def test_finer_parts_sum_to_coarser_ones(by_layer, pairs):
    branches, channels = of("branch", pairs), of("channel", pairs)
    steady = of("branch", pairs, gate="mean")
    assert steady.map.columns == ("embedding", "SSM", "D skip", "gate")
    layers = by_layer.map.values[1:, 0]
    np.testing.assert_allclose(np.nansum(branches.map.values, 1)[1:], layers, atol=1e-4)
    np.testing.assert_allclose(np.nansum(steady.map.values, 1)[1:], layers, atol=1e-4)
    np.testing.assert_allclose(channels.map.values.sum(1), layers, atol=1e-4)
    states = of("state", pairs, channels={1: [3, 5]})
    assert states.map.rows == ("layer 1 #3", "layer 1 #5")
    every = of("state", pairs, channels={1: range(128)})
    np.testing.assert_allclose(
        every.map.values.sum((0, 1)), branches.map.values[2, 1], rtol=1e-4, atol=1e-3
    )
    np.testing.assert_array_equal(states.map.values, every.map.values[[3, 5]])


def test_the_gate_at_its_mean_is_the_mean_over_prompts(pairs):
    model = prose()
    names = ["blocks.1.hook_y", "blocks.1.hook_skip", "blocks.1.hook_resid_post"]
    _, cache = model.run_with_cache(
        pairs.clean_tokens, attention_mask=pairs.attention_mask, names_filter=names
    )
    y, skip, final = (cache[name][:, -1].double() for name in names)
    gate = F.silu(skip).mean(0)
    out = (y * gate) @ model.blocks[1].mixer.out_proj.weight.detach().double().T
    divisor = (final.pow(2).mean(1, keepdim=True) + model.cfg.norm_eps).sqrt()
    normed = out / divisor * model.norm.weight.detach().double()
    expected = logit_difference(normed @ model.lm_head.weight.detach().double().T, pairs)
    found = of("branch", pairs, gate="mean")
    np.testing.assert_allclose(found.map.values[2, 1], expected, rtol=1e-4, atol=1e-4)


def test_sets_of_answers_are_taken_at_their_mean_logit(pairs):
    answers = AnswerIds.of([[5, 9], [7], [3, 4]], [[6], [8, 11, 12], [2]], pairs.ids[:3])
    few = dataclasses.replace(pairs[:3], answers=answers)
    found = direct_logit_attribution(prose(), few)
    with torch.no_grad():
        logits = prose()(few.clean_tokens, attention_mask=few.attention_mask)[:, -1]
    for row, (right, wrong) in enumerate(zip(answers.answer_ids, answers.foil_ids, strict=True)):
        expected = logits[row, right[right >= 0]].mean() - logits[row, wrong[wrong >= 0]].mean()
        assert found.total[row] == pytest.approx(float(expected), abs=1e-4)
    assert found.error < 1e-5


def test_batches_change_nothing(by_layer, pairs, monkeypatch):
    monkeypatch.setattr("mechtest.discovery.lens.residuals.MEMORY", 2**20)
    small = of("layer", pairs)
    np.testing.assert_allclose(small.map.values, by_layer.map.values, rtol=1e-4, atol=1e-4)


def test_scores_and_circuits_name_what_claims_can_test(by_layer, pairs):
    scores = by_layer.scores()
    assert list(scores) == [
        "hook_embed@last", "blocks.0.hook_out_proj@last", "blocks.1.hook_out_proj@last",
    ]  # fmt: skip
    mean = by_layer.map.mean()
    assert scores["blocks.0.hook_out_proj@last"] == pytest.approx(abs(mean[1, 0]))
    channels = of("channel", pairs, run="difference")
    assert len(channels.scores()) == 2 * 128
    assert "blocks.1.hook_after_skip@last#17" in channels.scores()
    found = channels.circuit(24)
    assert str(found.sites[0]) == "blocks.1.hook_after_skip@last"
    assert len(found.channels) == 24
    record = check_necessary(prose(), found, prompts(), threshold=0.2, level=LEVEL)
    assert record.verdict != "invalid", record.reason
    assert by_layer.circuit(1).fitted_on == pairs.fingerprints
    states = of("state", pairs)
    assert all(name.partition("#")[2].isdigit() for name in states.scores())


@pytest.mark.parametrize(
    ("family", "branch"), [("token_shift", "hook_ssm_input"), ("marked_slots", "hook_y")]
)
def test_in_compiled_models_each_layer_writes_the_share_it_was_built_with(family, branch):
    """Past the state in a token shift, out of it in a store; 0.7 in the first layer."""
    compiled = FAMILIES[family].build(seed=0, share=0.7, templates=4)
    behaviour = compiled.stated[0].behaviour
    chosen = compiled.prompts.filter(behaviour=behaviour)
    found = direct_logit_attribution(compiled.model, chosen, run="difference", by="branch")
    scores = found.scores()
    total = found.map.mean()[~np.isnan(found.map.mean())].sum()
    assert found.error < 1e-4
    assert scores[f"blocks.0.{branch}@last"] / total == pytest.approx(0.7, abs=2e-3)
    assert scores[f"blocks.1.{branch}@last"] / total == pytest.approx(0.3, abs=2e-3)
    assert sum(scores.values()) == pytest.approx(total, rel=1e-3)  # and nothing else writes


def test_what_is_saved_comes_back(by_layer, tmp_path):
    back = DiscoveryRecord.load(by_layer.save(tmp_path / "parts.json"))
    assert isinstance(back, LogitAttribution)
    assert back == by_layer
    assert back.lines()[0].startswith("logit difference")
    assert "layer 1, all it adds" in back.lines()[1]
    back.plot(tmp_path / "parts.png")


def test_what_means_nothing_is_refused(pairs, monkeypatch):
    with pytest.raises(ClaimInvalid, match="discovery half"):
        direct_logit_attribution(prose(), prompts().test)
    for bad in (
        {"by": "head"}, {"run": "both"}, {"gate": "off"}, {"gate": "mean"}, {"layers": [0]},
        {"by": "channel", "channels": {0: [1]}}, {"by": "channel", "layers": [2]},
        {"by": "state", "channels": {1: [128]}}, {"by": "channel", "layers": []},
        {"by": "state", "channels": {1: [0]}, "layers": [1]},
    ):  # fmt: skip
        with pytest.raises(ShapeError):
            direct_logit_attribution(prose(), pairs, **bad)
    monkeypatch.setattr(attribution_module, "MOST_NUMBERS", 100)
    with pytest.raises(ShapeError, match="too many numbers"):
        of("channel", pairs)


def test_prompts_of_one_run_make_no_new_total(by_layer):
    """What is left out is rest, not lost."""
    without = dataclasses.replace(by_layer, rest=by_layer.rest + 1.0)
    assert without.error > 1e-3
