"""How does a report fit a pull-request comment?

GitHub takes 65,536 characters and reads Markdown and HTML in them. Whatever a claim's author wrote
appears as text: it starts no table cell, no link, no mention and no element.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mechtest.report.cells import HEADER, NOTHING, cells_of, p_text, titled, verdict_text
from mechtest.report.comparison_text import comparison_section
from mechtest.report.markdown_text import MARKER, escaped, fitting, size
from mechtest.report.wording import cautions, headline, in_reading_order, unexpected

__all__ = ["LIMIT", "MARKER", "escaped", "markdown"]

Row = Mapping[str, Any]

LIMIT = 60_000
"""The most bytes of a comment."""

_FAILURES = 25_000
_ASSUMPTIONS = 5_000
_CAUTIONS = 6_000
_COMPARISON = 15_000
_SENSITIVE = 4_000
_CUT = 200  # room for the sentences that say what was cut

_MARKS = {
    "supported": "\u2705",
    "refuted": "\u274c",
    "inconclusive": "\u2754",
    "invalid": "\u26d4",
    "crashed": "\U0001f4a5",
    "interrupted": "\U0001f4a5",
}


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a comment: what is not as expected first, then all claims."""
    report = {**report, "claims": titled(report["claims"])}
    head = [MARKER, f"### mechtest: {escaped(headline(report), 300)}", ""]
    warnings = [f"> :warning: {escaped(text, 2000)}\n>" for text in cautions(report)]
    head += fitting(warnings, _CAUTIONS, "cautions")
    comparison = report.get("comparison")
    if comparison is not None:
        head += ["", *comparison_section(comparison, _COMPARISON)]
    head += ["", *_problems(report)] if report["summary"]["total"] else []
    head += _sensitive(report["claims"])
    tail = ["", *_assumptions(report), "", _origin(report), ""]
    room = LIMIT - size(head) - size(tail) - _CUT
    return "\n".join([*head, *_table(report["claims"], room), *tail])


def _problems(report: Mapping[str, Any]) -> list[str]:
    lines = [_problem(row) for row in unexpected(report["claims"])]
    lines += [
        f"- :no_entry: could not be collected: <code>{escaped(error['file'])}</code>: "
        f"{escaped(error['message'], 300)}"
        for error in report["collection_errors"]
    ]
    if not lines:
        return []
    return ["**Not as expected**", "", *fitting(lines, _FAILURES, "of these"), ""]


def _problem(row: Row) -> str:
    mark = _MARKS.get(row["verdict"], "\u2b1c")
    if row["verdict"] == "supported":
        mark = "\u2757"  # support that was not expected is no good news
    text = f"- {mark} **{escaped(verdict_text(row))}**: {escaped(row['statement'] or row['id'])}"
    if row["reason"]:
        text += f". {escaped(row['reason'], 400)}"
    if row["settle"]:
        text += f" *To settle it:* {escaped(row['settle'], 300)}"
    return f"{text} <code>{escaped(row['replay'] or row['id'], 300)}</code>"


def _sensitive(claims: Sequence[Row]) -> list[str]:
    """Return one line a claim that another ablation speaks against, whatever its verdict."""
    lines = []
    for row in claims:
        against = [
            other["detail"]
            for item in row["evidence"]
            for other in item.get("ablations", ())
            if other["agrees"] is False
        ]
        if against:
            name = escaped(row["statement"] or row["id"])
            lines.append(f"- {name}: {escaped('; '.join(against), 300)}")
    if not lines:
        return []
    shown = fitting(lines, _SENSITIVE, "of these")
    return ["**Sensitive to the ablation** (only the first named decides)", "", *shown, ""]


def _table(claims: Sequence[Row], room: int) -> list[str]:
    rows = [_line(row) for row in in_reading_order(claims)]
    if not rows:
        return []
    head = [_joined(HEADER), _joined("---" for _ in HEADER)]
    return [*head, *fitting(rows, room - size(head), "claims", blank=True)]


def _line(row: Row) -> str:
    cells = cells_of(row, 100)
    mark = _MARKS.get(row["verdict"], "\u2b1c")
    texts = [escaped(cell) for cell in cells]
    texts[1] = f"{mark} {texts[1]}"
    if not row["as_expected"]:
        texts[1] = f"**{texts[1]}**"
    if cells.p != NOTHING and not row["exact"]:
        texts[4] += f" (level {p_text(row['level'])})"
    return _joined(texts)


def _joined(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _assumptions(report: Mapping[str, Any]) -> list[str]:
    lines = [f"- {escaped(sentence, 600)}" for sentence in report["assumptions"]]
    if not lines:
        return []
    shown = fitting(lines, _ASSUMPTIONS, "assumptions", blank=True)
    return ["<details><summary>Assumptions a reader has to grant</summary>", "", *shown, "",
            "</details>"]  # fmt: skip


def _origin(report: Mapping[str, Any]) -> str:
    budget, provenance = report["family_error"], report["provenance"]
    commit = (provenance.get("git") or {}).get("commit", "")
    parts = [
        f"family-wise error {budget['alpha']:.4g} over {budget['registered']} registered claims",
        f"source {budget['source']}",
        f"seed {provenance.get('seed', NOTHING)}",
    ]
    tested = provenance.get("circuits", {}).values()
    parts += [f"at most {max(tested)} different circuits on one test half"] if tested else []
    parts += [f"commit {commit[:12]}"] if commit else []
    return f"<sub>{escaped(', '.join(parts), 400)}</sub>"
