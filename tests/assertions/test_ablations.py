"""The first ablation decides; the others are measured beside it and say when they disagree."""

import dataclasses

import numpy as np
import pytest
import torch

from mechtest.assertions import ablations as ablation_matrix
from mechtest.assertions import (
    assert_necessary,
    check_beats_random_subspaces,
    check_necessary,
    check_not_necessary,
    check_stable_across_seeds,
    check_sufficient,
)
from mechtest.assertions.asking import Asked
from mechtest.assertions.necessity import necessity_terms
from mechtest.assertions.study import prepare_study
from mechtest.errors import ClaimRefuted
from mechtest.interventions import (
    Circuit,
    MeanAblation,
    NoiseAblation,
    ResampleAblation,
    Subspace,
    ZeroAblation,
    fit_means,
    fit_optimal,
)
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from mechtest.stats import Interval
from tests.assertions.zoo import CARRIES, INERT, LEVEL, prompts, prose

ALL = ("resample", "mean", "zero")


@pytest.fixture(scope="module")
def matrix():
    return check_necessary(
        prose(), Circuit(CARRIES), prompts(), threshold=0.5, level=LEVEL, ablations=ALL
    )


def test_the_others_are_measured_and_reported(matrix):
    (found,) = matrix.evidence
    assert matrix.verdict == "supported"
    assert found.intervention == "resample"
    assert [one.intervention for one in found.ablations] == ["mean", "zero"]
    for one in found.ablations:
        assert one.effect.low <= one.effect.estimate <= one.effect.high
        assert one.effect.confidence == found.effect.confidence
    assert matrix.settings["intervention"] == "resample"
    assert matrix.settings["others"] == ["mean", "zero"]
    assert ClaimRecord.from_json(matrix.to_json()) == matrix


def test_the_first_decides_as_if_it_were_alone(matrix):
    alone = check_necessary(prose(), Circuit(CARRIES), prompts(), threshold=0.5, level=LEVEL)
    (one,), (other,) = alone.evidence, matrix.evidence
    assert dataclasses.replace(other, ablations=()) == one
    assert "others" not in alone.settings


def test_each_other_gives_what_it_gives_on_its_own(matrix):
    alone = check_necessary(
        prose(), Circuit(CARRIES), prompts(), threshold=0.5, level=LEVEL,
        intervention=ZeroAblation(),
    )  # fmt: skip
    assert matrix.evidence[0].ablations[1].effect == alone.evidence[0].effect


def test_means_are_fitted_on_the_discovery_half(matrix):
    study = prepare_study(prose(), [Circuit(CARRIES)], prompts(), "logit_difference")
    fitted = fit_means(study.discovery, Circuit(CARRIES))
    alone = check_necessary(
        prose(), Circuit(CARRIES), prompts(), threshold=0.5, level=LEVEL,
        ablations=(ResampleAblation(), fitted),
    )  # fmt: skip
    (mean,) = alone.evidence[0].ablations
    assert mean.effect == matrix.evidence[0].ablations[0].effect


def test_an_effect_that_changes_sides_is_said_to_be_assumption_sensitive(matrix):
    """A threshold between the largest and the smallest effect of the three."""
    found = matrix.evidence[0]
    by_name = {one.intervention: one.effect.estimate for one in found.ablations}
    by_name["resample"] = found.effect.estimate
    order = sorted(by_name, key=by_name.get)
    first, last = order[0], order[-1]
    middle = (by_name[first] + by_name[last]) / 2
    said = check_necessary(
        prose(), Circuit(CARRIES), prompts(), threshold=middle, level=LEVEL, ablations=(last, first)
    )
    assert said.evidence[0].ablations[0].agrees is False
    assert "assumption-sensitive" in said.reason
    assert "assumption-sensitive" in said.notes[-1]
    assert f"{first} ablation" in said.reason


def test_optimal_constants_are_fitted_on_the_discovery_half():
    study = prepare_study(prose(), [Circuit(CARRIES)], prompts(), "logit_difference")
    said = check_necessary(
        prose(), Circuit(CARRIES), prompts(), threshold=0.5, level=LEVEL,
        ablations=("resample", "optimal"),
    )  # fmt: skip
    (found,) = said.evidence[0].ablations
    fitted = fit_optimal(study.discovery, Circuit(CARRIES))
    alone = check_necessary(
        prose(), Circuit(CARRIES), prompts(), threshold=0.5, level=LEVEL,
        ablations=("resample", fitted),
    )  # fmt: skip
    assert found.effect == alone.evidence[0].ablations[0].effect
    assert fitted.loss < fitted.loss_of_mean
    assert found.intervention == "optimal"


def test_optimal_constants_decide_only_where_nothing_else_is_ablated():
    decides = {"threshold": 0.5, "level": LEVEL, "ablations": ("optimal", "zero")}
    ranked = check_necessary(prose(), Circuit(CARRIES), prompts(), **decides)
    assert ranked.verdict == "invalid"
    assert "constants for one circuit" in ranked.reason
    keep = check_sufficient(
        prose(), Circuit(CARRIES), prompts(), mode="keep", level=LEVEL,
        ablations=("resample", "optimal"),
    )  # fmt: skip
    assert "constants for one circuit" in keep.reason
    absent = check_not_necessary(
        prose(), Circuit(INERT), prompts(), level=LEVEL, ablations=("optimal",)
    )
    assert (absent.verdict, absent.evidence[0].intervention) == ("supported", "optimal")


@pytest.mark.parametrize(
    ("estimate", "low", "high", "agrees"),
    [(0.8, 0.6, 0.9, True), (0.6, 0.4, 0.8, None), (0.4, 0.3, 0.7, False), (0.9, 0.8, None, None)],
)
def test_sides_of_a_threshold(estimate, low, high, agrees):
    terms = necessity_terms(Circuit(CARRIES), 0.5, Asked())
    interval = Interval(low, high, 0.9, "by hand")
    found = ablation_matrix._compared("zero", estimate, interval, terms, 0.7)
    assert found.agrees is agrees


def test_a_refuted_claim_prints_the_others():
    with pytest.raises(ClaimRefuted, match="ablation  zero ablation: effect"):
        assert_necessary(prose(), Circuit(INERT), prompts(), level=LEVEL, ablations=ALL)


def test_absence_and_keeping_take_a_matrix_too():
    pairs = prompts(templates=8)
    absent = check_not_necessary(
        prose(), Circuit(INERT), pairs, threshold=0.3, level=LEVEL, ablations=("resample", "zero")
    )
    assert absent.verdict == "supported"
    assert absent.evidence[0].ablations[0].agrees is not None
    kept = check_sufficient(
        prose(), Circuit(CARRIES), pairs, threshold=0.5, mode="keep", level=LEVEL, ablations=ALL
    )
    assert [one.intervention for one in kept.evidence[0].ablations] == ["mean", "zero"]


def test_the_mean_may_decide_and_its_controls_have_means_too():
    found = check_necessary(
        prose(), Circuit(CARRIES), prompts(templates=8), threshold=0.2, level=LEVEL,
        ablations=("mean", "resample"),
    )  # fmt: skip
    assert found.verdict != "invalid", found.reason
    assert found.evidence[0].intervention == "mean"
    assert found.evidence[0].controls.drawn == 12


def test_every_seed_has_a_matrix_of_its_own():
    found = check_stable_across_seeds(
        {0: prose(0), 1: prose(1)}, Circuit(CARRIES), prompts(templates=8), threshold=0.5,
        level=LEVEL, ablations=("resample", "zero"),
    )  # fmt: skip
    assert [len(item.ablations) for item in found.evidence] == [1, 1]


def test_an_ablation_that_changes_nothing_is_reported_as_that():
    nothing = NoiseAblation(0.0)
    found = check_necessary(
        prose(), Circuit(CARRIES), prompts(templates=8), level=LEVEL, ablations=("zero", nothing)
    )
    (one,) = found.evidence[0].ablations
    assert (one.effect, one.agrees) == (None, None)
    assert "changed no activation" in one.detail


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"ablations": "zero"}, "takes several"),
        ({"ablations": ()}, "takes several"),
        ({"ablations": ("zero", "zer")}, "no ablation goes by the name 'zer'"),
        ({"ablations": ("zero", 3)}, "no ablation goes by the name 3"),
        ({"ablations": ("zero", ZeroAblation())}, "named twice"),
        ({"ablations": ("zero",), "intervention": MeanAblation({})}, "given twice"),
    ],
)
def test_a_matrix_that_cannot_be_is_invalid(options, text):
    found = check_necessary(prose(), Circuit(CARRIES), prompts(), **options)
    assert found.verdict == "invalid"
    assert text in found.reason


def test_claims_that_ablate_nothing_or_hold_no_threshold_take_none():
    restored = check_sufficient(prose(), Circuit(CARRIES), prompts(), ablations=ALL)
    axis = torch.eye(64)[:, :2]
    site = Circuit("blocks.1.hook_out_proj@last", subspace=Subspace.spanned_by(axis))
    ranked = check_beats_random_subspaces(prose(), site, prompts(), ablations=ALL)
    assert {restored.verdict, ranked.verdict} == {"invalid"}
    assert "claims that ablate" in restored.reason


def test_a_plan_fits_nothing():
    with running(RunningClaim(id="t.py::t", planning=True)) as claim:
        check_necessary(prose(), Circuit(CARRIES), prompts(), ablations=("mean", "zero"))
    (plan,) = claim.plans
    assert claim.forward_passes == 0
    assert plan["attainable"], plan["problem"]
    assert plan["settings"]["others"] == ["zero"]


def test_numbers_are_finite_and_short(matrix):
    for one in matrix.evidence[0].ablations:
        assert np.isfinite([one.effect.estimate, one.effect.low, one.effect.high]).all()
