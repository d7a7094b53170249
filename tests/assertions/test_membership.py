"""A site that is in every recorded circuit, and what so many circuits show."""

import pytest

from mechtest.assertions import assert_member_of_every, check_member_of_every
from mechtest.errors import ClaimInvalid, ClaimRefuted
from mechtest.interventions import Circuit
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import CARRIES, INERT

FIVE = {seed: [CARRIES, INERT] if seed % 2 else Circuit(CARRIES) for seed in range(5)}


def test_a_member_of_all_of_five_is_supported():
    found = check_member_of_every(CARRIES, FIVE)
    assert (found.verdict, found.kind, found.p) == ("supported", "membership", 0.03125)
    (row,) = found.evidence
    assert (row.effect.estimate, row.effect.high, row.clusters) == (1.0, 1.0, 5)
    assert row.effect.low == pytest.approx(0.05 ** (1 / 5))
    assert "Wilson" in found.notes[0]
    assert ClaimRecord.from_json(found.to_json()) == found


def test_one_set_without_it_refutes_every_and_is_named():
    found = check_member_of_every(INERT, FIVE)
    assert (found.verdict, found.binding) == ("refuted", "every set")
    with pytest.raises(ClaimRefuted, match=r"in 2 of 5 sets, and not in 0, 2, 4"):
        assert_member_of_every(INERT, FIVE)


@pytest.mark.parametrize(
    ("site", "sets", "options", "text"),
    [
        (CARRIES, {0: [CARRIES], 1: [CARRIES]}, {}, "all of 2 sets can never give"),
        (CARRIES, FIVE, {"level": 0.01}, "at least 7 sets"),
        (CARRIES, FIVE, {"share": 1.5}, "share lies outside"),
        (CARRIES, {0: CARRIES}, {}, "a recorded set is several sites"),
        ("blocks.0.stat@last", FIVE, {}, "blocks.0.state"),
    ],
)
def test_what_cannot_be_said_is_invalid(site, sets, options, text):
    found = check_member_of_every(site, sets, **options)
    assert found.verdict == "invalid"
    assert text in found.reason
    with pytest.raises(ClaimInvalid):
        assert_member_of_every(site, sets, **options)


def test_a_plan_says_how_many_sets_there_are():
    with running(RunningClaim(planning=True)) as claim:
        record = check_member_of_every(CARRIES, FIVE)
        check_member_of_every(CARRIES, {0: [CARRIES]})
    good, bad = claim.plans
    assert (good["attainable"], good["seeds"]) == (True, 5)
    assert good["settings"] == record.settings
    assert "at least 5 sets" in bad["problem"]
