"""Which sentences stand above all claims, whoever prints them?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mechtest.report.build import DECIDED, VERDICTS
from mechtest.report.plain_text import clean_text

__all__ = ["HOW_TO_READ", "cautions", "headline", "in_reading_order", "listed", "unexpected"]

Row = Mapping[str, Any]

HOW_TO_READ = {
    "supported": "the effect is beyond its threshold over prompt templates, larger than that of "
    "matched controls, and every guard holds. It shows that a circuit does this, on these prompts "
    "and under this intervention; not that no other does.",
    "refuted": "the data speak against the claim. Where that was expected, it says so.",
    "inconclusive": "the data decide neither way; this is not evidence of absence. The row says "
    "what would settle it.",
    "invalid": "nothing was tested: a condition was not met, or the test broke. No verdict.",
    "not run, skipped, deselected, crashed, interrupted": "there is no evidence; such a claim "
    "never counts as supported, and the report is incomplete.",
}
"""What each verdict means, in five lines."""

_MANY = 10


def headline(report: Mapping[str, Any]) -> str:
    """Return what the run came to, in one sentence."""
    summary = report["summary"]
    total, good = summary["total"], summary["as_expected"]
    if not total:
        return "No claims were checked."
    if good == total:
        which = "The only claim is" if total == 1 else f"All {total} claims are"
        return f"{which} as expected: {_counts(report['claims'])}."
    off = unexpected(report["claims"])
    are = "is" if len(off) == 1 else "are"
    return f"{len(off)} of {_claims(total)} {are} not as expected: {_counts(off)}."


def _counts(rows: Sequence[Row]) -> str:
    counts = [(sum(row["verdict"] == name for row in rows), name) for name in VERDICTS]
    return ", ".join(f"{count} {name.replace('_', ' ')}" for count, name in counts if count)


def _claims(count: int) -> str:
    return "1 claim" if count == 1 else f"{count} claims"


def cautions(report: Mapping[str, Any]) -> list[str]:
    """Return what keeps a reader from taking the verdicts at face value."""
    found = []
    if not report["complete"]:
        found.append(f"Incomplete: {_incomplete(report)}.")
    if report["exploratory"]:
        found.append(f"Exploratory: {_exploratory(report)}.")
    closed = sum(
        row["gate"] == "closed" and row["verdict"] == "supported" for row in report["claims"]
    )
    if closed:
        found.append(
            f"{_claims(closed)} supported behind a closed gate: an earlier claim of the ordered "
            "family is not supported, so the error budget does not cover this."
        )
    stale = report["family_error"]["stale"]
    if stale:
        found.append("The lock and the claims differ: " + listed(stale))
    torn = report["run"].get("torn_lines", 0)
    if torn:
        found.append(f"{torn} journal lines were cut off by a crash and are not in this report.")
    return found


def _incomplete(report: Mapping[str, Any]) -> str:
    rows = report["claims"]
    budget = report["family_error"]
    undecided = [row for row in rows if row["verdict"] not in DECIDED]
    parts = [_counts(undecided)] if undecided else []
    if budget["selected"] < budget["registered"]:
        parts.append(f"{budget['selected']} of {budget['registered']} registered claims selected")
    if report["collection_errors"]:
        count = len(report["collection_errors"])
        parts.append(f"{count} file{'s' * (count > 1)} could not be collected")
    return "; ".join(parts) or "no claims"


def _exploratory(report: Mapping[str, Any]) -> str:
    loose = sum(not row["registered"] for row in report["claims"])
    if report["family_error"]["source"] == "collection":
        return "no lock registers these claims, so levels were shared among what was collected"
    return f"{_claims(loose)} not in the lock; the error budget does not cover what is unregistered"


def listed(sentences: Sequence[object], limit: int = 300) -> str:
    """Return sentences one after the other, the first ten of them, cleaned."""
    shown = [clean_text(sentence, limit) for sentence in sentences[:_MANY]]
    rest = len(sentences) - len(shown)
    return "; ".join([*shown, f"and {rest} more"] if rest else shown)


def unexpected(rows: Sequence[Row]) -> list[Row]:
    """Return the rows that are not as expected, those with a verdict first."""
    return sorted(
        (row for row in rows if not row["as_expected"]),
        key=lambda row: _URGENCY.index(row["verdict"]),
    )


_URGENCY = (
    "refuted", "invalid", "crashed", "interrupted", "supported", "inconclusive", "not_run",
    "skipped", "deselected",
)  # fmt: skip


def in_reading_order(rows: Sequence[Row]) -> list[Row]:
    """Return all rows, those that are not as expected first."""
    return [*unexpected(rows), *(row for row in rows if row["as_expected"])]
