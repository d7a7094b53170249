"""What of an earlier run still holds, and which exit status does that make?

All of it happens once, in the process that accounts for the claims, whatever the number of workers.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mechtest.errors import MechtestError

if TYPE_CHECKING:
    from mechtest.plugin.options import Options
    from mechtest.plugin.session import ClaimSession

__all__ = [
    "Baseline",
    "add_comparison",
    "comparison_lines",
    "forgiving",
    "load_baseline",
    "save_run",
    "status_with_baseline",
]

INCOMPLETE = 8
"""Exit status of a run in which nothing regressed and something could not be compared."""


@dataclass(frozen=True)
class Baseline:
    """What a run is held against.

    Attributes:
        name: How it is called.
        report: Its report.
        allowances: Findings that may be lost for now.
    """

    name: str
    report: Mapping[str, Any]
    allowances: tuple[Any, ...] = field(default=())


def load_baseline(options: Options, rootdir: Path) -> Baseline | None:
    """Read the baseline and the allow-list; None where none is asked for.

    It is read before anything is run: a wrong name costs seconds, and a run that is saved as
    `latest` cannot become its own baseline.

    Raises:
        UsageError: No such run, no report, or an allow-list that cannot be used.
    """
    asked = options.earlier
    if not asked.baseline or options.planning:
        return None
    from mechtest.comparison import read_allowances, require_templates
    from mechtest.report import read_report
    from mechtest.runs import STORE, RunStore, resolve

    try:
        found = resolve(asked.baseline, RunStore(rootdir / STORE), rootdir)
        report = read_report(found.path)
        require_templates(report, found.name)
        today = dt.datetime.now(dt.UTC).date()
        allowances = read_allowances(rootdir / asked.allow, today) if asked.allow else ()
    except MechtestError as error:
        raise pytest.UsageError(f"--mechtest-baseline={asked.baseline}: {error}") from error
    return Baseline(found.name, report, allowances)


def add_comparison(session: ClaimSession) -> None:
    """Put the comparison with the baseline into the session's report."""
    baseline, report = session.baseline, session.report
    if baseline is None or report is None:
        return
    from mechtest.comparison import Rules, compare_reports

    asked = session.options.earlier
    before, after, notes = _within_reach(session, baseline, report)
    reached = {row["key"] for row in (*before["claims"], *after["claims"])}
    elsewhere = {row["key"] for row in baseline.report["claims"]} - reached
    try:
        comparison = compare_reports(
            before,
            after,
            rules=Rules(asked.margin, asked.two_sided),
            names=(baseline.name, "this run"),
            allowances=[one for one in baseline.allowances if one.claim not in elsewhere],
        )
    except MechtestError as error:
        session.comparison_error = str(error)
        session.messages.append(f"no comparison with {baseline.name}: {error}")
        return
    report["comparison"] = {**comparison, "notes": [*comparison["notes"], *notes]}


def _within_reach(
    session: ClaimSession, baseline: Baseline, report: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return both reports without the claims that this run was not asked for, and how many.

    A claim is out of reach when its file is there and was not collected, when other tests were
    named, or when it was deselected; the last is a gap where all registered claims are required.
    """
    collected = {*session.files, *(error["file"] for error in session.collection_errors)}
    selective = any("::" in str(arg) for arg in session.config.args)
    left_out = set()
    if not session.options.require_all:
        left_out = {row["key"] for row in report["claims"] if row["verdict"] == "deselected"}
    known = {row["key"] for row in report["claims"]} - left_out

    def reached(row: Mapping[str, Any]) -> bool:
        if row["key"] in known:
            return True
        file = str(row["key"]).partition("::")[0]
        gone = file in collected or not (session.rootdir / file).exists()
        return gone and not selective and row["key"] not in left_out

    before = [row for row in baseline.report["claims"] if reached(row)]
    after = [row for row in report["claims"] if row["key"] in known]
    missing = len(baseline.report["claims"]) - len(before)
    notes = [f"{missing} claims of {baseline.name} are not part of this run"] if missing else []
    return {**baseline.report, "claims": before}, {**report, "claims": after}, notes


def forgiving(session: ClaimSession, status: int) -> int:
    """Return pytest's own exit status without what only verdicts made red, where that is asked for.

    With `fail-on=regressed`, verdicts count as far as the comparison says. Tests that are no
    claims, files that could not be collected and new claims that could not be tested stay red.
    """
    comparison = None if session.report is None else session.report["comparison"]
    if status != int(pytest.ExitCode.TESTS_FAILED) or comparison is None:
        return status
    if session.options.earlier.fail_on != "regressed":
        return status
    other = session.other_failures or session.collection_errors
    return status if other or _untested_news(session, comparison) else 0


def _untested_news(session: ClaimSession, comparison: Mapping[str, Any]) -> bool:
    """Whether a claim that the baseline does not know could not be tested."""
    new = {claim["id"] for claim in comparison["claims"] if claim["change"] == "new"}
    assert session.report is not None, "there is a comparison"
    return any(row["id"] in new and row["verdict"] == "invalid" for row in session.report["claims"])


def status_with_baseline(session: ClaimSession, status: int) -> int:
    """Return the exit status of a run in which nothing failed by itself.

    Args:
        session: With its report.
        status: 0, or why the run is red anyway.

    Returns:
        1 where a finding regressed or moved, 8 where something could not be compared, else
        `status`.
    """
    if session.comparison_error:
        return status or int(pytest.ExitCode.USAGE_ERROR)
    comparison = None if session.report is None else session.report["comparison"]
    if comparison is None or status == int(pytest.ExitCode.INTERNAL_ERROR):
        return status
    if comparison["status"] == 1:
        return 1
    return status or (INCOMPLETE if comparison["status"] else 0)


def save_run(session: ClaimSession) -> None:
    """Keep the report, where that is asked for."""
    asked = session.options.earlier
    if not asked.save or session.report is None:
        return
    from mechtest.runs import STORE, RunStore

    store = RunStore(session.rootdir / STORE)
    try:
        saved = store.save(session.report, tag=asked.tag, now=session.started)
    except MechtestError as error:
        session.unsaved = True
        session.messages.append(f"this run was not kept: {error}")
        return
    session.messages.append(str(saved))


def comparison_lines(report: Mapping[str, Any] | None) -> list[str]:
    """Return the terminal's lines about a comparison; none without one."""
    comparison = None if report is None else report["comparison"]
    if comparison is None:
        return []
    from mechtest.report import comparison_cells, comparison_headline

    lines = [comparison_headline(comparison)]
    for name, change, _, verdicts, why in comparison_cells(comparison):
        lines += [f"{change}: {name}", f"  {verdicts}; {why}"]
    return [*lines, *comparison["notes"]]
