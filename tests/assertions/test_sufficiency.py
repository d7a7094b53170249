"""A circuit is sufficient when it brings the answer back, restored or kept alone."""

from dataclasses import replace

import numpy as np
import pytest

from mechtest.assertions import best_of, check_sufficient
from mechtest.assertions._decide import EffectFinding, decide
from mechtest.assertions.guards import not_too_much
from mechtest.assertions.question import Question
from mechtest.assertions.study import prepare_study
from mechtest.discovery import find_difference_subspace
from mechtest.interventions import Circuit, ResampleAblation
from mechtest.interventions.complement import complement_of, universe_of
from mechtest.records import ClaimRecord
from tests.assertions.zoo import CARRIES, INERT, LEVEL, interval, prompts, prose, recall

MODES = ["restore", "keep"]


@pytest.mark.parametrize("mode", MODES)
def test_the_layer_that_carries_the_answer_is_enough(mode):
    found = check_sufficient(prose(), Circuit(CARRIES), prompts(), mode=mode, level=LEVEL)
    assert (found.verdict, found.kind) == ("supported", "sufficiency")
    (measured,) = found.evidence
    assert measured.effect.estimate > 0.9
    assert found.settings["mode"] == mode
    assert measured.intervention == ("patch" if mode == "restore" else "resample")
    assert found.p == max(measured.p_effect, measured.controls.p)
    assert ClaimRecord.from_json(found.to_json()) == found


@pytest.mark.parametrize("mode", MODES)
def test_the_other_layer_is_not(mode):
    found = check_sufficient(prose(), Circuit(INERT), prompts(), mode=mode, level=LEVEL)
    assert (found.verdict, found.binding) == ("refuted", "effect")
    assert abs(found.evidence[0].effect.estimate) < 0.1


def test_keeping_the_only_path_keeps_everything():
    """In the model that recalls pairs, layer 1 adds nothing: keep is 1."""
    found = check_sufficient(
        recall(), Circuit(INERT), prompts("recall"), mode="keep", threshold=0.9, level=LEVEL
    )
    assert found.verdict == "supported"
    assert found.evidence[0].effect.estimate == pytest.approx(1.0, abs=0.02)


def test_keeping_some_channels_ablates_all_others_of_both_layers():
    claimed = Circuit(CARRIES, channels=range(100))
    rest = complement_of(claimed, [claimed], prose())
    assert [(str(one.sites[0]), one.channels) for one in rest] == [
        (INERT, None),
        (CARRIES, tuple(range(100, 128))),
    ]
    found = check_sufficient(prose(), claimed, prompts(), mode="keep", threshold=0.2, level=LEVEL)
    assert found.verdict != "invalid"
    assert 0.2 < found.evidence[0].effect.estimate < 1.1


def test_keeping_a_subspace_ablates_what_is_outside_it():
    site = "blocks.1.hook_h@last"
    claimed = find_difference_subspace(prose(), site, prompts(count=2).discovery, rank=12)
    rest = complement_of(claimed, [claimed], prose())
    assert [str(one.sites[0]) for one in rest] == ["blocks.0.hook_h@last", site]
    assert rest[1].subspace.outside
    kept = check_sufficient(
        prose(), claimed, prompts(count=2), mode="keep", threshold=0.3, level=LEVEL
    )
    assert kept.verdict != "invalid", kept.reason
    assert 0.1 < kept.evidence[0].effect.estimate < 1.2


def test_the_universe_is_every_layer_at_the_same_positions():
    sites = [str(one.sites[0]) for one in universe_of(Circuit("blocks.-1.hook_y@last"), prose())]
    assert sites == ["blocks.0.hook_y@last", "blocks.1.hook_y@last"]


@pytest.mark.parametrize(
    ("site", "text"),
    [
        ("blocks.1.hook_resid_pre@last", "no 'everything else'"),
        ("hook_embed@last", "all there is of its kind"),
    ],
)
def test_the_residual_stream_cannot_be_kept_alone(site, text):
    found = check_sufficient(prose(), Circuit(site), prompts(), mode="keep", level=LEVEL)
    assert found.verdict == "invalid"
    assert text in found.reason


def test_keep_and_restore_differ_where_paths_have_to_meet():
    """Each measures another floor; on this model both are near 1, and not equal."""
    kept, restored = (
        check_sufficient(prose(), Circuit(CARRIES), prompts(), mode=mode, level=LEVEL)
        for mode in ("keep", "restore")
    )
    assert kept.evidence[0].effects != restored.evidence[0].effects


def test_an_unknown_mode_is_invalid():
    found = check_sufficient(prose(), Circuit(CARRIES), prompts(), mode="both", level=LEVEL)
    assert (found.verdict, found.binding) == ("invalid", "MT703")
    assert "no mode 'both'" in found.reason


@pytest.mark.parametrize("mode", MODES)
def test_the_same_as_the_model_is_shown_on_both_sides(mode):
    asked = {"mode": mode, "threshold": 0.9, "level": LEVEL}
    found = check_sufficient(prose(), Circuit(CARRIES), prompts(), equivalent=0.1, **asked)
    (guard,) = [one for one in found.evidence[0].guards if one.name == "equivalent"]
    assert (found.verdict, guard.passed) == ("supported", True)
    assert guard.p <= LEVEL
    assert found.p >= guard.p
    assert found.settings["equivalent"] == 0.1
    without = check_sufficient(prose(), Circuit(CARRIES), prompts(), **asked)
    assert "equivalent" not in without.settings
    assert without.evidence[0].effect == found.evidence[0].effect


@pytest.mark.parametrize(
    ("share", "passed"), [(0.9, True), (1.0, True), (1.1, None), (1.3, False), (2.0, False)]
)
def test_a_circuit_that_gives_more_than_the_model_is_not_the_same(share, passed):
    """Left out what holds the answer back, it comes out clearer than in the model."""
    study = prepare_study(prose(), [Circuit(CARRIES)], prompts(), "logit_difference")
    question = Question(study, "restore", ResampleAblation(), Circuit(CARRIES))
    found = question.measure([Circuit(CARRIES)])
    spread = np.linspace(-0.05, 0.05, len(found.behaviour))  # symmetric about the share
    given = replace(found, moved_part=(share + spread) * found.behaviour)
    guard = not_too_much(study, given, 0.1, LEVEL, 0.05, seed=0, claim="c")
    assert guard.passed is passed
    assert (guard.p <= LEVEL) is (passed is True)
    wide = interval(share - 0.02, share + 0.02)
    effect = EffectFinding(share, 0.8, "greater", 1e-4, wide)
    verdicts = {True: "supported", None: "inconclusive", False: "refuted"}
    assert decide(LEVEL, effect=effect, controls=None, guards=[guard]).verdict == verdicts[passed]


def test_margins_that_mean_nothing_are_refused():
    for margin in (0.0, -0.1, float("nan")):
        found = check_sufficient(
            prose(), Circuit(CARRIES), prompts(), equivalent=margin, level=LEVEL
        )
        assert found.verdict == "invalid"
        assert "margin of an equivalence" in found.reason
    best = best_of([Circuit(CARRIES), Circuit(INERT)])
    found = check_sufficient(prose(), best, prompts(), equivalent=0.1, level=LEVEL)
    assert "no upper bound" in found.reason
