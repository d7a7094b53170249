"""A subspace is special when hardly any like it does as much."""

import pytest
import torch

from mechtest.assertions import check_beats_random_subspaces, check_necessary
from mechtest.discovery import find_difference_subspace
from mechtest.interventions import Circuit, Subspace
from mechtest.records import ClaimRecord
from tests.assertions.zoo import CARRIES, LEVEL, prompts, prose


@pytest.fixture(scope="module")
def found():
    return find_difference_subspace(
        prose(), "blocks.1.hook_h@last", prompts(count=1).discovery, rank=8
    )


@pytest.fixture(scope="module")
def special(found):
    return check_beats_random_subspaces(prose(), found, prompts(count=1), level=LEVEL)


def test_directions_of_difference_of_the_state_are_special(special):
    assert (special.verdict, special.binding) == ("supported", "controls")
    (measured,) = special.evidence
    assert measured.threshold is None
    assert measured.p_effect is None
    assert special.p == measured.controls.p
    assert measured.controls.kind == "block"
    assert measured.controls.excess.low > 0
    assert special.settings["origin"] == "found on discovery prompts"
    assert ClaimRecord.from_json(special.to_json()) == special


def test_directions_at_random_are_not():
    """Among the output's directions of like variance, any few do as much."""
    directions = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    ordinary = Circuit("blocks.1.hook_out_proj@last", subspace=Subspace.spanned_by(directions))
    record = check_beats_random_subspaces(prose(), ordinary, prompts())
    assert (record.verdict, record.binding) == ("refuted", "controls")
    assert record.settings["origin"] == "declared"


def test_uniform_controls_support_nothing_alone(found):
    record = check_beats_random_subspaces(
        prose(), found, prompts(count=1), level=LEVEL, controls="haar"
    )
    assert (record.verdict, record.binding) == ("inconclusive", "controls")
    assert record.evidence[0].controls.weak
    assert record.p <= LEVEL
    assert "weak" in record.reason
    assert "block" in record.settle


def test_the_necessity_of_a_subspace_asks_both_questions(found):
    """Effect, rank and the guard against illusions, all of them in p."""
    record = check_necessary(prose(), found, prompts(count=1), threshold=0.25, level=LEVEL)
    (measured,) = record.evidence
    assert record.verdict == "supported"
    guard = next(guard for guard in measured.guards if guard.name == "illusion")
    assert guard.passed
    assert record.p == max(measured.p_effect, measured.controls.p, guard.p)


def test_a_whole_site_has_no_random_subspaces():
    record = check_beats_random_subspaces(prose(), Circuit(CARRIES), prompts(), level=LEVEL)
    assert (record.verdict, record.binding) == ("invalid", "MT703")
    assert "only a subspace" in record.reason
