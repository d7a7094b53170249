"""Identities hold to rounding or do not; they have no p value."""

import numpy as np
import pytest
import torch

from mechtest.assertions import assert_identity, check_identity
from mechtest.errors import ClaimInvalid, ClaimRefuted
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, running
from tests.assertions.zoo import prose
from tests.tiny import tiny_model


def check(observed, expected, tolerance=1e-6, **options):
    return check_identity(
        observed, expected, tolerance=tolerance, what="share moved", model=prose(), **options
    )


def test_equal_values_are_supported_without_a_p_value():
    found = check(torch.ones(3), 1.0)
    assert (found.verdict, found.kind, found.binding) == ("supported", "identity", "difference")
    assert found.p == 0
    assert found.evidence[0].p_effect is None
    assert found.evidence[0].effect.low is None
    assert found.evidence[0].effect.reason
    assert ClaimRecord.from_json(found.to_json()) == found
    assert found.evidence[0].model.weights == prose().fingerprint.weights


def test_the_worst_prompt_is_named():
    found = check([1.0, 1.5, 1.2], 1.0, tolerance=0.1, ids=["a", "b", "c"])
    assert found.verdict == "refuted"
    assert found.evidence[0].worst_cluster == "b"
    assert found.evidence[0].effect.estimate == pytest.approx(0.5)
    assert "0.5, at b" in found.reason
    with pytest.raises(
        ClaimRefuted, match=r"0\.5 > 0\.1, difference: identity of share moved is refuted"
    ):
        assert_identity(
            [1.0, 1.5], 1.0, tolerance=0.1, what="share moved", model=prose(), ids=["a", "b"]
        )


@pytest.mark.parametrize(
    ("observed", "expected", "verdict"),
    [
        (1.0, 1.0, "supported"),
        (np.float32(2), 1.0, "refuted"),
        (np.ones((2, 3)), np.ones(3), "supported"),
        (np.ones((2, 3)), np.ones((2, 1)), "supported"),
        ([True], [1], "supported"),
    ],
    ids=["number", "numpy number", "row", "column", "boolean"],
)
def test_shapes_that_line_up(observed, expected, verdict):
    assert check(observed, expected).verdict == verdict


def test_a_difference_at_the_tolerance_is_no_difference():
    assert check([0.25], [0.0], tolerance=0.25).verdict == "supported"
    assert check([0.2500001], [0.0], tolerance=0.25).verdict == "refuted"


@pytest.mark.parametrize(
    ("observed", "expected", "tolerance", "code", "text"),
    [
        ([], [], 1e-6, "MT703", "nothing to compare"),
        ([1.0], [1.0], 0.0, "MT703", "positive tolerance"),
        ([1.0], [1.0], float("nan"), "MT703", "positive tolerance"),
        ([1.0, float("nan")], 1.0, 1e-6, "MT305", "b"),
        ([1.0, 1.0], [1.0, float("inf")], 1e-6, "MT305", "b"),
        ([1.0, 1.0], [1.0, 1.0, 1.0], 1e-6, "MT403", "do not line up"),
        ([1.0], [1.0, 1.0], 1e-6, "MT403", "do not line up"),
    ],
    ids=["empty", "no tolerance", "nan tolerance", "nan", "inf", "shape", "wider"],
)
def test_what_cannot_be_compared(observed, expected, tolerance, code, text):
    found = check(observed, expected, tolerance, ids=["a", "b"])
    assert (found.verdict, found.binding, found.p) == ("invalid", code, 1)
    assert text in found.reason
    with pytest.raises(ClaimInvalid):
        assert_identity(observed, expected, tolerance=tolerance, what="w", model=prose())


def test_a_model_that_came_from_no_file_has_no_digest():
    found = check_identity([1.0], 1.0, tolerance=1e-6, what="w", model=tiny_model())
    assert found.evidence[0].model.weights == ""
    assert ClaimRecord.from_json(found.to_json()) == found


def test_it_attaches_to_the_running_claim_and_leaves_a_plan():
    with running(RunningClaim(id="t.py::t", statement="It is one")) as claim:
        record = assert_identity([1.0], 1.0, tolerance=1e-6, what="w", model=prose())
    assert claim.records == [record]
    assert (record.id, record.statement) == ("t.py::t", "It is one")
    with running(RunningClaim(id="t.py::t", planning=True)) as claim:
        assert_identity([3.0], 1.0, tolerance=1e-6, what="w", model=prose())
    assert claim.records == []
    assert [plan["attainable"] for plan in claim.plans] == [True]
