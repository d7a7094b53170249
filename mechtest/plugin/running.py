"""What happens around one claim's test: who is running, and what did it come to?"""

from __future__ import annotations

import bdb
import time
from collections.abc import Generator, Mapping
from dataclasses import asdict
from typing import Any

import pytest

from mechtest.errors import ClaimError, ClaimInconclusive, ClaimRefuted
from mechtest.plugin.given import settle_draws
from mechtest.plugin.lock import settings_differences
from mechtest.plugin.marks import refusal
from mechtest.plugin.plan import PlannedClaim
from mechtest.plugin.session import ClaimSession
from mechtest.plugin.shown import shorten, user_properties
from mechtest.plugin.threads import effective_threads
from mechtest.plugin.twins import with_twins
from mechtest.plugin.verdicts import (
    Judgement,
    all_records,
    ending,
    evidence_of,
    is_expected,
    judge,
    plain,
)
from mechtest.records import ClaimRecord
from mechtest.running_claim import DEFAULT_ALPHA, RunningClaim, running

__all__ = ["RUNNING", "attach_facts", "call_claim", "refuse_problem", "run_claim"]

RUNNING = pytest.StashKey[RunningClaim]()
JUDGEMENT = pytest.StashKey[Judgement]()
PROMPTS = pytest.StashKey[dict[str, str]]()
TWINS = pytest.StashKey[str]()
FACTS = pytest.StashKey[Mapping[str, Any]]()

PROGRESS_SECONDS = 0.2
PASS_ON = (KeyboardInterrupt, SystemExit, GeneratorExit, pytest.exit.Exception, bdb.BdbQuit)


class _Records(list[ClaimRecord]):
    """Records that are written down as they come, for the case that the process dies."""

    def __init__(self, session: ClaimSession, claim: str) -> None:
        super().__init__()
        self._session = session
        self._claim = claim

    def append(self, record: ClaimRecord) -> None:
        """Add a record."""
        super().append(record)
        if self._session.journal is not None:
            text = f"{record.kind} {record.verdict}: {record.reason}"
            self._session.journal.write("record", {"id": self._claim, "text": text})


def run_claim(
    item: pytest.Item, session: ClaimSession, planned: PlannedClaim
) -> Generator[None, object, object]:
    """Put a claim in place for the time of its test, fixtures included."""
    claim = RunningClaim(
        id=planned.id,
        key=planned.key,
        statement=planned.statement,
        family=planned.family,
        level=DEFAULT_ALPHA if session.problem is not None else session.level(planned),
        seed=0 if session.problem is not None else session.seed,
        registered=session.problem is None and session.is_registered(planned),
        exact=planned.exact,
        planning=session.options.planning,
        engine=session.options.engine,
        memory=session.options.memory,
    )
    claim.records = _Records(session, planned.id)
    claim.on_event = _teller(session, planned.id)
    item.stash[RUNNING] = claim
    item.stash[PROMPTS] = {}
    if session.journal is not None:
        session.journal.write("start", {"id": planned.id})
    with running(claim):
        return (yield)


def _teller(session: ClaimSession, claim: str) -> Any:
    last = [0.0]

    def tell(event: str, content: Mapping[str, Any]) -> None:
        now = time.monotonic()
        if event == "progress":
            if now - last[0] < PROGRESS_SECONDS:
                return
            last[0] = now
            if session.live is not None:
                session.live.show(claim, content)
        if session.journal is not None:
            session.journal.write(event, {"id": claim, **plain(dict(content))})

    return tell


def refuse_problem(session: ClaimSession, planned: PlannedClaim) -> None:
    """Raise where a claim cannot be checked as declared, or in a run like this.

    Raises:
        RegistrationError: Says what to change.
    """
    if session.problem is not None:
        raise session.problem
    if planned.problem:
        raise refusal(planned.problem)


def call_claim(
    item: pytest.Item, session: ClaimSession, planned: PlannedClaim
) -> Generator[None, object, object]:
    """Let the test run and turn what it came to into what pytest has to see."""
    __tracebackhide__ = True
    settle_draws(item, item.stash[RUNNING])
    try:
        result = yield
    except PASS_ON:
        raise
    except BaseException as error:
        verdict = _judged(item, error)
        if session.options.planning:
            raise
        if is_expected(verdict.verdict, planned.expect):
            return None
        changed = ending(verdict, planned.expect, session.options.inconclusive)
        softened = isinstance(changed, (pytest.xfail.Exception, pytest.skip.Exception))
        unexpected = isinstance(error, (ClaimRefuted, ClaimInconclusive)) and (
            planned.expect != "supported"
        )
        if changed is not None and verdict.verdict != "skipped" and (softened or unexpected):
            raise changed from (None if softened else error)
        raise
    if session.options.planning:
        return result
    judgement = _with_twins(item, planned, _judged(item, None), session.options.twins)
    changed = ending(judgement, planned.expect, session.options.inconclusive)
    if changed is not None:
        raise changed
    return result


def _judged(item: pytest.Item, error: BaseException | None) -> Judgement:
    claim = item.stash[RUNNING]
    for record in all_records(claim, error)[len(claim.records) :]:
        claim.records.append(record)  # one that only the error carried
    judgement = judge(claim.records, error)
    item.stash[JUDGEMENT] = judgement
    return judgement


def _with_twins(
    item: pytest.Item, planned: PlannedClaim, judgement: Judgement, twins: int
) -> Judgement:
    outcome = with_twins(item, planned, item.stash[RUNNING], judgement, twins)
    item.stash[JUDGEMENT] = outcome.judgement
    item.stash[TWINS] = outcome.note
    return outcome.judgement


def attach_facts(
    item: pytest.Item,
    call: pytest.CallInfo[None],
    report: pytest.TestReport,
    session: ClaimSession,
    planned: PlannedClaim,
) -> None:
    """Put what the claim came to on the report that travels to the controller."""
    if report.when == "teardown" or (report.when == "setup" and report.passed):
        if report.when == "teardown" and FACTS in item.stash:
            _add_properties(item, report, item.stash[FACTS], planned)
            if session.journal is not None:
                session.journal.write("done", {"id": planned.id, "failed": bool(report.failed)})
        return
    if session.live is not None:
        session.live.clear(planned.file)
    error = None if call.excinfo is None else call.excinfo.value
    claim = item.stash.get(RUNNING, None)
    if claim is None:
        return
    judgement = item.stash.get(JUDGEMENT, None)
    if judgement is None or report.when == "setup":
        judgement = judge(all_records(claim, error), error)
    if isinstance(error, ClaimError):
        shorten(report, call, item)
    facts = _facts(item, claim, judgement, error, session, planned)
    facts["message"] = plain(report.longreprtext) if report.failed else ""
    facts["seconds"] = float(report.duration)
    item.stash[FACTS] = facts
    report.mechtest = facts  # type: ignore[attr-defined]
    _add_properties(item, report, facts, planned)
    if session.journal is not None:
        content = {"id": planned.id, "facts": facts, **_as_shown(item, report)}
        session.journal.write("end", content, keep=True)
        facts["unsaved"] = session.journal.failed


def _as_shown(item: pytest.Item, report: pytest.TestReport) -> dict[str, Any]:
    """Return a report as a run that goes on with this one shows it again."""
    data = item.config.hook.pytest_report_to_serializable(config=item.config, report=report)
    data.pop("mechtest", None)  # the facts, which stand beside it
    properties = data.pop("user_properties", [])
    return {"report": plain(data), "properties": plain(properties)}


def _add_properties(
    item: pytest.Item, report: pytest.TestReport, facts: Mapping[str, Any], planned: PlannedClaim
) -> None:
    """Tell other tools, which read a report's properties: JUnit and the like."""
    if report.when != "teardown":
        item.user_properties.extend(user_properties(facts, planned))
    report.user_properties = list(item.user_properties)


def _facts(
    item: pytest.Item,
    claim: RunningClaim,
    judgement: Judgement,
    error: BaseException | None,
    session: ClaimSession,
    planned: PlannedClaim,
) -> dict[str, Any]:
    records = all_records(claim, error)
    settings = [plain(record.settings) for record in records]
    notes = [str(note) for record in records for note in record.notes]
    notes += filter(None, [item.stash.get(TWINS, "")])
    prompts = item.stash.get(PROMPTS, {})
    registered, why = _registration(session, planned, settings, prompts)
    models = [item.model for record in records for item in record.evidence]
    model = {}
    if models:
        first = models[0]
        model = {"sha256": first.weights, "dtype": first.dtype, "device": first.device}
    return {
        "id": planned.id,
        "verdict": judgement.verdict,
        "binding": plain(judgement.binding),
        "reason": plain(judgement.reason),
        "settle": plain(judgement.settle),
        "p": plain(judgement.p),
        "level": float(claim.level),
        "registered": registered,
        "notes": plain([*notes, *why]),
        "model": plain(model),
        "settings": settings,
        "evidence": evidence_of(records),
        "maps": _maps(claim),
        "prompts": plain(prompts),
        "plans": plain(list(claim.plans)),
        "failed": error is not None,
        "worker": session.worker,
        "forward_passes": int(claim.forward_passes),
        "forward_tokens": int(claim.forward_tokens),
        "engine": claim.engines,
        "kernels": claim.kernels,
        "threads": effective_threads(),
        "ledger": [list(pair) for pair in dict.fromkeys(claim.ledger)],
    }


def _maps(claim: RunningClaim) -> list[Any]:
    return [plain(asdict(table)) for table in claim.maps]


def _registration(
    session: ClaimSession,
    planned: PlannedClaim,
    settings: list[Mapping[str, Any]],
    prompts: Mapping[str, str],
) -> tuple[bool, list[str]]:
    """Return whether the claim was checked as registered, and if not, why."""
    if session.problem is not None or session.lock is None or session.options.planning:
        return False, []
    changed = session.changed_since_lock(planned)
    locked = session.lock.claims.get(planned.key)
    if locked is not None and settings:
        digest = ",".join(sorted(prompts.values()))
        changed = [*changed, *settings_differences(locked, settings, digest)]
    if locked is None:
        return False, ["not in the lock"]
    why = [f"changed since the lock: {'; '.join(changed)}"] if changed else []
    return not changed and not session.deviations(), [*why, *session.deviations()]
