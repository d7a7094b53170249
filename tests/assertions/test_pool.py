"""Controls are measured once in a run, and never taken for others."""

import pytest
import torch

from mechtest import Circuit, HookedMamba, ZeroAblation, check_necessary, check_sufficient
from mechtest.assertions.pool import pool_key
from mechtest.assertions.question import Question
from mechtest.assertions.study import prepare_study
from mechtest.interventions import ResampleAblation, forget_runs, pool_of_run
from mechtest.interventions.run_pool import POOL_VARIABLE
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import prompts, prose

CIRCUIT = Circuit("blocks.1.state@last")


@pytest.fixture(autouse=True)
def empty(monkeypatch):
    """Start with nothing measured, in this process or by another worker."""
    monkeypatch.delenv(POOL_VARIABLE, raising=False)
    forget_runs()
    yield
    forget_runs()


def question(model=None, circuit=CIRCUIT, count=1, **changes):
    study = prepare_study(model or prose(), [circuit], prompts(count=count), "logit_difference")
    asked = {"mode": "ablate", "intervention": ResampleAblation(), "circuit": circuit} | changes
    return Question(study, **asked)


def copy_of(model):
    twin = HookedMamba(model.cfg, tokenizer=model.tokenizer)
    twin.load_state_dict(model.state_dict())
    return twin


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
    assert len(pool_of_run()._arrays) > 1
