"""How does a checked claim reach its test: attached, and raised when it is not supported?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mechtest.errors import (
    ClaimError,
    ClaimInconclusive,
    ClaimInvalid,
    ClaimRefuted,
    MechtestError,
)
from mechtest.records import ClaimRecord, Evidence, Verdict
from mechtest.running_claim import RunningClaim, current_claim

__all__ = ["checked", "conclude", "inside_hypothesis", "not_supported"]

_ERRORS: Mapping[Verdict, type[ClaimError]] = {
    Verdict.REFUTED: ClaimRefuted,
    Verdict.INCONCLUSIVE: ClaimInconclusive,
    Verdict.INVALID: ClaimInvalid,
}

Check = Callable[[RunningClaim], ClaimRecord]


def checked(kind: str, check: Check, *, level: float | None, statement: str) -> ClaimRecord:
    """Run a check under the claim at hand, and turn what it cannot test into an invalid record.

    Args:
        kind: Kind of claim.
        check: Does the work.
        level: The caller's level; None takes that of the running claim (.05 outside a test).
        statement: Instead of the running claim's sentence.
    """
    claim = current_claim() or RunningClaim()
    try:
        inside_hypothesis()
        if level is not None:
            claim = _with_level(claim, level)
        return check(claim)
    except MechtestError as error:
        if claim.planning:
            _plan_problem(kind, claim, error)
        return ClaimRecord(
            id=claim.id,
            statement=claim.statement or statement,
            kind=kind,
            verdict=Verdict.INVALID,
            binding=error.code,
            reason=str(error),
            settle="",
            level=claim.level,
            seed=claim.seed,
            prompts="",
            settings={"kind": kind},
        )


def _plan_problem(kind: str, claim: RunningClaim, error: MechtestError) -> None:
    """Leave a plan that says why the claim cannot be tested, however often it is run."""
    parts = [error.what]
    parts += [] if error.given is None else [f"given {error.given}"]
    parts += [f"expected {error.expected}"] if error.expected else []
    claim.plans.append(
        {"settings": {"kind": kind}, "attainable": False, "problem": "; ".join(parts)}
    )


def _with_level(claim: RunningClaim, level: float) -> RunningClaim:
    if claim.id and claim.registered and level > claim.level:
        raise ClaimInvalid(
            "a registered claim cannot be tested at a level looser than its own",
            given=f"level={level:g}",
            expected=f"at most {claim.level:.4g}, which the lock gives it",
            next_step="leave level= out",
        )
    own = RunningClaim(**{**vars(claim), "level": level})
    own.records, own.plans, own.maps = claim.records, claim.plans, claim.maps
    return own


def inside_hypothesis() -> None:
    """Raise where a statistical claim is made inside `@given`.

    Hypothesis's examples are chosen to fail and depend on each other; a p value over them, or one
    per example, means nothing.
    """
    import sys

    hypothesis = sys.modules.get("hypothesis")
    if hypothesis is not None and hypothesis.currently_in_test_context():
        raise ClaimInvalid(
            "a statistical claim inside @given: its p value would mean nothing",
            given="an assertion called for a hypothesis example",
            expected="a deterministic condition inside @given, and claims outside it",
        )


def conclude(record: ClaimRecord, circuit: str) -> ClaimRecord:
    """Attach a record to the running test, and raise unless the claim is supported.

    Raises:
        ClaimRefuted, ClaimInconclusive: AssertionErrors with the numbers first.
        ClaimInvalid: Not an assertion: the claim could not be tested.
    """
    __tracebackhide__ = True
    claim = current_claim()
    if claim is not None:
        if claim.planning:
            return record
        claim.records.append(record)
    if record.verdict is Verdict.SUPPORTED:
        return record
    raise not_supported(record, circuit)


def not_supported(record: ClaimRecord, circuit: str) -> ClaimError:
    """Return the error that says what a record came to, where that is not "supported"."""
    claim = current_claim()
    kind = _ERRORS[record.verdict]
    replay = [f"{'replay':<9} pytest '{claim.id}' --mechtest-seed={claim.seed}"] if claim else []
    if record.verdict is Verdict.INVALID:
        first, _, rest = record.reason.partition("\n")
        lines = [line.strip() for line in rest.splitlines()]
        what = f"{record.kind} of {circuit} cannot be tested: {first}"
        return kind(what, record=record, details=[*lines, *replay])
    return kind(
        f"{headline(record)}: {record.kind} of {circuit} is {record.verdict}",
        record=record,
        given=f"{record.statement or record.kind} (level {record.level:.3g})",
        expected=None,
        details=[
            f"{'decided':<9} {record.binding}: {record.reason}",
            *_numbers(record),
            f"{'next':<9} {record.settle or 'look at effects prompt by prompt in the report'}",
            *replay,
        ],
    )


def headline(record: ClaimRecord) -> str:
    """Return the numbers that decided, short enough for one cut line of a summary."""
    shown = _worst(record)
    if shown is None:
        return str(record.verdict)
    sign = "<" if shown.direction == "greater" else ">"
    against = "" if shown.threshold is None else f" {sign} {shown.threshold:g}"
    if shown.p_effect is None and shown.controls is None:  # nothing is estimated, so there is no p
        return f"{shown.effect.estimate:.3g}{against}, {record.binding}"
    if not record.binding.endswith("effect") or record.verdict is Verdict.INCONCLUSIVE:
        against = ""
    return f"{shown.effect.estimate:.2f}{against}, p {shown.p:.2g}, {record.binding}"


def _worst(record: ClaimRecord) -> Evidence | None:
    order = [Verdict.INVALID, Verdict.REFUTED, Verdict.INCONCLUSIVE, Verdict.SUPPORTED]
    return min(record.evidence, key=lambda item: order.index(item.verdict), default=None)


def _numbers(record: ClaimRecord) -> list[str]:
    """Return one line a measurement, and one for its controls."""
    lines = []
    for item in record.evidence:
        name = f"{item.label + ':' if item.label else 'measured':<9} "
        low, high = item.effect.low, item.effect.high
        span = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
        held = "" if item.threshold is None else f", claimed {item.direction} than "
        held += "" if item.threshold is None else f"{item.threshold:g}"
        p = "" if item.p_effect is None else f", p {item.p_effect:.3g} ({item.method})"
        lines.append(
            f"{name}effect {item.effect.estimate:.3g}{span}{held}{p}, level {record.level:.3g}; "
            f"{item.clusters} templates, {item.prompts} prompts"
        )
        lines += [f"{'ablation':<9} {other.detail}" for other in item.ablations]
        if item.counterexample is not None:
            lines.append(f"{'prompt':<9} {item.counterexample.clean!r}")
            lines.append(f"{'example':<9} {item.counterexample.example}")
        if item.controls is not None:
            rank = item.controls
            mean = "-" if rank.null_mean is None else f"{rank.null_mean:.3g}"
            lines.append(
                f"{'controls':<9} {rank.at_least_as_extreme} of {rank.drawn} {rank.kind} controls "
                f"as good, p {rank.p:.3g}, their mean {mean}, stopped: {rank.stopped}"
            )
    return lines
