"""Interventions edit the rows, channels and directions they name, and nothing in silence."""

import pytest
import torch

from mechtest.errors import (
    MetricError,
    NothingChangedError,
    PositionError,
    ShapeError,
    UnknownSiteError,
)
from mechtest.interventions import (
    Circuit,
    NoiseAblation,
    Patch,
    ResampleAblation,
    Runner,
    Steer,
    Subspace,
    ZeroAblation,
    fit_means,
    fit_optimal,
    fit_spectrum,
)
from mechtest.models import HookedMamba
from mechtest.tasks import PromptPairs, logit_difference

MODEL = "fixtures/zoo/prose/seed0/step-02500"


@pytest.fixture(scope="module")
def model():
    return HookedMamba.from_pretrained(MODEL)


@pytest.fixture(scope="module")
def prompts():
    return PromptPairs.from_jsonl("fixtures/prompts/ioi.jsonl")


@pytest.fixture(scope="module")
def runner(model, prompts):
    return Runner(model, prompts.test[::24].encode(model.tokenizer))


def share_moved(runner, run, base="clean"):
    """Share of the clean-to-corrupted gap that the intervention crossed."""
    high = logit_difference(runner.logits("clean"), runner.pairs)
    low = logit_difference(runner.logits("corrupted"), runner.pairs)
    now = logit_difference(run.logits, runner.pairs)
    moved = (high - now) if base == "clean" else (now - low)
    return (moved.mean() / (high - low).mean()).item()


EVERYTHING = Circuit("blocks.0.state@S2+1", "blocks.1.state@S2+1")


def test_the_complete_cut_moves_everything_and_restores_everything(runner):
    """Roles are looked up prompt by prompt: S2 stands elsewhere in every template."""
    noised = runner.run(EVERYTHING, ResampleAblation())
    assert share_moved(runner, noised) == pytest.approx(1.0, abs=1e-5)
    restored = runner.run(EVERYTHING, Patch("clean"), base="corrupted")
    assert share_moved(runner, restored, "corrupted") == pytest.approx(1.0, abs=1e-5)
    assert bool(noised.changed.all())
    assert bool(noised.moved.all())


def test_a_patch_is_what_a_hook_by_hand_does(model, runner):
    """One prompt, one position, one hook: the same logits."""
    circuit = Circuit("blocks.0.hook_h@last")
    run = runner.run(circuit, ResampleAblation())
    pairs = runner.pairs[:1]
    keep = pairs.attention_mask[0]
    clean, corrupted = pairs.clean_tokens[:, keep], pairs.corrupted_tokens[:, keep]
    last = clean.shape[1] - 1
    with torch.no_grad():
        _, cache = model.run_with_cache(corrupted, names_filter=f"blocks.0.hook_h.{last}")
        by_hand = model.run_with_hooks(
            clean, fwd_hooks=[(f"blocks.0.hook_h.{last}", lambda h, hook: cache[hook.name])]
        )
    assert torch.allclose(run.logits[0], by_hand[0, -1], atol=1e-4)


def test_batches_do_not_change_the_result(model, runner):
    small = Runner(model, runner.pairs, batch_size=5)
    circuit = Circuit("blocks.0.state@S2", "blocks.1.hook_resid_pre@last")
    whole = runner.run(circuit, ResampleAblation())
    parts = small.run(circuit, ResampleAblation())
    assert torch.allclose(whole.logits, parts.logits, atol=1e-4)
    noise = NoiseAblation(0.5, seed=3)
    ours = runner.run(circuit, noise).logits
    assert torch.allclose(ours, small.run(circuit, noise).logits, atol=1e-4)
    assert not torch.allclose(ours, runner.run(circuit, NoiseAblation(0.5, seed=4)).logits)


def test_an_edit_before_the_first_difference_is_an_error(runner):
    with pytest.raises(NothingChangedError, match="changed no activation"):
        runner.run(Circuit("blocks.0.state@S2-1"), ResampleAblation())


@pytest.mark.parametrize(
    ("circuit", "error", "text"),
    [
        (Circuit("blocks.7.state@last"), UnknownSiteError, "2 layers"),
        (Circuit("blocks.0.state@S3"), PositionError, "S3"),
        (Circuit("blocks.0.hook_y@60"), PositionError, "outside a prompt"),
        (Circuit("blocks.0.hook_h@last", channels=[128]), ShapeError, "no channel 128"),
    ],
    ids=["layer", "role", "position", "channel"],
)
def test_circuits_that_do_not_fit_say_so(runner, circuit, error, text):
    with pytest.raises(error, match=text):
        runner.run(circuit, ResampleAblation())


def test_zero_and_mean_ablation_put_in_zeros_and_means(model, prompts, runner):
    circuit = Circuit("blocks.1.hook_out_proj@last")
    discovery = Runner(model, prompts.discovery[::24].encode(model.tokenizer))
    mean = fit_means(discovery, circuit)
    _, cache = model.run_with_cache(
        discovery.pairs.clean_tokens,
        attention_mask=discovery.pairs.attention_mask,
        names_filter="blocks.1.hook_out_proj",
    )
    expected = cache["blocks.1.hook_out_proj"][:, -1].mean(0)
    assert torch.allclose(mean.means["blocks.1.hook_out_proj"], expected, atol=1e-5)
    zeroed = runner.run(circuit, ZeroAblation()).logits
    assert not torch.allclose(zeroed, runner.run(circuit, mean).logits)
    with pytest.raises(MetricError, match="no mean value was fitted"):
        runner.run(Circuit("blocks.0.hook_out_proj@last"), mean)


def test_fits_refuse_the_test_half(runner):
    for fit in (fit_means, fit_optimal, fit_spectrum):
        with pytest.raises(ShapeError, match="kept for testing"):
            fit(runner, Circuit("blocks.1.hook_out_proj@last"))


def test_channels_and_their_complement_are_the_whole(runner):
    """In the layer that is unembedded next, parts of a linear site add up."""
    site = "blocks.1.hook_out_proj@last"
    change = {}
    for name, channels in (("low", range(32)), ("high", range(32, 64)), ("all", None)):
        run = runner.run(Circuit(site, channels=channels), ResampleAblation())
        change[name] = run.logits
    assert not torch.allclose(change["low"], change["all"])
    both = runner.run(Circuit(site, channels=range(64)), ResampleAblation())
    assert torch.equal(both.logits, change["all"])


def test_a_subspace_edit_stays_in_the_subspace(model, runner):
    generator = torch.Generator().manual_seed(0)
    scale = torch.rand(64, generator=generator) + 0.5
    subspace = Subspace.spanned_by(torch.randn(64, 3, generator=generator), scale)
    change = torch.randn(5, 64, generator=generator)
    inside = subspace.project(change)
    assert torch.allclose(subspace.project(inside), inside, atol=1e-5)
    assert torch.linalg.matrix_rank(inside) == 3
    run = runner.run(Circuit("blocks.1.hook_resid_pre@last", subspace=subspace), ResampleAblation())
    full = runner.run(Circuit("blocks.1.hook_resid_pre@last"), ResampleAblation())
    assert 0 < abs(share_moved(runner, run)) < abs(share_moved(runner, full))


def test_the_spectrum_is_that_of_the_activations(model, prompts):
    discovery = Runner(model, prompts.discovery[::24].encode(model.tokenizer))
    spectrum = fit_spectrum(discovery, Circuit("blocks.0.hook_h@last"))
    _, cache = model.run_with_cache(
        discovery.pairs.clean_tokens,
        attention_mask=discovery.pairs.attention_mask,
        names_filter="blocks.0.hook_h@last",
    )
    values = next(iter(cache.values())).flatten(1).double()
    assert spectrum.dim == 2048
    assert spectrum.samples == len(discovery.pairs)
    expected = values.std(0, correction=0).numpy()
    large = expected > 1e-3 * expected.max()
    assert spectrum.scale[large] == pytest.approx(expected[large], rel=1e-4)
    with pytest.raises(ShapeError, match="one hook"):
        fit_spectrum(discovery, Circuit("blocks.0.state@last"))


def test_a_drawn_subspace_edits_as_the_same_span_does(runner):
    """Claim and controls are carried out by the same formula as a subspace spanned by hand."""
    from mechtest import stats

    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(200, 64, generator=generator) * torch.logspace(0, 2, 64)
    spectrum = stats.measure_spectrum(samples.numpy())
    directions = torch.randn(64, 2, generator=generator)
    controls = stats.SubspaceControls(directions.numpy(), spectrum, "block", 0, "claim")
    drawn = Subspace.from_edit(controls.observed.basis, controls.observed.dual)
    spanned = Subspace.spanned_by(directions, torch.as_tensor(spectrum.scale))
    change = torch.randn(5, 64, generator=generator)
    assert torch.allclose(drawn.project(change), spanned.project(change), atol=1e-4)
    doubled = Subspace.from_edit(controls.observed.basis, controls.observed.dual, gain=2.0)
    assert torch.allclose(doubled.project(change), 2 * drawn.project(change), rtol=1e-4)
    control = Subspace.from_edit(controls.draw(0).basis, controls.draw(0).dual)
    assert not torch.allclose(control.project(change), drawn.project(change), atol=0.1)


def test_steering_adds_a_direction(runner):
    direction = torch.ones(64)
    circuit = Circuit("blocks.1.hook_resid_post@last")
    once = runner.run(circuit, Steer(direction)).logits
    none = runner.logits("clean")
    assert not torch.allclose(once, none)
    with pytest.raises(ShapeError, match="does not fit"):
        runner.run(circuit, Steer(torch.ones(63)))
    with pytest.raises(NothingChangedError):
        runner.run(circuit, Steer(direction, coefficient=0.0))


def test_a_run_cannot_be_patched_with_itself(runner):
    with pytest.raises(ShapeError, match="its own activations"):
        runner.run(EVERYTHING, Patch("clean"), base="clean")


@pytest.mark.parametrize(
    ("directions", "text"),
    [
        (torch.ones(4, 2), "no proper subspace"),
        (torch.eye(4), "no proper subspace"),
        (torch.full((4, 1), float("nan")), "NaN"),
    ],
    ids=["dependent", "everything", "nan"],
)
def test_directions_that_span_no_subspace_are_refused(directions, text):
    with pytest.raises(ShapeError, match=text):
        Subspace.spanned_by(directions)


def test_empty_and_ambiguous_circuits_are_refused():
    with pytest.raises(ShapeError, match="at least one site"):
        Circuit()
    with pytest.raises(ShapeError, match="no channels"):
        Circuit("blocks.0.hook_y", channels=[])
    with pytest.raises(ShapeError, match="belongs to one hook"):
        Circuit("blocks.0.state@last", subspace=Subspace(torch.eye(4)[:, :1], torch.eye(4)[:, :1]))
    with pytest.raises(UnknownSiteError):
        Circuit("blocks.0.hook_yy")
