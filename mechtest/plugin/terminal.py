"""What does a reader of the terminal see of the claims?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from mechtest.plugin.baseline import comparison_lines
from mechtest.plugin.plan_cells import PLAN_HEADER, plan_cells, plan_total
from mechtest.plugin.session import ClaimSession

__all__ = ["summarise", "table"]

NARROWEST = 20
"""Characters a statement is never cut below."""
ROOMY = 60
"""Characters that a statement should have; with less, it gets a line of its own."""


def summarise(reporter: Any, session: ClaimSession) -> None:
    """Write the section about claims at the end of a run."""
    planning = session.options.planning
    if session.report is None and not session.messages and not session.plans:
        return
    title = "claims"
    if session.options.lock == "write":
        title = "claims.lock"
    elif planning:
        title = "plan of the claims"
    elif session.report is not None and session.report["exploratory"]:
        title = "claims (exploratory)"
    reporter.write_sep("=", title)
    width = int(getattr(getattr(reporter, "_tw", None), "fullwidth", 80))
    lines = _plan_lines(session, width) if planning else _claim_lines(session, width)
    for line in lines:
        reporter.write_line(line)
    for line in comparison_lines(session.report):
        indent = line[: len(line) - len(line.lstrip(" "))]
        reporter.write_line(indent + _clean(line, 1000))
    for message in session.messages:
        reporter.write_line(_clean(message, 2000, keep_lines=True))
    if session.written:
        reporter.write_line(f"report: {_relative(session)}")
    for line in session.annotations:
        reporter.write_line(line)


def _relative(session: ClaimSession) -> str:
    from pathlib import Path

    page = next((path for path in session.written if path.suffix == ".html"), session.written[0])
    try:
        return Path(page).relative_to(session.rootdir).as_posix()
    except ValueError:
        return str(page)


def _claim_lines(session: ClaimSession, width: int) -> list[str]:
    """Return the table of claims, those not as expected last: nearest to the prompt."""
    from mechtest.report import HEADER, cells_of

    if session.report is None:
        return []
    times = session.report["run"]["claims"]
    rows = sorted(session.report["claims"], key=lambda row: not row["as_expected"])
    shown = [row for row in rows if row["verdict"] != "deselected"]
    several = Counter(row["key"] for row in shown)
    cells = [
        [*cells_of(_named(row, several[row["key"]] > 1), 200), _seconds(times.get(row["id"]))]
        for row in shown
    ]
    lines = table([*HEADER, "seconds"], cells, width)
    left_out = len(rows) - len(shown)
    return [*lines, *([f"{left_out} deselected"] if left_out else [])]


def _named(row: Mapping[str, Any], one_of_several: bool) -> Mapping[str, Any]:
    """Return a row whose statement tells which model, where a claim was checked on several."""
    if not one_of_several:
        return row
    return {**row, "statement": f"{row['id'].partition('[')[2][:-1]}: {row['statement']}"}


def _seconds(run: Any) -> str:
    return "-" if run is None else f"{run['seconds']:.1f}"


def _plan_lines(session: ClaimSession, width: int) -> list[str]:
    rows = plan_cells(session.plans)
    cells = [[_clean(statement, 200), *rest] for statement, *rest in rows]
    total = plan_total(session.plans)
    return [*table(PLAN_HEADER, cells, width), *([total] if total else [])]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[str]:
    """Return aligned lines that fit a width: the first column gives way, or gets its own line."""
    if not rows:
        return []
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    room = width - sum(widths[1:]) - 2 * (len(widths) - 1)
    if room < min(ROOMY, widths[0]):
        return _stacked(header, rows, widths, width)
    widths[0] = min(widths[0], room)
    return [
        "  ".join(
            _fit(cell, size).ljust(size) for cell, size in zip(row, widths, strict=True)
        ).rstrip()
        for row in (header, *rows)
    ]


def _stacked(
    header: Sequence[str], rows: Sequence[Sequence[str]], widths: Sequence[int], width: int
) -> list[str]:
    """Return two lines a row where one would leave no room for the sentence."""
    lines = ["  " + "  ".join(c.ljust(w) for c, w in zip(header[1:], widths[1:], strict=True))]
    for row in rows:
        cells = [cell.ljust(size) for cell, size in zip(row[1:], widths[1:], strict=True)]
        lines += [_fit(row[0], max(NARROWEST, width)), "  " + "  ".join(cells)]
    return [line.rstrip() for line in lines]


def _fit(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _clean(text: str, limit: int, *, keep_lines: bool = False) -> str:
    from mechtest.report import clean_text

    if keep_lines:
        return "\n".join(clean_text(line, limit) for line in text.split("\n"))
    return clean_text(text, limit)
