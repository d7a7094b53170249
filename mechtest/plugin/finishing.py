"""What is left behind when a run ends: report, lock or plan, and which exit status?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mechtest.errors import MechtestError
from mechtest.plugin.accounting import missing_evidence, not_checked
from mechtest.plugin.baseline import (
    add_comparison,
    forgiving,
    save_run,
    status_with_baseline,
)
from mechtest.plugin.gathering import Gathered, circuits_tested, gather, report_parts
from mechtest.plugin.journal import forget_other_runs
from mechtest.plugin.lock import (
    Lock,
    LockedClaim,
    changes,
    find_lock,
    home_of_lock,
    write_lock,
)
from mechtest.plugin.session import ClaimSession

__all__ = ["INCOMPLETE", "exit_status", "finish", "say"]

INCOMPLETE = 8
"""Exit status of a run in which nothing failed and claims were left unchecked."""


def finish(session: ClaimSession, status: int) -> int:
    """Write what a run leaves behind.

    Args:
        session: Of the controller, or of the only process.
        status: pytest's own exit status.

    Returns:
        The exit status to end with.
    """
    session.take_plan(session.read_journals())
    if not session.planned and session.facts:
        session.messages.append(
            "claims were checked and the plan of the run is lost: there is no report"
        )
        return status or INCOMPLETE
    if not session.planned and not _lock_near_errors(session):
        return status
    if session.journals is not None:
        forget_other_runs(session.journals, session.run_id)
    gathered = gather(session)
    if session.options.lock == "write":
        return _finish_lock(session, gathered, status)
    if session.options.plan:
        return _finish_plan(session, gathered, status)
    say(session, gathered)
    _write(session, gathered)
    status = forgiving(session, status)
    if status:
        return status
    return status_with_baseline(session, exit_status(session, gathered))


def _lock_near_errors(session: ClaimSession) -> bool:
    """Whether nothing but files that could not be collected hides the claims of a lock."""
    files = [error["file"] for error in session.collection_errors if error["file"]]
    try:
        path = find_lock(files, session.rootdir)
    except MechtestError:
        return True
    if path is not None:
        session.lock_path = path
        session.__dict__.pop("lock", None)
    return path is not None


def exit_status(session: ClaimSession, gathered: Gathered) -> int:
    """Return the status of a run in which no test failed."""
    if session.internal_error:
        return int(pytest.ExitCode.INTERNAL_ERROR)
    if gathered.stale and (session.options.ci or session.options.lock == "check"):
        return 1
    missing = session.unsaved or session.unwritten
    if missing_evidence(gathered.rows) or session.collection_errors or missing:
        return INCOMPLETE
    if session.options.require_all and not_checked(gathered.rows, gathered.registered):
        return INCOMPLETE
    return 0


def say(session: ClaimSession, gathered: Gathered) -> None:
    """Collect the sentences that the summary and the report say about the run."""
    rows = gathered.rows
    add = session.messages.append
    if session.problem is not None:
        add(str(session.problem))
    missing = not_checked(rows, gathered.registered)
    total = len(gathered.registered)
    if missing:
        add(
            f"{total - len(missing)} of {total} registered claims were checked; levels are those "
            f"for {total}"
        )
    for sentence in gathered.stale:
        add(f"stale lock: {sentence}")
    if gathered.stale:
        add(f"{_relock(session)} and commit the diff of {_lock_name(session)}")
    if session.lock_path is None and session.problem is None:
        add(f"no claims.lock: exploratory; to register these claims, {_relock(session)}")
    counts = circuits_tested(gathered.facts.values())
    if counts:
        add(
            "different circuits tested on one test half: at most "
            f"{max(counts.values())} (of {len(counts)} halves); each look at a half spends it"
        )
    for verdict, text in (
        ("crashed", "ended with its worker"),
        ("interrupted", "was cut off"),
        ("not_run", "was not run"),
    ):
        for row in rows:
            if row["verdict"] == verdict:
                add(f"{row['id']} {text}: the evidence is incomplete")
    if missing_evidence(rows) and session.options.report is not None:
        add("to go on where this run ended, run it again with --mechtest-resume")
    if session.internal_error:
        add("pytest itself failed (see INTERNALERROR above): do not trust this run")
    for error in session.collection_errors:
        add(f"{error['file']} could not be collected: its claims are not in this report")
    for row in rows:
        if row["gate"] == "closed" and row["verdict"] == "supported":
            add(f"{row['id']}: gate closed, {row['notes'][-1]}")
    unsaved = {str(facts["unsaved"]) for facts in gathered.facts.values() if facts.get("unsaved")}
    if session.journal is not None and session.journal.failed:
        unsaved.add(session.journal.failed)
    for text in sorted(unsaved):
        add(f"a crash would have lost finished claims: {text}")
    if gathered.journals.torn:
        add(f"{gathered.journals.torn} torn lines in the workers' journals")


def _relock(session: ClaimSession) -> str:
    where = " ".join(str(arg) for arg in session.config.args) or "claims/"
    return f"run `pytest {_relative(where, session.rootdir)} --mechtest-lock`"


def _relative(text: str, rootdir: Path) -> str:
    return text.replace(f"{rootdir}{os.sep}", "").replace(str(rootdir), ".")


def _lock_name(session: ClaimSession) -> str:
    path = session.lock_path
    return "claims.lock" if path is None else path.relative_to(session.rootdir).as_posix()


def _write(session: ClaimSession, gathered: Gathered) -> None:
    """Build the report, and write it where one is wanted."""
    from mechtest.report import (
        build_report,
        github_annotations,
        github_step_summary,
        write_report,
    )

    session.report = build_report(gathered.rows, **report_parts(session, gathered))
    add_comparison(session)
    save_run(session)
    if session.options.report is not None:
        try:
            session.written = write_report(session.report, session.options.report)
        except OSError as error:
            session.unwritten = f"the report could not be written: {error}"
            session.messages.append(session.unwritten)
    if os.environ.get("GITHUB_ACTIONS", "").lower() == "true":
        session.annotations = list(github_annotations(session.report))
    summary = os.environ.get("GITHUB_STEP_SUMMARY", "")
    if summary:
        with Path(summary).open("a", encoding="utf-8") as file:
            file.write(github_step_summary(session.report))


# -- lock and plan ---------------------------------------------------------------------------


def _refused(session: ClaimSession, gathered: Gathered) -> str:
    """Return why no lock can be written, empty where it can."""
    if session.problem is not None:
        return str(session.problem)
    if session.collection_errors:
        return f"{session.collection_errors[0]['file']} could not be collected"
    if any("::" in str(arg) for arg in session.config.args) or getattr(
        session.config.option, "lf", False
    ):
        return "a lock is written from whole files; give files or directories, and no --lf"
    for row in gathered.rows:
        facts = gathered.facts.get(row["id"])
        if row["verdict"] == "deselected":
            return f"{row['id']} is deselected; a lock is written from all claims: drop -k and -m"
        if facts is None or facts["failed"]:
            reason = row["reason"] if facts is None else facts["reason"]
            return f"{row['id']} cannot be planned: {reason}"
        problems = [plan["problem"] for plan in facts["plans"] if not plan.get("attainable", True)]
        if problems:
            return f"{row['id']} could never be supported: {problems[0]}"
    return ""


def _finish_lock(session: ClaimSession, gathered: Gathered, status: int) -> int:
    refused = _refused(session, gathered)
    if refused:
        session.messages.append(f"no lock was written: {refused}")
        return status or 1
    old = session.lock
    path = session.lock_path or home_of_lock(
        {claim.file for claim in session.planned.values()}, session.rootdir
    )
    new = _new_lock(session, gathered, old)
    if old is None or old.text != new.text:
        write_lock(path, new)
    name = path.relative_to(session.rootdir).as_posix()
    found = changes(old, new)
    session.messages.append(f"{name}: {len(new.claims)} claims" + ("" if found else ", unchanged"))
    session.messages += [f"  {line}" for line in found]
    return status


def _new_lock(session: ClaimSession, gathered: Gathered, old: Lock | None) -> Lock:
    """Return the lock of the collected claims, with those of files not collected as they were."""
    ordered = {name: plan.ordered for name, plan in session.budget.families.items()}
    claims: dict[str, LockedClaim] = {}
    by_key = {claim.key: claim for claim in reversed(list(session.planned.values()))}
    for key in session.budget.claims:
        claim = by_key[key]
        facts = gathered.facts[claim.id]
        claims[key] = LockedClaim(
            family=claim.family,
            statement=claim.statement,
            expect=claim.expect,
            exact=claim.exact,
            settings=tuple(plan["settings"] for plan in facts["plans"] if "settings" in plan),
            prompts=",".join(sorted(facts["prompts"].values())),
        )
    if old is not None:
        for key, locked in old.claims.items():
            file = key.partition("::")[0]
            if file not in session.files and (session.rootdir / file).exists():
                claims.setdefault(key, locked)
                ordered.setdefault(locked.family, old.ordered[locked.family])
    return Lock(session.alpha, session.seed, ordered, claims)


def _finish_plan(session: ClaimSession, gathered: Gathered, status: int) -> int:
    """Keep the plans for the summary; fails when some claim could never be supported."""
    session.plans = [
        (row, plan)
        for row in gathered.rows
        for plan in gathered.facts.get(row["id"], {}).get("plans", [])
    ]
    hopeless = [
        f"{row['id']} could never be supported: {plan['problem']}"
        for row, plan in session.plans
        if not plan.get("attainable", True)
    ]
    unplanned = [
        f"{row['id']} could not be planned: {gathered.facts[row['id']]['reason']}"
        for row in gathered.rows
        if row["id"] in gathered.facts and gathered.facts[row["id"]]["failed"]
    ]
    session.messages += [*hopeless, *unplanned]
    return status or (1 if hopeless or unplanned else 0)
