"""Guards: effects that any model would show, and subspaces that work by what is never read."""

from dataclasses import replace

import pytest
import torch

from mechtest.assertions import check_necessary
from mechtest.assertions.guards import (
    changed_share,
    require_behaviour,
    require_no_cut,
    visible_part,
    whole_component,
)
from mechtest.assertions.question import Question
from mechtest.assertions.study import prepare_study
from mechtest.discovery import find_difference_subspace
from mechtest.errors import ClaimInvalid
from mechtest.interventions import (
    Circuit,
    ResampleAblation,
    Runner,
    Subspace,
    collect_activations,
    fit_spectrum,
)
from tests.assertions.zoo import CARRIES, INERT, LEVEL, prompts, prose

GATED = "blocks.1.hook_after_skip@last"


def question(circuit, name="fact_city", mode="ablate"):
    study = prepare_study(prose(), [circuit], prompts(name), "logit_difference")
    return Question(study, mode, ResampleAblation(), circuit)


CUTS = {
    "all states after the last difference": ("ioi", ["blocks.*.state@-2"]),
    "the changed token's embedding": ("ioi", ["hook_embed@S2"]),
    "the residual stream everywhere": ("fact_city", ["blocks.0.hook_resid_pre"]),
    "the final norm": ("fact_city", ["hook_norm@last"]),
    "the last residual stream": ("fact_city", ["blocks.1.hook_resid_post@last"]),
}
NO_CUTS = {
    "one layer's state": ("fact_city", [CARRIES]),
    "the other's": ("fact_city", [INERT]),
    "one token of two": ("fact_city", ["hook_embed@subject_last"]),
    "hook_h without the window": ("ioi", ["blocks.0.hook_h@S2", "blocks.1.hook_h@S2"]),
    "the residual stream before layer 1": ("fact_city", ["blocks.1.hook_resid_pre@last"]),
    "one layer's output": ("fact_city", ["blocks.1.hook_out_proj@last"]),
}


def circuit_of(sites):
    names = [site.replace("*", str(layer)) for site in sites for layer in range(2)]
    return Circuit(*dict.fromkeys(names))


@pytest.mark.parametrize("mode", ["ablate", "restore"])
@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS.keys())
def test_a_cut_is_found_whatever_the_weights(cut, mode):
    name, sites = cut
    circuit = circuit_of(sites)
    with pytest.raises(ClaimInvalid, match="cuts the model in two"):
        require_no_cut(question(circuit, name, mode), circuit, seed=0, claim="claim")


@pytest.mark.parametrize("part", NO_CUTS.values(), ids=NO_CUTS.keys())
def test_what_leaves_another_path_is_no_cut(part):
    """Even where it moves nearly everything in the trained model."""
    name, sites = part
    circuit = circuit_of(sites)
    assert require_no_cut(question(circuit, name), circuit, seed=0, claim="claim").passed


def test_the_guard_leaves_the_model_and_its_runner_alone():
    asked = question(Circuit(CARRIES))
    before = {name: value.clone() for name, value in prose().state_dict().items()}
    torch.manual_seed(0)
    drawn = torch.rand(1)
    torch.manual_seed(0)
    require_no_cut(asked, Circuit(CARRIES), seed=0, claim="claim")
    assert torch.rand(1) == drawn
    assert all(value.equal(before[name]) for name, value in prose().state_dict().items())
    assert asked.study.runner.forward_passes == 0


def test_behaviour_and_accuracy_are_told():
    behaviour, accuracy = require_behaviour(
        question(Circuit(CARRIES)), seed=0, claim="claim", min_accuracy=0.5
    )
    assert behaviour.passed
    assert "logits" in behaviour.detail
    assert accuracy.detail.endswith("of the clean prompts right")


def test_the_share_of_changed_prompts_is_told():
    asked = question(Circuit(CARRIES))
    measured = asked.measure([Circuit(CARRIES)])
    for absence in (True, False):
        guard = changed_share(measured, absence=absence)
        assert guard.passed
        assert "100% of the prompts" in guard.detail


def test_an_absence_needs_an_edit_that_changes_nearly_all_prompts():
    """Where most prompts were left as they were, a small effect says nothing about the circuit."""
    asked = question(Circuit(CARRIES))
    measured = asked.measure([Circuit(CARRIES)])
    some = measured.run.changed.clone()
    some[: len(some) // 2] = False
    half = replace(measured, run=replace(measured.run, changed=some))
    assert changed_share(half, absence=True).passed is None
    assert changed_share(half, absence=False).passed


# --- illusions ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trap():
    """Plant a subspace that seems to carry a noun's number, at the site that feeds out_proj.

    Its unread half u separates clean from corrupted activations and the projection never sees it;
    its read half v moves the logits of the verbs, and hardly differs between the runs. Along u + v
    the edit reads the number from u and writes it to v.
    """
    model, pairs = prose(), prompts("agree", 2).discovery
    runner = Runner(model, pairs.encode(model.tokenizer))
    clean, corrupted = (
        next(iter(collect_activations(runner, Circuit(GATED), run).values())).flatten(1).double()
        for run in ("clean", "corrupted")
    )
    singular = torch.tensor([1.0 if row.answer[0] in (" is", " was") else -1.0 for row in pairs])
    differences = (clean - corrupted) * singular[:, None].double()
    weight = model.blocks[1].mixer.out_proj.weight.detach().double()
    answers, head = runner.pairs.answers, model.lm_head.weight.detach().double()
    gap = head[answers.answer_ids[:, 0]] - head[answers.foil_ids[:, 0]]
    # Subspaces are projected on in coordinates divided by their spread.
    scale = torch.as_tensor(fit_spectrum(runner, Circuit(GATED)).scale)
    rows = torch.linalg.svd(weight * scale, full_matrices=False).Vh
    seen = (differences / scale).mean(0)
    unread = seen - rows.T @ (rows @ seen)
    moves = scale * ((gap * singular[:, None].double()).mean(0) @ weight)
    known = seen - unread
    moves = moves - (moves @ known) / (known @ known) * known
    unread, moves = (scale * one / one.norm() for one in (unread, moves))
    assert (unread @ weight.T).abs().max() < 1e-5 * unread.norm() * weight.norm()
    return unread, moves, scale, runner.pairs.fingerprints


def test_a_planted_illusion_has_a_large_effect_and_is_refuted(trap):
    unread, moves, _, fitted_on = trap
    subspace = Subspace.spanned_by((unread + moves)[:, None])
    circuit = Circuit(GATED, subspace=subspace, name="the trap", fitted_on=fitted_on)
    naive = check_necessary(
        prose(), circuit, prompts("agree"), threshold=0.08, level=LEVEL, illusion=None
    )
    assert naive.evidence[0].effect.low > 0.1
    found = check_necessary(prose(), circuit, prompts("agree"), threshold=0.08, level=LEVEL)
    assert (found.verdict, found.binding) == ("refuted", "illusion (unread part)")
    assert "illusion" in found.reason
    assert found.evidence[0].controls is None
    assert found.evidence[0].effect == naive.evidence[0].effect


def test_a_direction_that_nothing_reads_is_an_illusion_outright(trap):
    unread, _, _, _ = trap
    circuit = Circuit(GATED, subspace=Subspace.spanned_by(unread[:, None]))
    asked = question(circuit, "agree")
    guard = visible_part(asked, asked.measure([circuit]), circuit, 0.05, 0.2, seed=0, claim="claim")
    assert guard.passed is False
    assert "reads nothing" in guard.detail


def test_a_subspace_that_does_more_than_its_whole_site_does_not_pass(trap):
    """It writes along v thirty times what it reads along u: the whole site never does.

    One template of 31 goes the other way, which leaves open by how much; compiled models have
    traps that are refuted by this guard.
    """
    unread, moves, scale, _ = trap
    subspace = Subspace(30 * moves[:, None], (unread / scale**2)[:, None])
    circuit = Circuit(GATED, subspace=subspace)
    asked = question(circuit, "agree")
    measured = asked.measure([circuit])
    assert measured.effect(asked.study).estimate > 1.2
    guard = whole_component(asked, measured, circuit, 0.05, 0.1, seed=0, claim="claim")
    assert guard.passed is None
    assert guard.p > 0.95
    assert "the whole site has 0.784 of" in guard.detail


def test_the_read_part_of_an_honest_direction_does_all_the_work():
    """Directions of difference inside the row space of the projection."""
    model = prose()
    found = find_difference_subspace(model, GATED, prompts().discovery, rank=10)
    weight = model.blocks[1].mixer.out_proj.weight.detach().double()
    rows = torch.linalg.svd(weight, full_matrices=False).Vh
    honest = found.with_subspace(Subspace.spanned_by(rows.T @ (rows @ found.subspace.basis)))
    asked = question(honest)
    guard = visible_part(asked, asked.measure([honest]), honest, 0.05, 0.2, seed=0, claim="claim")
    assert guard.passed, guard.detail
    assert "has 1 of" in guard.detail


def test_an_honest_subspace_passes():
    circuit = find_difference_subspace(
        prose(), "blocks.1.hook_out_proj@last", prompts().discovery, rank=12
    )
    asked = question(circuit)
    measured = asked.measure([circuit])
    found = whole_component(asked, measured, circuit, 0.05, 0.2, seed=0, claim="claim")
    assert found.passed
    assert found.p <= 0.05
    assert visible_part(asked, measured, circuit, 0.05, 0.2, seed=0, claim="claim") is None
