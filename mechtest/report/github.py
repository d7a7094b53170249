"""How does a report show beside the lines of a pull request?

As workflow commands, which GitHub turns into annotations. A line end in one would start another
command, so everything is encoded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mechtest.report.cells import titled, verdict_text
from mechtest.report.comment import markdown
from mechtest.report.plain_text import clean_text

__all__ = ["github_annotations", "github_step_summary"]

Row = Mapping[str, Any]


def github_annotations(report: Mapping[str, Any]) -> list[str]:
    """Return one workflow command for every claim that is not as expected or was lost.

    Claims that were deselected are left out: whoever deselected them knows. What failed nothing is
    a warning: an exploratory claim, an inconclusive one the run let pass, one without evidence.
    """
    lines = [_of_row(row) for row in titled(report["claims"]) if _is_news(row)]
    lines += _lost(report)
    lines += [
        _command("error", error["file"], 1, "claims could not be collected", error["message"])
        for error in report["collection_errors"]
    ]
    return lines


def github_step_summary(report: Mapping[str, Any]) -> str:
    """Return Markdown for the file named by `GITHUB_STEP_SUMMARY`."""
    return markdown(report)


def _lost(report: Mapping[str, Any]) -> list[str]:
    """Return commands for findings of a baseline that were lost while their claims still pass."""
    comparison = report.get("comparison") or {"claims": ()}
    passing = {row["id"] for row in report["claims"] if row["as_expected"]}
    return [
        _command(
            "error",
            claim["source"]["file"],
            claim["source"]["line"],
            f"{claim['change']}: {claim['statement'] or claim['id']}",
            f"{claim['reason']} ({claim['replay']})",
        )
        for claim in comparison["claims"]
        if claim["change"] in ("regressed", "moved", "incomparable")
        and not claim["allowed"]
        and claim["id"] in passing
    ]


def _is_news(row: Row) -> bool:
    return not row["as_expected"] and row["verdict"] != "deselected"


def _of_row(row: Row) -> str:
    softened = row["verdict"] == "inconclusive" and not row["message"]
    unproven = row["verdict"] in {"skipped", "not_run"}
    level = "warning" if softened or unproven or not row["registered"] else "error"
    title = f"{verdict_text(row)}: {row['statement'] or row['id']}"
    message = " ".join(
        part for part in (row["reason"], row["settle"], f"({row['replay']})" * bool(row["replay"]))
        if part
    )  # fmt: skip
    return _command(level, row["source"]["file"], row["source"]["line"], title, message)


def _command(level: str, file: object, line: int, title: object, message: object) -> str:
    place = f"file={_property(file, 400)}," if file else ""
    place += f"line={int(line)}," if file and line > 0 else ""
    body = _data(clean_text(message, 2000, lines=True)) or "no reason given"
    return f"::{level} {place}title={_property(title, 200)}::{body}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: object, limit: int) -> str:
    return _data(clean_text(text, limit)).replace(":", "%3A").replace(",", "%2C")
