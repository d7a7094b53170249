"""How do tools that read the Common Test Report Format see the claims?

CTRF 1.0 knows five outcomes of a test. A claim passes when it came to what was expected of it; the
verdict itself stays readable as `rawStatus`.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mechtest.report.cells import deciding_evidence
from mechtest.report.plain_text import clean_text

__all__ = ["ctrf"]

Row = Mapping[str, Any]

STATUSES = ("passed", "failed", "pending", "skipped", "other")
_WITHOUT_OUTCOME = {"skipped": "skipped", "deselected": "pending", "not_run": "pending"}


def ctrf(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report as a CTRF document."""
    run = report["run"]
    tests = [_test(row, run.get("claims", {}).get(row["id"], {})) for row in report["claims"]]
    start = _milliseconds(run.get("started", ""))
    summary: dict[str, Any] = {"tests": len(tests)}
    summary |= {status: sum(test["status"] == status for test in tests) for status in STATUSES}
    summary |= {"start": start, "stop": start + round(1000 * run.get("seconds", 0))}
    results = {
        "tool": {"name": "mechtest", "version": _version(report)},
        "summary": summary,
        "tests": tests,
        "extra": {
            "complete": report["complete"],
            "exploratory": report["exploratory"],
            "verdicts": report["summary"],
            "collection_errors": report["collection_errors"],
        },
    }
    git = report["provenance"].get("git")
    if git:
        results["environment"] = {"commit": git["commit"]}
    return {
        "reportFormat": "CTRF",
        "specVersion": "1.0.0",
        "generatedBy": "mechtest",
        "results": results,
    }


def _version(report: Mapping[str, Any]) -> str:
    return str(report["provenance"].get("versions", {}).get("mechtest") or "unknown")


def _test(row: Row, timing: Mapping[str, Any]) -> dict[str, Any]:
    evidence = deciding_evidence(row)
    test: dict[str, Any] = {
        "name": row["id"] or row["statement"] or "unnamed",
        "status": _status(row),
        "duration": round(1000 * timing.get("seconds", 0)),
        "rawStatus": row["verdict"],
        "message": clean_text(row["reason"], 2000),
        "trace": clean_text(row["message"], 20_000, lines=True),
        "filePath": row["source"]["file"],
        "line": row["source"]["line"] or None,
        "suite": [row["family"]] if row["family"] else [],
        "threadId": str(timing.get("worker", "")),
        "extra": {
            "statement": row["statement"],
            "expect": row["expect"],
            "p": row["p"],
            "p_adjusted": row["p_adjusted"],
            "level": row["level"],
            "effect": None if evidence is None else evidence["effect"],
            "threshold": None if evidence is None else evidence["threshold"],
            "replay": row["replay"],
        },
    }
    # What the format makes optional is left out rather than empty.
    return {name: value for name, value in test.items() if value not in ("", [], None)}


def _status(row: Row) -> str:
    if row["as_expected"]:
        return "passed"
    return _WITHOUT_OUTCOME.get(row["verdict"], "failed")


def _milliseconds(started: str) -> int:
    try:
        return round(1000 * datetime.fromisoformat(started).timestamp())
    except ValueError:
        return 0
