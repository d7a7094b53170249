"""What does the end of a claim's test come to, in plain values that travel?

A test makes one row of the report, whatever number of assertions it has: the worst record decides,
and its p value is the largest.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from mechtest.errors import (
    ClaimInconclusive,
    ClaimInvalid,
    ClaimRefuted,
    MechtestError,
)
from mechtest.records import ClaimRecord, Verdict
from mechtest.running_claim import RunningClaim

__all__ = ["Judgement", "is_expected", "judge", "plain"]

_BADNESS = (Verdict.SUPPORTED, Verdict.INCONCLUSIVE, Verdict.REFUTED, Verdict.INVALID)
_TIMEOUT = "Timeout ("  # how the message of pytest-timeout begins


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a test came to.

    Attributes:
        verdict: One of the report's words.
        binding: What decided.
        reason: One sentence.
        settle: What would settle an inconclusive claim.
        p: Largest p value of its records.
    """

    verdict: str
    binding: str
    reason: str
    settle: str = ""
    p: float = 1.0


def is_expected(verdict: str, expect: str) -> bool:
    """Whether a verdict is the one a claim is written to come to."""
    if expect == "not supported":
        return verdict in (Verdict.REFUTED, Verdict.INCONCLUSIVE)
    return verdict == expect and verdict in tuple(Verdict)


def all_records(claim: RunningClaim, error: BaseException | None) -> list[ClaimRecord]:
    """Return a claim's records; one that only the error carries is among them."""
    records = list(claim.records)
    own = getattr(error, "record", None)
    if isinstance(own, ClaimRecord) and all(own is not record for record in records):
        records.append(own)
    return records


def judge(records: Sequence[ClaimRecord], error: BaseException | None) -> Judgement:
    """Return what records and the exception of a test come to."""
    if isinstance(error, (pytest.skip.Exception, pytest.xfail.Exception)):
        return Judgement("skipped", "skip", _first_line(error) or "skipped by the test")
    if isinstance(error, pytest.fail.Exception) and str(error).startswith(_TIMEOUT):
        return Judgement("interrupted", "timeout", _first_line(error))
    worst = max(records, key=lambda record: _BADNESS.index(record.verdict), default=None)
    if error is None:
        if worst is None:
            return Judgement(
                "invalid", "no evidence", "the test passed without a single measured assertion"
            )
        return _of_record(worst, records)
    stated = _verdict_of(error)
    if worst is not None and _BADNESS.index(worst.verdict) >= _BADNESS.index(stated):
        return _of_record(worst, records)
    binding = error.code if isinstance(error, MechtestError) else type(error).__name__
    reason = error.what if isinstance(error, MechtestError) else _first_line(error)
    return Judgement(str(stated), binding, reason.partition("\n")[0] or binding)


def ending(judgement: Judgement, expect: str, inconclusive: str) -> BaseException | None:
    """Return what a test has to raise that did not raise by itself, or should raise otherwise.

    Args:
        judgement: What it came to.
        expect: What its claim is written to come to.
        inconclusive: Option of that name.

    Returns:
        None where the test is to pass.
    """
    if is_expected(judgement.verdict, expect):
        return None
    what = f"{judgement.verdict}: {judgement.reason}"
    if expect != "supported":
        what = f"{judgement.verdict}, expected {expect}: {judgement.reason}"
    if judgement.verdict == Verdict.INCONCLUSIVE and inconclusive != "fail":
        kind = pytest.xfail.Exception if inconclusive == "xfail" else pytest.skip.Exception
        return kind(what)
    if judgement.verdict == Verdict.INVALID:
        return ClaimInvalid(
            what,
            next_step="use one of the assertions, for example mt.assert_necessary(...)"
            if judgement.binding == "no evidence"
            else None,
        )
    if judgement.verdict == Verdict.INCONCLUSIVE:
        return ClaimInconclusive(what, next_step=judgement.settle or None)
    return ClaimRefuted(
        what,
        next_step="if this is what the data say, the claim is not what its author expected: change "
        "the statement, or `expect`"
        if expect != "supported"
        else None,
    )


def evidence_of(records: Sequence[ClaimRecord]) -> list[Any]:
    """Return all measurements of all records as plain values."""
    return [plain(asdict(item)) for record in records for item in record.evidence]


def plain(value: object) -> Any:
    """Return a value made of what JSON, and the channel between processes, can carry.

    A number of numpy would end the whole run without a word, so nothing is taken on trust.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value).encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        number = float(value)
        return number if math.isfinite(number) else None
    if isinstance(value, Mapping):
        return {str(plain(str(key))): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # arrays, and their scalars
        return plain(value.tolist())
    return plain(str(value))


def _of_record(worst: ClaimRecord, records: Sequence[ClaimRecord]) -> Judgement:
    return Judgement(
        str(worst.verdict),
        worst.binding,
        worst.reason,
        worst.settle,
        max(record.p for record in records),
    )


def _verdict_of(error: BaseException) -> Verdict:
    if isinstance(error, ClaimRefuted):
        return Verdict.REFUTED
    if isinstance(error, ClaimInconclusive):
        return Verdict.INCONCLUSIVE
    return Verdict.INVALID


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
