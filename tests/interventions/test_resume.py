"""Running on from the state before the first edit gives what the whole forward pass gives."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mechtest.errors import NothingChangedError
from mechtest.interventions import (
    ENGINES,
    Circuit,
    NoiseAblation,
    Patch,
    Places,
    ResampleAblation,
    Runner,
    Steer,
    Subspace,
    ZeroAblation,
)
from mechtest.tasks import AnswerIds, EncodedPairs, Fingerprints
from tests.assertions.zoo import prompts, prose, recall
from tests.tiny import tiny_model, tiny_tokens

HOOKS = ["state", "hook_h", "hook_conv_state", "hook_in_proj", "hook_resid_pre", "hook_out_proj",
         "hook_delta", "hook_y", "hook_conv", "hook_after_skip", "hook_B"]  # fmt: skip
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def whole(model, pairs):
    """Return a runner that runs all of every prompt, through hooks."""
    runner = Runner(model, pairs, engine="hooked")
    runner._hooked.first_column = lambda variant: 0
    return runner


def largest_difference(model, pairs, circuit, intervention, base="clean"):
    """Return how far the two that resume are from one that does not, and the hooked one."""
    resumed = Runner(model, pairs, engine="hooked")
    theirs = whole(model, pairs).run(circuit, intervention, base)
    scale = theirs.logits.abs().max().clamp(min=1)
    off = []
    for runner in (resumed, Runner(model, pairs, engine="packed", memory=2**18)):
        ours = runner.run(circuit, intervention, base)
        assert torch.equal(ours.changed, theirs.changed)
        assert torch.equal(ours.moved, theirs.moved)
        off.append(float((ours.logits - theirs.logits).abs().max() / scale))
    return max(off), resumed._hooked


# --- random models, prompts of several lengths -------------------------------------------------


def tiny_pairs(model, lengths, seed):
    """Return random prompts padded on the left, with a twin that differs in one early token."""
    n_pos = max(lengths)
    clean = tiny_tokens(model, len(lengths), n_pos, seed)
    mask = torch.arange(n_pos) >= n_pos - torch.tensor(lengths)[:, None]
    first = n_pos - torch.tensor(lengths)
    clean = torch.where(mask, clean, 0)
    corrupted = clean.clone()
    rows = torch.arange(len(lengths))
    corrupted[rows, first] = (corrupted[rows, first] + 1) % model.cfg.d_vocab
    ids = tuple(f"prompt {row}" for row in rows.tolist())
    return EncodedPairs(
        clean_tokens=clean,
        corrupted_tokens=corrupted,
        attention_mask=mask,
        answers=AnswerIds.of([[1]] * len(ids), [[2]] * len(ids), ids=ids),
        roles=("last",),
        role_positions=torch.full((len(ids), 1), n_pos - 1),
        cluster=rows.numpy(),
        templates=ids,
        order=rows.numpy(),
        fingerprints=Fingerprints(),
        side="all",
    )


INTERVENTIONS = {
    "resample": ResampleAblation(),
    "zero": ZeroAblation(),
    "noise": NoiseAblation(0.5, seed=1),
}


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(max_examples=25, deadline=None, derandomize=True, database=None, phases=[Phase.generate])
@given(
    seed=st.integers(0, 99),
    lengths=st.lists(st.integers(3, 9), min_size=1, max_size=3),
    hooks=st.lists(
        st.tuples(st.sampled_from(HOOKS), st.integers(0, 1), st.sampled_from([-1, -2, -3])),
        min_size=1,
        max_size=3,
    ),
    how=st.sampled_from(list(INTERVENTIONS)),
    base=st.sampled_from(["clean", "corrupted"]),
)
def test_random_models_padding_sites_and_edits(dtype, seed, lengths, hooks, how, base):
    model = tiny_model(seed=seed, dtype=dtype)
    pairs = tiny_pairs(model, lengths, seed)
    circuit = Circuit(*(f"blocks.{layer}.{hook}@{place}" for hook, layer, place in hooks))
    intervention = INTERVENTIONS[how]
    try:
        off, _ = largest_difference(model, pairs, circuit, intervention, base)
    except NothingChangedError:  # then the whole forward pass has to say so too
        with pytest.raises(NothingChangedError):
            whole(model, pairs).run(circuit, intervention, base)
        return
    assert off <= TOLERANCE[dtype]


def test_noise_does_not_depend_on_what_stands_before(pairs):
    """Neither on padding nor on where the run goes on from; each position has its own."""
    noise, circuit = NoiseAblation(0.5, seed=3), Circuit("blocks.1.hook_resid_pre@-3:")
    together = Runner(prose(), pairs).run(circuit, noise).logits
    first = pairs[:1]
    alone = next(iter(first.by_length()))
    assert alone.clean_tokens.shape[1] < pairs.clean_tokens.shape[1]
    own = Runner(prose(), alone).run(circuit, noise).logits
    assert torch.allclose(together[:1], own, atol=1e-4)
    places = Places(torch.zeros(4, dtype=torch.int64), torch.tensor([4, 3, 2, 1]))
    drawn = noise.replacement(torch.zeros(4, 64), None, "blocks.1.hook_resid_pre", places)
    assert not torch.allclose(drawn[0], drawn[1])
    later = Places(places.prompt[1:], places.from_end[1:])
    shorter = noise.replacement(torch.zeros(3, 64), None, "blocks.1.hook_resid_pre", later)
    assert torch.equal(shorter, drawn[1:])


# --- the zoo -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs():
    """Seven prompts of different lengths: most are padded on the left."""
    found = prompts("ioi").test[:7].encode(prose().tokenizer)
    assert found.padded
    return found


PLACES = ["last", "S2+1", "-3:"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("hook", HOOKS)
def test_every_site_at_every_kind_of_position(pairs, hook, place):
    base = "clean" if place == "last" else "corrupted"
    circuit = Circuit(f"blocks.0.{hook}@{place}", f"blocks.1.{hook}@{place}")
    off, resumed = largest_difference(prose(), pairs, circuit, Patch(), base)
    assert off <= TOLERANCE["float32"]
    assert any(column > 0 for _, _, column in resumed._prefixes), "it did run on from a state"


@pytest.mark.parametrize("how", ["steer", "subspace", "channels", "embedding"])
def test_other_edits_of_the_zoo(pairs, how):
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(64, 3, generator=generator)
    circuit, intervention = {
        "steer": (Circuit("blocks.1.hook_resid_pre@S2"), Steer(directions[:, 0])),
        "subspace": (
            Circuit("blocks.1.hook_out_proj@S2", subspace=Subspace.spanned_by(directions)),
            Patch(),
        ),
        "channels": (Circuit("blocks.0.state@S2", channels=range(50)), Patch()),
        "embedding": (Circuit("hook_embed@S2"), Patch()),
    }[how]
    off, _ = largest_difference(prose(), pairs, circuit, intervention)
    assert off <= TOLERANCE["float32"]


def test_a_prompt_without_a_token_before_the_edit_starts_from_the_front():
    """The shortest prompt begins where the longest is edited: no prefix is there for it."""
    model = tiny_model(dtype="float64")
    pairs = tiny_pairs(model, [9, 3], 0)
    runner = Runner(model, pairs, engine="hooked")
    runner.run(Circuit("blocks.0.hook_h@-3"), ResampleAblation())
    assert {column for _, _, column in runner._hooked._prefixes} == {0}
    runner.run(Circuit("blocks.0.hook_h@-2"), ResampleAblation())
    assert 7 in {column for _, _, column in runner._hooked._prefixes}


def test_logits_after_are_those_of_the_run(pairs):
    """What controls are measured with, and what the claim is."""
    for sites in (["blocks.0.state@last"], ["blocks.0.state@S2", "blocks.1.state@last"]):
        circuit = Circuit(*sites)
        run = Runner(prose(), pairs).run(circuit, Patch()).logits
        for engine in ENGINES:
            (after,) = Runner(prose(), pairs, engine=engine).logits_after([[circuit]], Patch())
            assert torch.allclose(run, after, atol=1e-4)


def test_several_circuits_at_once_are_one_circuit_with_their_sites(pairs):
    sites = ["blocks.0.state@S2", "blocks.1.hook_out_proj@last", "blocks.0.hook_y@-2"]
    runner = Runner(prose(), pairs)
    one = runner.run(Circuit(*sites), Patch())
    several = runner.run([Circuit(site) for site in sites], Patch())
    assert torch.allclose(one.logits, several.logits, atol=1e-4)
    assert not torch.allclose(one.logits, runner.run(Circuit(sites[1]), Patch()).logits, atol=0.1)


def test_channels_and_the_other_channels_at_once_are_the_whole_site(pairs):
    runner = Runner(recall(), prompts("recall").test[:8].encode(recall().tokenizer))
    site = "blocks.0.state@last"
    parts = [Circuit(site, channels=range(40)), Circuit(site, channels=range(40, 128))]
    both = runner.run(parts, Patch()).logits
    assert torch.allclose(both, runner.run(Circuit(site), Patch()).logits, atol=1e-4)


def test_a_subspace_and_its_complement_add_up(pairs):
    """Also in coordinates of very different spread, and back."""
    generator = torch.Generator().manual_seed(1)
    scale = torch.logspace(-2, 2, 64)
    inside = Subspace.spanned_by(torch.randn(64, 5, generator=generator), scale)
    outside = inside.complement()
    change = torch.randn(7, 64, generator=generator, dtype=torch.float64)
    assert torch.allclose(inside.project(change) + outside.project(change), change)
    assert inside.project(outside.project(change)).abs().max() < 1e-8
    assert outside.complement().project(change).equal(inside.project(change))
    runner = Runner(prose(), pairs)
    site = "blocks.1.hook_out_proj@last"
    halves = [Circuit(site, subspace=inside), Circuit(site, subspace=outside)]
    ours = runner.run(halves[0], Patch()).logits
    assert not torch.allclose(ours, runner.run(halves[1], Patch()).logits, atol=0.1)


def test_a_prefix_is_run_once_for_many_interventions(pairs):
    """Twins for the source, the base and one prefix each; then one pass an intervention."""
    runner = Runner(prose(), pairs)
    runner.run(Circuit("blocks.0.state@last"), Patch())
    first = runner.forward_passes
    for channel in range(5):
        runner.logits_after([[Circuit("blocks.0.state@last", channels=[channel])]], Patch())
    assert runner.forward_passes == first + 5
