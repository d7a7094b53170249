"""How does one claim's outcome read in the terminal, and in files that other tools write?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from mechtest.plugin.plan import PlannedClaim

__all__ = ["effect_text", "interval_text", "number", "shorten", "status", "user_properties"]

_FAILED = {
    "refuted": ("failed", "R", "REFUTED"),
    "inconclusive": ("failed", "?", "INCONCLUSIVE"),
    "invalid": ("error", "E", "INVALID"),
    "interrupted": ("failed", "T", "TIMED OUT"),
    "supported": ("failed", "S", "SUPPORTED (not expected)"),
}
_PASSED = {
    "supported": ("passed", ".", "SUPPORTED"),
    "refuted": ("passed", "r", "REFUTED (as expected)"),
    "inconclusive": ("passed", "i", "INCONCLUSIVE (as expected)"),
}
_PER_PROMPT = (
    "effects", "behaviours", "prompt_ids", "values", "templates", "prompt_digests",
)  # fmt: skip


def status(report: pytest.TestReport, *, planning: bool) -> tuple[str, str, str] | None:
    """Return category, letter and word of a claim's report; None leaves it to pytest."""
    facts = getattr(report, "mechtest", None)
    if facts is None or report.when != "call" or hasattr(report, "wasxfail") or report.skipped:
        return None
    if planning:
        return ("passed", ".", "PLANNED") if report.passed else None
    known = _PASSED if report.passed else _FAILED
    return known.get(str(facts["verdict"]))


def user_properties(facts: Mapping[str, Any], planned: PlannedClaim) -> list[tuple[str, object]]:
    """Return what JUnit files and other tools get to see of a claim."""
    evidence = facts["evidence"][0] if facts["evidence"] else None
    compact = {
        "id": planned.id,
        "statement": planned.statement,
        "family": planned.family,
        **{key: facts[key] for key in ("verdict", "binding", "reason", "p", "level", "registered")},
        "evidence": [_without_prompts(item) for item in facts["evidence"]],
    }
    text = json.dumps(compact, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return [
        ("mechtest_verdict", str(facts["verdict"])),
        ("mechtest_effect", effect_text(evidence)),
        ("mechtest_interval", interval_text(evidence)),
        ("mechtest_p", number(facts["p"])),
        ("mechtest", text),
    ]


def effect_text(evidence: Mapping[str, Any] | None) -> str:
    """Return an effect's estimate, empty without one."""
    return "" if evidence is None else number(evidence["effect"]["estimate"])


def interval_text(evidence: Mapping[str, Any] | None) -> str:
    """Return an effect's interval, empty without one."""
    if evidence is None:
        return ""
    low, high = evidence["effect"]["low"], evidence["effect"]["high"]
    if low is None and high is None:
        return ""
    return f"[{'-inf' if low is None else number(low)}, {'inf' if high is None else number(high)}]"


def number(value: float | None) -> str:
    """Return a number to three places, small ones as a power of ten."""
    if value is None:
        return ""
    if value != 0 and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:.3g}" if abs(value) < 0.1 else f"{value:.2f}"


def shorten(report: pytest.TestReport, call: pytest.CallInfo[None], item: pytest.Item) -> None:
    """Replace the traceback of a verdict by its text and the line of the test that asked.

    The text says all there is; frames of assertions would bury it. `--tb=long` keeps them.
    """
    option = item.config.option
    if call.excinfo is None or not report.failed:
        return
    if getattr(option, "tbstyle", "auto") == "long" or getattr(option, "fulltrace", False):
        return
    error = call.excinfo.value
    lines = [entry.lineno + 1 for entry in call.excinfo.traceback if entry.path == item.path]
    line = lines[-1] if lines else (item.location[1] or 0) + 1
    text = f"{error}\n\n{item.location[0]}:{line}: {type(error).__name__}"
    brief = getattr(error, "what", str(error)).partition("\n")[0]
    report.longrepr = _representation(call.excinfo, text, brief, str(item.location[0]), line)


def _representation(
    excinfo: pytest.ExceptionInfo[BaseException], text: str, brief: str, path: str, line: int
) -> Any:
    """Return a representation whose short form (pytest's summary line) begins with the numbers."""
    shown = excinfo.getrepr(style="value", chain=False)
    entries = getattr(getattr(shown, "reprtraceback", None), "reprentries", None)
    crash = getattr(shown, "reprcrash", None)
    if not entries or crash is None or not hasattr(entries[0], "lines"):
        return text
    entries[0].lines = text.split("\n")
    crash.path, crash.lineno, crash.message = path, line, brief
    return shown


def _without_prompts(value: Any) -> Any:
    """Leave out what grows with the number of prompts and controls."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if key not in _PER_PROMPT}
        return {key: _without_prompts(item) for key, item in kept.items()}
    return [_without_prompts(item) for item in value] if isinstance(value, list) else value
