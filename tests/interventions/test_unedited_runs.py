"""Unedited runs are made once for all claims on the same model and prompts, and for no others."""

from pathlib import Path

import pytest
import torch

from mechtest import Circuit, Patch
from mechtest.interventions import Runner, forget_runs, runner_for_claim
from mechtest.interventions.digests import digest_of_weights
from mechtest.interventions.run_pool import POOL_VARIABLE, RunPool
from mechtest.interventions.unedited_runs import _BASES, UneditedRuns
from mechtest.running_claim import RunningClaim, running
from tests.interventions.tiny_pairs import tiny_pairs
from tests.tiny import tiny_model

HERE = Circuit("blocks.1.hook_h@-2")


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    """Start with nothing measured, in this process or by another worker."""
    monkeypatch.delenv(POOL_VARIABLE, raising=False)
    forget_runs()
    yield
    forget_runs()


@pytest.fixture
def model():
    return tiny_model(n_layer=3)


def pairs_of(model, differs=1):
    return tiny_pairs(model, [6, 4, 5], differs=differs)


def asked(model, pairs, engine="auto", circuit=HERE):
    """Return what one claim measures, and the tokens it took."""
    claim = RunningClaim(engine=engine)
    with running(claim):
        runner = runner_for_claim(model, pairs)
        found = [runner.logits("clean"), runner.logits("corrupted")]
        found.append(runner.logits_after([[circuit]], Patch())[0])
    return torch.stack(found), runner.forward_tokens


@pytest.mark.parametrize("engine", ["auto", "hooked"])
def test_the_second_claim_makes_none_and_sees_the_same_bits(model, engine):
    first, whole = asked(model, pairs_of(model), engine)
    again, less = asked(model, pairs_of(model), engine)
    assert torch.equal(first, again)
    runner = Runner(model, pairs_of(model), engine=engine)
    alone = [runner.logits("clean"), runner.logits("corrupted")]
    alone.append(runner.logits_after([[HERE]], Patch())[0])
    assert torch.equal(first, torch.stack(alone)), "sharing changes no bit"
    edited = 3 * 2 * 2 // 3  # two positions of three prompts, through two of three layers
    assert less < whole
    assert engine == "hooked" or less <= edited


def test_another_worker_finds_the_logits_on_the_disk(model, monkeypatch, tmp_path):
    monkeypatch.setenv(POOL_VARIABLE, str(tmp_path))
    first, _ = asked(model, pairs_of(model))
    assert len(list(tmp_path.glob("*.npy"))) == 2
    forget_runs()  # as in another process
    claim = RunningClaim()
    with running(claim):
        runner = runner_for_claim(model, pairs_of(model))
        assert torch.equal(runner.logits("clean"), first[0])
        assert runner.forward_tokens == 0


def test_what_is_found_may_be_changed(model):
    runs = UneditedRuns(model, pairs_of(model), pool=RunPool(None))
    runs.keep("clean", torch.ones(3, model.cfg.d_vocab))
    runs.logits("clean").zero_()
    assert bool((runs.logits("clean") == 1).all())


def test_other_weights_prompts_and_engines_have_other_runs(model):
    asked(model, pairs_of(model))
    _, alone = asked(model, pairs_of(model, differs=2))
    forget_runs()
    _, fresh = asked(model, pairs_of(model, differs=2))
    assert alone == fresh, "other prompts"
    _, hooked = asked(model, pairs_of(model, differs=2), "hooked")
    forget_runs()
    assert hooked == asked(model, pairs_of(model, differs=2), "hooked")[1], "another engine"


@pytest.mark.parametrize("way", ["in place", "through .data", "another tensor"])
def test_weights_that_changed_are_other_weights(model, way):
    before, _ = asked(model, pairs_of(model))
    weight = model.blocks[0].mixer.D
    with torch.no_grad():
        if way == "in place":
            weight += 1
        elif way == "through .data":
            weight.data[3] += 1
        else:
            weight.data = weight.data + 1
    after, _ = asked(model, pairs_of(model))
    assert not torch.equal(before, after)
    runner = Runner(model, pairs_of(model))
    assert torch.equal(after[0], runner.logits("clean"))


def test_a_model_that_took_the_place_of_another_is_not_taken_for_it():
    """Freed models leave their addresses to new ones."""
    digests = set()
    for seed in range(5):
        model = tiny_model(n_layer=1)
        torch.nn.init.normal_(model.embedding.weight, generator=torch.Generator().manual_seed(seed))
        digests.add(digest_of_weights(model))
        del model
    assert len(digests) == 5


def test_nothing_is_shared_of_a_model_with_hooks_of_its_own(model):
    plain, _ = asked(model, pairs_of(model))
    model.add_hook("blocks.0.hook_y", lambda value, hook: torch.zeros_like(value))
    hooked, tokens = asked(model, pairs_of(model))
    assert not torch.equal(plain, hooked)
    assert asked(model, pairs_of(model))[1] == tokens


def test_runs_that_are_not_asked_for_any_more_make_room(model):
    for differs in (1, 2, 3):
        claim = RunningClaim(memory=1)
        with running(claim):
            runner_for_claim(model, pairs_of(model, differs)).logits("clean")
    assert sum(map(len, _BASES.values())) <= 1


def test_files_are_in_the_directory_of_the_run_only(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked(model, pairs_of(model))
    assert list(Path().iterdir()) == []
