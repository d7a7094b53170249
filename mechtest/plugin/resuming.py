"""How does a run go on where another was interrupted, with the same result?

A claim's record is decided in its worker, at a level from the lock, with draws that depend on the
seed and the claim alone: whether it was checked yesterday or now makes no difference. So what was
finished is taken over from the journals, and pytest is shown the reports it would have seen; the
rest is run, an interrupted claim from its start. What the results depend on must be as it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mechtest.plugin.context import context_differences, run_context
from mechtest.plugin.journal import JournalContent, newest_run, read_journals, write_lines
from mechtest.plugin.plan import PlannedClaim
from mechtest.plugin.session import ClaimSession

__all__ = ["Replays", "begin_run", "forget_refused", "refuse_changes", "take_over"]

NAME = "resumed"
"""Of the journal that holds what is taken over."""
_FINISHED = ("supported", "refuted", "inconclusive", "skipped")
_MOST = 12


def take_over(session: ClaimSession) -> None:
    """Find what an interrupted run has finished, and put it into this run's journals.

    In the controller (or the only process), before any worker starts. The journals of the
    interrupted run stay until this one has ended.
    """
    directory = session.journals
    old = newest_run(directory) if directory is not None else None
    if directory is None or old is None or old == session.run_id:
        session.messages.append("nothing to resume: no journal of an earlier run was found")
        return
    content = read_journals(directory, old)
    context = _context(content)
    if not context:
        session.messages.append("nothing to resume: the earlier run ended before it had a plan")
        return
    lines = [{"event": "run", "run": session.run_id, "worker": NAME, "resumes": old}]
    lines += [{**line, "event": "was"} for line in context]
    lines += finished(content)
    write_lines(directory / f"{NAME}-{session.run_id[:8]}.jsonl", lines)


def _context(content: JournalContent) -> list[dict[str, Any]]:
    """Return the context and the first plan of a run."""
    context, plans = content.events("context"), content.events("plan")
    if not context or not plans:
        return []
    return [{"context": context[-1], "plan": plans[0]}]


def finished(content: JournalContent) -> list[dict[str, Any]]:
    """Return the last lines of claims that came to a verdict and were torn down in peace."""
    done = {line["id"] for line in content.events("done") if not line["failed"]}
    ends = {line["id"]: line for line in content.events("end") if "report" in line}
    kept = [
        line
        for name, line in ends.items()
        if name in done and line["facts"]["verdict"] in _FINISHED
    ]
    return [*kept, *({"event": "done", "id": line["id"], "failed": False} for line in kept)]


def begin_run(session: ClaimSession) -> None:
    """Write down under which conditions the claims are checked, before the first one starts.

    Raises:
        UsageError: The run is to go on with one that was checked under others.
    """
    context = run_context(session)
    if session.options.resume:
        refuse_changes(session, context)
    if session.journal is not None:
        errors = {"collection_errors": list(session.collection_errors)}
        session.journal.write("context", {**context, **errors}, keep=True)


def refuse_changes(session: ClaimSession, context: Mapping[str, Any]) -> None:
    """Say what is taken over, or end the run where that would not give the same result.

    Args:
        session: After its plan was taken.
        context: Of this run.

    Raises:
        UsageError: Names every field that differs.
    """
    content = session.read_journals()
    was = content.events("was")
    if not was:
        return  # nothing is taken over
    plans = content.events("plan")
    found = context_differences(was[0]["context"], json.loads(json.dumps(context)))
    found += _plan_differences(was[0]["plan"], plans[0])
    if found:
        session.refused = True
        shown = [f"  {line}" for line in found[:_MOST]]
        more = [f"  and {len(found) - _MOST} more"] if len(found) > _MOST else []
        raise pytest.UsageError(
            "\n".join(
                [
                    "the interrupted run cannot be resumed: what results depend on has changed",
                    *shown,
                    *more,
                    "put it back, or run without --mechtest-resume to begin anew",
                ]
            )
        )
    taken = len({line["id"] for line in content.events("end")})
    session.messages.append(
        f"resumed: {taken} of {len(session.planned)} claims taken over from the run of "
        f"{was[0]['context']['started']}"
    )


def _plan_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    found = []
    before = {claim["id"]: claim for claim in old["claims"]}
    now = {claim["id"]: claim for claim in new["claims"]}
    found += [f"{name} is no longer collected" for name in before if name not in now]
    found += [f"{name} was not collected" for name in now if name not in before]
    for name, claim in now.items():
        if name in before and before[name] != claim:
            fields = [key for key in claim if before[name].get(key) != claim[key]]
            found.append(f"{name}: {', '.join(fields)} changed")
    digests = {**old["inputs"], **new["inputs"]}
    found += [
        f"{name} changed" for name in digests if old["inputs"].get(name) != new["inputs"].get(name)
    ]
    if old["problem"] != new["problem"]:
        found.append(f"problem {old['problem'] or 'none'} -> {new['problem'] or 'none'}")
    return found


class Replays:
    """Shows pytest the reports of claims that are taken over, in place of running them.

    Args:
        session: Of the process that runs tests.
    """

    def __init__(self, session: ClaimSession) -> None:
        self._session = session
        self._lines: dict[str, Mapping[str, Any]] | None = None

    def line(self, planned: PlannedClaim) -> Mapping[str, Any] | None:
        """Return what the interrupted run wrote of a claim; None where it has to be run."""
        if self._lines is None:
            taken = self._session.read_journals().lines
            lines = [
                line for name, found in taken.items() if name.startswith(NAME) for line in found
            ]
            self._lines = {line["id"]: line for line in lines if line["event"] == "end"}
        return self._lines.get(planned.id)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> bool | None:
        """Emit the reports of a claim that is taken over."""
        planned = self._session.planned.get(item.nodeid)
        line = None if planned is None else self.line(planned)
        if line is None:
            return None
        hook = item.ihook
        hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in _reports(item, nextitem, line):
            hook.pytest_runtest_logreport(report=report)
        hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True


def _reports(
    item: pytest.Item, nextitem: pytest.Item | None, line: Mapping[str, Any]
) -> Sequence[pytest.TestReport]:
    """Return the three reports of a test: what its own phase came to, and calm ones around it."""
    data = {**line["report"], "user_properties": [tuple(p) for p in line["properties"]]}
    own = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
    own.mechtest = line["facts"]
    if isinstance(own.longrepr, list):
        own.longrepr = tuple(own.longrepr)  # of a skip; JSON knows lists only
    item.user_properties.extend(data["user_properties"])
    # Fixtures that the test before left for this one end here, as if it had run.
    teardown = pytest.CallInfo.from_call(
        lambda: item.session._setupstate.teardown_exact(nextitem), when="teardown"
    )
    last = pytest.TestReport.from_item_and_call(item, teardown)
    if own.when == "setup":
        return [own, last]
    setup = pytest.CallInfo.from_call(lambda: None, when="setup")
    return [pytest.TestReport.from_item_and_call(item, setup), own, last]


def forget_refused(directory: Path, run: str) -> None:
    """Delete the journals of a run that was refused; those it was to go on with stay."""
    for path in directory.glob(f"*-{run[:8]}.jsonl"):
        path.unlink(missing_ok=True)
