"""Controls are measured once in a run, and never taken for others."""

import numpy as np
import pytest
import torch

from mechtest import Circuit, HookedMamba, ZeroAblation, check_necessary, check_sufficient
from mechtest.assertions.pool import (
    POOL_VARIABLE,
    ControlPool,
    forget_controls,
    pool_key,
    pool_of_run,
)
from mechtest.assertions.question import Question
from mechtest.assertions.study import prepare_study
from mechtest.interventions import ResampleAblation
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import prompts, prose

CIRCUIT = Circuit("blocks.1.state@last")


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    """Start with nothing measured, in this process or by another worker."""
    monkeypatch.delenv(POOL_VARIABLE, raising=False)
    forget_controls()
    yield
    forget_controls()


def question(model=None, circuit=CIRCUIT, count=1, **changes):
    study = prepare_study(model or prose(), [circuit], prompts(count=count), "logit_difference")
    asked = {"mode": "ablate", "intervention": ResampleAblation(), "circuit": circuit} | changes
    return Question(study, **asked)


def copy_of(model):
    twin = HookedMamba(model.cfg, tokenizer=model.tokenizer)
    twin.load_state_dict(model.state_dict())
    return twin


def test_a_block_comes_back_to_the_last_bit_in_another_process(tmp_path):
    block = np.random.default_rng(0).standard_normal((8, 5))
    ControlPool(tmp_path).put("key", block)
    found = ControlPool(tmp_path).get("key", (8, 5))
    assert np.array_equal(found, block)
    assert ControlPool(tmp_path).get("other", (8, 5)) is None
    assert ControlPool(tmp_path).get("key", (8, 6)) is None, "not for other prompts"
    assert [path.name for path in tmp_path.iterdir()] == ["key.npy"], "no part is left behind"


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\x00torn", b"not an array"])
def test_a_damaged_file_counts_as_none(tmp_path, content):
    (tmp_path / "key.npy").write_bytes(content)
    assert ControlPool(tmp_path).get("key", (1, 1)) is None


def test_numbers_that_are_not_finite_are_not_shared(tmp_path):
    ControlPool(tmp_path).put("key", np.array([[np.nan]]))
    assert list(tmp_path.iterdir()) == []
    np.save(tmp_path / "key.npy", np.array([[np.inf]]))
    assert ControlPool(tmp_path).get("key", (1, 1)) is None


def test_it_is_bounded_in_memory_and_on_the_disk(tmp_path):
    pool = ControlPool(tmp_path, held=100, stored=400)
    for number in range(10):
        pool.put(f"{number}", np.zeros((1, 10)))
    assert len(pool._blocks) == 1
    assert 1 <= len(list(tmp_path.iterdir())) <= 3


def test_a_directory_that_cannot_be_written_is_no_error(tmp_path):
    pool = ControlPool(tmp_path / "gone")
    pool.put("key", np.zeros((1, 1)))
    assert pool.get("key", (1, 1)) is not None, "this process still has it"


def test_the_key_holds_everything_the_numbers_depend_on():
    first = pool_key(question(), "family", range(8))
    assert first == pool_key(question(), "family", range(8))
    assert first == pool_key(question(circuit=Circuit("blocks.0.state@last")), "family", range(8))
    others = [
        pool_key(question(), "another family", range(8)),
        pool_key(question(), "family", range(8, 16)),
        pool_key(question(count=2), "family", range(8)),
        pool_key(question(mode="restore"), "family", range(8)),
        pool_key(question(mode="keep"), "family", range(8)),
        pool_key(question(intervention=ZeroAblation()), "family", range(8)),
    ]
    assert len({first, *others}) == len(others) + 1


def test_weights_changed_in_place_are_other_weights():
    model = copy_of(prose())
    before = pool_key(question(model), "family", range(8))
    assert before == pool_key(question(copy_of(prose())), "family", range(8))
    with torch.no_grad():
        model.blocks[0].mixer.D += 1e-3
    assert pool_key(question(model), "family", range(8)) != before


def test_nothing_is_kept_of_a_model_with_hooks_of_its_own():
    model = copy_of(prose())
    model.add_hook("blocks.0.hook_y", lambda value, hook: value)
    assert pool_key(question(model), "family", range(8)) is None


def test_another_claim_on_the_site_measures_no_control_again():
    def passes(check, **terms):
        claim = RunningClaim(key=f"{check.__name__} {terms}", level=0.05)
        with running(claim):
            found = check(prose(), CIRCUIT, prompts(count=2), **terms)
        return claim.forward_passes, found.evidence[0].controls.values

    first, values = passes(check_necessary, threshold=0.5)
    again, same = passes(check_necessary, threshold=0.6)
    other, restored = passes(check_sufficient, threshold=0.5)
    assert same == values
    assert again < first
    assert restored != values, "restoring is another question"
    assert other > again
    assert len(pool_of_run()._blocks) > 1
