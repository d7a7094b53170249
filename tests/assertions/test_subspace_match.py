"""What was found in every seed matches; what was chosen blindly does not."""

import pytest
import torch

from mechtest.assertions import assert_subspaces_match, check_subspaces_match
from mechtest.discovery import find_difference_subspace
from mechtest.errors import ClaimRefuted
from mechtest.interventions import Circuit, Subspace
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import LEVEL, prompts, prose

SITE = "blocks.1.hook_out_proj@last"


def seeds(*numbers):
    return {number: prose(number) for number in numbers}


def found_in(model, discovery, rank=1):
    return find_difference_subspace(model, SITE, discovery, rank=rank)


def gender():
    return prompts("gender", count=4)


def at_random(*numbers):
    """Return a subspace a seed that knows nothing of the task."""
    return {
        number: Circuit(
            SITE,
            subspace=Subspace.spanned_by(
                torch.randn(64, 2, generator=torch.Generator().manual_seed(100 + number))
            ),
        )
        for number in numbers
    }


def check(models, subspaces, pairs=None, **options):
    pairs = prompts(templates=8) if pairs is None else pairs
    return check_subspaces_match(models, subspaces, pairs, **{"level": LEVEL, **options})


@pytest.fixture(scope="module")
def match():
    """The one direction along which he and she differ most."""
    return check(seeds(0, 1), found_in, gender())


def test_directions_of_the_same_answer_match(match):
    assert match.verdict == "supported", match.reason
    assert len(match.evidence) == 2
    assert match.evidence[0].label == "seed 0, controls in seed 1"
    assert match.evidence[1].label == "seed 1, controls in seed 0"
    for one in match.evidence:
        assert one.effect.estimate > one.controls.null_mean
        assert one.controls.stopped == "specific"
    assert match.p == max(one.controls.p for one in match.evidence) <= LEVEL
    assert "linear CKA" in match.reason
    assert ClaimRecord.from_json(match.to_json()) == match


def test_both_directions_compare_the_same_two_subspaces(match):
    there, back = match.evidence[:2]
    assert there.effect.estimate == pytest.approx(back.effect.estimate)
    assert there.controls.values != back.controls.values


def test_subspaces_chosen_blindly_are_refuted():
    with pytest.raises(ClaimRefuted, match="controls") as raised:
        assert_subspaces_match(seeds(0, 1), at_random(0, 1), prompts(templates=8), level=LEVEL)
    assert "block controls are as good" in raised.value.record.reason


def test_a_rank_that_does_not_decide_is_inconclusive():
    """A second direction says less of the answer: the third loss comes at the 13th control."""
    found = check(seeds(0, 1), lambda model, half: found_in(model, half, 2), gender())
    assert found.verdict == "inconclusive", found.reason
    assert "losses=10" in found.settle


def test_every_pair_of_seeds_is_asked():
    found = check(seeds(0, 1, 2), at_random(0, 1, 2))
    assert len({one.label for one in found.evidence}) == 6


@pytest.mark.parametrize(
    ("models", "subspaces", "options", "text"),
    [
        ((0,), at_random(0), {}, "at least two seeds"),
        ((0, 1), at_random(0), {}, "seed 1 has no subspace"),
        ((0, 1), {0: Circuit(SITE), 1: Circuit(SITE)}, {}, "only subspaces can match"),
        ((0, 1), at_random(0, 1), {"controls": "components"}, "do not fit"),
        ((0, 1), at_random(0, 1), {"ablations": ("zero",)}, "nothing is ablated"),
        ((0, 1), at_random(0, 1), {"max_controls": 3}, "can never give"),
    ],
)
def test_what_cannot_be_compared_is_invalid(models, subspaces, options, text):
    found = check(seeds(*models), subspaces, **options)
    assert found.verdict == "invalid"
    assert text in found.reason


def test_a_seed_that_does_not_do_the_task_is_named():
    models = {0: prose(0), 7: prose(1, "step-00250")}
    found = check(models, at_random(0, 7), prompts("ioi", templates=8))
    assert found.verdict == "invalid"
    assert "seed 7: behaviour absent" in found.reason


def test_subspaces_found_on_the_test_half_are_circular():
    whole = prompts(templates=8)
    circuit = found_in(prose(0), whole.discovery)
    object.__setattr__(circuit, "fitted_on", whole.test.fingerprints)
    found = check(seeds(0, 1), {0: circuit, 1: found_in(prose(1), whole.discovery)}, whole)
    assert "circular" in found.reason


def test_a_plan_runs_no_controls():
    with running(RunningClaim(id="t.py::t", planning=True, level=LEVEL)) as claim:
        check(seeds(0, 1), at_random(0, 1), level=None)
    (plan,) = claim.plans
    assert plan["attainable"]
    assert (plan["seeds"], plan["needed_controls"]) == (2, 12)
    assert claim.forward_passes == 0
