"""A suite finds its members, loads them, and refuses seeds that are copies."""

import shutil

import pytest
import torch

from mechtest.checkpoints import save_hf
from mechtest.errors import CheckpointNotFoundError, DuplicateWeightsError
from mechtest.models import ModelSuite
from tests.tiny import tiny_model


@pytest.fixture
def tree(tmp_path):
    for seed in (0, 1):
        for step in (10, 200):
            model = tiny_model(seed=seed * 10 + step)
            save_hf(
                tmp_path / f"seed{seed}" / f"step-{step:05d}", model.cfg, model.native_state_dict()
            )
    return tmp_path


def test_members_are_found_in_order_and_loaded(tree):
    suite = ModelSuite(tree)
    assert suite.seeds == (0, 1)
    assert suite.steps == (10, 200)
    last = suite.load(seed=1)
    assert torch.equal(last.embedding.weight, tiny_model(seed=210).embedding.weight)
    early = suite.load(seed=0, step=10)
    assert torch.equal(early.embedding.weight, tiny_model(seed=10).embedding.weight)
    assert [seed for seed, _ in suite.load_all(step=10)] == [0, 1]


def test_absent_members_are_named(tree):
    suite = ModelSuite(tree)
    with pytest.raises(CheckpointNotFoundError, match="7"):
        suite.load(seed=7)
    with pytest.raises(CheckpointNotFoundError, match="55"):
        suite.load(seed=0, step=55)


def test_two_seeds_with_equal_weights_are_refused(tree):
    shutil.copy(tree / "seed0/step-00200/model.safetensors", tree / "seed1/step-00200")
    with pytest.raises(DuplicateWeightsError, match="seed"):
        ModelSuite(tree)


def test_copies_among_members_that_are_fetched_are_refused_when_loaded(tree, monkeypatch):
    """Members on the hub are not compared up front; loading the second copy is refused."""
    monkeypatch.setattr("mechtest.checkpoints.SuiteIndex.check_distinct", lambda self: None)
    shutil.copy(tree / "seed0/step-00200/model.safetensors", tree / "seed1/step-00200")
    suite = ModelSuite(tree)
    suite.load(seed=0)
    suite.load(seed=0)
    suite.load(seed=1, step=10)
    with pytest.raises(DuplicateWeightsError, match="seeds 0 and 1"):
        suite.load(seed=1)


def test_the_zoo_is_a_suite():
    suite = ModelSuite("fixtures/zoo/prose")
    assert suite.seeds == (0, 1, 2, 3, 4)
    assert suite.steps == (250, 625, 1250, 2500)
