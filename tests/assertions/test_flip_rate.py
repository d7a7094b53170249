"""A rate of flipped answers, counted over templates."""

import numpy as np
import pytest
from statsmodels.stats.proportion import proportion_confint

from mechtest.assertions import assert_flip_rate, check_flip_rate
from mechtest.assertions.study import prepare_study
from mechtest.errors import ClaimRefuted
from mechtest.interventions import Circuit, ResampleAblation
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT, LEVEL, prompts, prose


@pytest.fixture(scope="module")
def true():
    """Layer 1's state carries the city, so its twin's city is what is answered."""
    return check_flip_rate(prose(), Circuit(CARRIES), prompts(count=2), at_least=0.6, level=LEVEL)


def counts(record):
    (found,) = record.evidence
    return round(sum(found.effects)), round(sum(found.behaviours))


def test_a_circuit_that_flips_answers_is_supported(true):
    assert (true.verdict, true.kind, true.binding) == ("supported", "flip rate", "effect")
    (found,) = true.evidence
    assert found.threshold == 0.6
    assert found.effect.low > 0.6
    assert found.controls is None
    assert {guard.name for guard in found.guards} == {"behaviour", "accuracy", "no cut", "changed"}
    assert ClaimRecord.from_json(true.to_json()) == true


def test_flips_are_those_of_prompts_answered_right(true):
    study = prepare_study(prose(), [], prompts(count=2), "logit_difference")
    runner = study.runner
    after = runner.run(Circuit(CARRIES), ResampleAblation()).logits.argmax(1)
    right = runner.logits("clean").argmax(1).numpy() == _ids(study.pairs.answers.answer_ids)
    moved = after.numpy() == _ids(study.pairs.answers.foil_ids)
    assert true.evidence[0].effects == tuple((right & moved).astype(float))
    assert true.evidence[0].behaviours == tuple(right.astype(float))


def _ids(ids):
    return np.array([row.reshape(-1)[0].item() for row in ids])


def test_each_template_counts_once(true):
    (found,) = true.evidence
    study = prepare_study(prose(), [], prompts(count=2), "logit_difference")
    labels = np.array(study.labels)
    flipped, right = np.array(found.effects), np.array(found.behaviours)
    per_template = [
        (flipped[labels == name].mean(), right[labels == name].mean()) for name in set(labels)
    ]
    moved, there = np.mean(per_template, axis=0)
    assert found.effect.estimate == pytest.approx(moved / there, abs=1e-6)


def test_prompts_have_a_wilson_interval_that_decides_nothing(true):
    low, high = proportion_confint(*counts(true), alpha=0.05, method="wilson")
    (note,) = true.notes
    assert f"[{low:.3g}, {high:.3g}]" in note
    assert "the verdict is over templates" in note


def test_a_circuit_that_flips_nothing_is_refuted():
    with pytest.raises(ClaimRefuted, match=r"flip rate of .* is refuted") as raised:
        assert_flip_rate(prose(), Circuit(INERT), prompts(), at_least=0.5, level=LEVEL)
    record = raised.value.record
    assert record.binding == "effect"
    assert counts(record)[0] <= 1


def test_a_rate_beside_the_claimed_one_is_inconclusive():
    """90 of the 128 channels flip 9 of 16 answers."""
    part = Circuit(CARRIES, channels=range(90))
    pairs = prompts(count=2, templates=8)
    found = check_flip_rate(prose(), part, pairs, at_least=0.5, level=0.05)
    assert found.verdict == "inconclusive", found.reason
    assert found.evidence[0].effect.low < 0.5 < found.evidence[0].effect.high
    assert "templates settle it" in found.settle


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"at_least": 0.0}, "between 0 and 1"),
        ({"at_least": 1.0}, "between 0 and 1"),
        ({"at_least": float("nan")}, "between 0 and 1"),
        ({"at_least": 0.5, "ablations": ("zero", "mean")}, "one ablation"),
        ({"at_least": 0.5, "level": 1e-9}, "MT603"),
    ],
)
def test_what_cannot_be_tested_is_invalid(options, text):
    found = check_flip_rate(prose(), Circuit(CARRIES), prompts(templates=8), **options)
    assert found.verdict == "invalid"
    assert text in found.reason


def test_a_cut_flips_every_answer_in_any_model_and_is_invalid():
    cut = Circuit("blocks.1.hook_resid_post@last")
    found = check_flip_rate(prose(), cut, prompts(templates=8), at_least=0.5, level=LEVEL)
    assert found.verdict == "invalid"
    assert "cut" in found.reason


def test_a_plan_runs_nothing():
    with running(RunningClaim(id="t.py::t", planning=True)) as claim:
        check_flip_rate(prose(), Circuit(CARRIES), prompts(templates=8), at_least=0.5)
    (plan,) = claim.plans
    assert plan["attainable"]
    assert plan["controls"] == 0
    assert claim.forward_passes == 0
