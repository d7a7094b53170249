"""A circuit is sufficient when it brings the answer back, restored or kept alone."""

import pytest

from mechtest.assertions import check_sufficient
from mechtest.assertions.complement import complement_of, universe_of
from mechtest.discovery import find_difference_subspace
from mechtest.interventions import Circuit
from mechtest.records import ClaimRecord
from tests.assertions.zoo import CARRIES, INERT, LEVEL, prompts, prose, recall

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
