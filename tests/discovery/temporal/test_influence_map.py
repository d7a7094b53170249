"""Gradients are those of finite differences, and what interventions do stands beside them."""

import numpy as np
import pytest
import torch

from mechtest.discovery.dynamics.recurrence import read_recurrences, rows_of
from mechtest.discovery.temporal import InfluenceMap, influence_map
from mechtest.discovery.temporal.block_influence import jacobian_gains, patching_gains, streams_into
from mechtest.discovery.temporal.metric_influence import metric_gradients
from mechtest.discovery.temporal.state_influence import states_of, survival
from mechtest.errors import ClaimInvalid, ShapeError
from mechtest.interventions import Circuit, ResampleAblation, Runner
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import logit_difference
from tests.assertions.zoo import prompts, prose
from tests.tiny import tiny_model, tiny_tokens

STEP = 1e-6


@pytest.fixture(scope="module")
def wide():
    return tiny_model(dtype="float64")


@pytest.fixture(scope="module")
def by_metric():
    return influence_map(prose(), prompts(templates=8), max_lag=5)


def finite_jacobian(model, layer, stream, source, target, output):
    columns = []
    for direction in torch.eye(stream.shape[1], dtype=torch.float64):
        sides = []
        for sign in (1, -1):
            moved = stream.clone()
            moved[source] += sign * STEP * direction
            after, _ = model.blocks[layer](moved[None])
            after = after if output == "hook_resid_post" else after - moved
            sides.append(after[0, target])
        columns.append((sides[0] - sides[1]) / (2 * STEP))
    return torch.stack(columns, 1)


@pytest.mark.parametrize(("output", "end"), [("hook_resid_post", 0), ("hook_out_proj", 2)])
@torch.no_grad()
def test_block_jacobians_are_those_of_finite_differences(wide, output, end):
    stream = streams_into(wide, tiny_tokens(wide, batch=1), 1)[0]
    keywords = {"output": output, "end": end}
    gains = jacobian_gains(
        wide, 1, stream, **keywords, probes=None, generator=torch.Generator().manual_seed(0)
    )
    target = 6 - end
    for source in range(7):
        jacobian = finite_jacobian(wide, 1, stream, source, target, output)
        expected = float(jacobian.norm() / jacobian.shape[1] ** 0.5)
        assert float(gains[source]) == pytest.approx(expected, rel=1e-6, abs=1e-8)
    assert (gains[target + 1 :] == 0).all()
    assert (gains[: target + 1] > 0).all()
    many = jacobian_gains(
        wide, 1, stream, **keywords, probes=400, generator=torch.Generator().manual_seed(0)
    )
    assert torch.allclose(many, gains, rtol=0.2)


@torch.no_grad()
def test_small_patches_of_a_block_are_its_jacobian(wide):
    stream = streams_into(wide, tiny_tokens(wide, batch=1), 0)[0]
    donor = stream + 1e-5 * torch.ones_like(stream)
    found = patching_gains(wide, 0, stream, donor, output="hook_resid_post", end=0, lags=9)
    assert found[7:].isnan().all()
    ones = torch.ones(8, dtype=torch.float64)
    for lag in range(7):
        jacobian = finite_jacobian(wide, 0, stream, 6 - lag, 6, "hook_resid_post")
        expected = float((jacobian @ ones).norm() / ones.norm())
        assert float(found[lag]) == pytest.approx(expected, rel=1e-3)


@torch.no_grad()
def test_survival_is_what_an_edited_state_leaves(wide):
    tokens = tiny_tokens(wide, batch=1)
    rows = rows_of(wide, tokens, tool="test")
    (one,) = read_recurrences(wide, rows, [1])
    kept = survival(one.delta, one.A, 5)
    assert kept.shape == (5, 16, 4)
    last = {}
    read = [("blocks.1.hook_h.6", lambda value, hook: last.update(h=value.clone()))]
    wide.run_with_hooks(tokens, fwd_hooks=read)
    plain = last["h"][0]
    assert torch.allclose(states_of(one, range(16), 6)[0], plain, rtol=1e-10)
    for lag in range(5):
        add = [(f"blocks.1.hook_h.{6 - lag}", lambda value, hook: value + 1.0)]
        wide.run_with_hooks(tokens, fwd_hooks=add + read)
        assert torch.allclose(last["h"][0] - plain, kept[lag], rtol=1e-9, atol=1e-12)


def test_metric_gradients_are_those_of_finite_differences():
    model = HookedMamba.from_pretrained("fixtures/zoo/prose/seed0/step-02500", dtype=torch.float64)
    pairs = prompts(templates=3).discovery.encode(model.tokenizer)
    assert pairs.padded
    sites = [Site.parse("blocks.1.hook_resid_pre"), Site.parse("blocks.0.hook_h")]
    slope, product = metric_gradients(model, pairs, sites, logit_difference, 3)
    n_pos = pairs.clean_tokens.shape[1]
    for index, lag in ((0, 2), (1, 1)):
        name = str(sites[index])
        name += f".{n_pos - 1 - lag}" if index else ""
        kept = {}

        def look(value, hook, name=name, kept=kept):
            kept[hook.name] = value.clone()

        mask = pairs.attention_mask
        for run, tokens in (("c", pairs.clean_tokens), ("x", pairs.corrupted_tokens)):
            model.run_with_hooks(tokens, fwd_hooks=[(name, look)], attention_mask=mask)
            kept[run] = kept.pop(name).detach()
        change = kept["x"] - kept["c"]
        if not index:
            change[:, torch.arange(n_pos) != n_pos - 1 - lag] = 0
        sides = []
        for sign in (1, -1):
            step = sign * STEP * change
            logits = model.run_with_hooks(
                pairs.clean_tokens, attention_mask=mask,
                fwd_hooks=[(name, lambda value, hook, step=step: value + step)],
            )  # fmt: skip
            sides.append(logit_difference(logits[:, -1], pairs).detach())
        expected = ((sides[0] - sides[1]) / (2 * STEP)).numpy()
        assert np.allclose(product[index, lag], expected, rtol=1e-5, atol=1e-7)
        assert (np.abs(product[index, lag]) > 0).any()
        length = change.flatten(1).norm(dim=1).numpy()
        assert (np.abs(product[index, lag]) <= slope[index, lag] * length * (1 + 1e-9)).all()


def test_frozen_weights_have_gradients_too():
    model = HookedMamba.from_pretrained("fixtures/zoo/prose/seed0/step-02500")
    pairs = prompts(templates=2).discovery.encode(model.tokenizer)
    sites = [Site.parse(f"blocks.{layer}.hook_resid_pre") for layer in (0, 1)]
    trained, _ = metric_gradients(model, pairs, sites, logit_difference, 3)
    model.requires_grad_(requires_grad=False)
    frozen, _ = metric_gradients(model, pairs, sites, logit_difference, 3)
    assert np.allclose(frozen, trained, rtol=1e-5)


def test_effects_on_the_metric_are_those_of_the_runner(by_metric):
    runner = Runner(prose(), prompts(templates=8).discovery.encode(prose().tokenizer))
    clean, twin = (
        logit_difference(runner.logits(run), runner.pairs).double().numpy()
        for run in ("clean", "corrupted")
    )
    gap = np.mean([
        (clean - twin)[runner.pairs.cluster == c].mean() for c in np.unique(runner.pairs.cluster)
    ])  # fmt: skip
    for row, lag in ((0, 5), (1, 2)):
        site = by_metric.effect.sites[row][lag]
        after = runner.run(Circuit(site), ResampleAblation()).logits
        lost = (clean - logit_difference(after, runner.pairs).double().numpy()) / gap
        assert np.allclose(by_metric.effect.values[row, lag], lost, atol=1e-5)
    # At the last token the runs agree, so that nothing is lost: a number, not a gap.
    assert (by_metric.effect.values[0, 0] == 0).all()


def test_the_record_ranks_and_names_places(by_metric, tmp_path):
    scores = by_metric.scores()
    best = max(scores, key=scores.get)
    circuit = by_metric.circuit(2)
    assert best in map(str, circuit.sites)
    assert circuit.fitted_on == by_metric.about.fitted_on
    assert InfluenceMap.load(by_metric.save(tmp_path / "i.json")) == by_metric
    by_metric.plot(tmp_path / "i.svg")
    for one in by_metric.agreement:
        assert one.places == 6
        assert -1 <= one.sensitivity <= 1
        assert -1 <= one.first_order <= 1
    assert "rank correlation" in by_metric.lines()[-1]
    with pytest.raises(ShapeError, match="name no such circuit"):
        by_metric.circuit(100)


def test_lags_beyond_short_prompts_have_a_reason():
    whole = prompts(templates=2)
    for target in ("metric", "hook_h", "hook_out_proj"):
        found = influence_map(prose(), whole, layers=0, max_lag=40, target=target, probes=1)
        n_pos = found.sensitivity.values[0]
        assert np.isnan(n_pos[40]).all()
        assert not np.isnan(n_pos[3]).any()
        assert "too short" in found.sensitivity.reasons[0, 40]
    assert found.first_order is None
    with pytest.raises(ShapeError, match="name no such circuit"):
        found.circuit()


def test_the_state_of_another_prompt_fades_as_the_state_does():
    found = influence_map(prose(), prompts(templates=4), layers=[1], max_lag=4, target="hook_h")
    values = found.sensitivity.values[0]
    assert np.allclose(values[0], 1)
    assert (np.diff(values, axis=0) < 0).all()
    assert np.allclose(found.effect.values[0, 0], 1)
    assert (found.effect.values <= 1 + 1e-9).all()
    assert found.agreement[0].sensitivity > 0.8


def test_bad_input_is_refused():
    model, whole = prose(), prompts(templates=2)
    with pytest.raises(ClaimInvalid):
        influence_map(model, whole.test)
    with pytest.raises(ShapeError, match="is not measured") as caught:
        influence_map(model, whole, target="hook_resid_pos")
    assert "hook_resid_post" in str(caught.value)
    for bad in ({"max_lag": -1}, {"end": 1}, {"channels": [1]}, {"layers": [7]}):
        with pytest.raises(ShapeError):
            influence_map(model, whole, **bad)
    with pytest.raises(ShapeError, match="channels restrict"):
        influence_map(model, whole, target="hook_h", channels=[500])
    with pytest.raises(ShapeError, match="no value of its own"):
        influence_map(model, whole, site="hook_A")
