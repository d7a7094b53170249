"""How does a comparison of two reports read, in a terminal and in a pull request?

What was lost comes first, what is allowed for now is told with its reason, and what held is only
counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mechtest.report.markdown_text import MARKER, escaped, fitting, size
from mechtest.report.plain_text import clean_text

__all__ = ["COMPARISON_HEADER", "comparison_cells", "comparison_headline", "comparison_markdown",
           "comparison_section"]  # fmt: skip

Claim = Mapping[str, Any]

COMPARISON_HEADER = ("claim", "change", "kept", "before -> now", "why")

_TOLD = ("regressed", "moved", "incomparable", "incomplete", "removed")
_QUIET = ("held", "no finding", "new")
_MARKS = {
    "regressed": "\u274c",
    "moved": "\u21aa\ufe0f",
    "incomparable": "\u26d4",
    "incomplete": "\u26a0\ufe0f",
    "removed": "\u26a0\ufe0f",
    "inconclusive": "\u2754",
    "gained": "\u2705",
}
_LIMIT = 60_000


def comparison_headline(comparison: Mapping[str, Any]) -> str:
    """Return what a comparison came to, in one sentence."""
    claims = [claim for claim in comparison["claims"] if claim["finding"]]
    counts = comparison["counts"]
    against = clean_text(comparison["before"]["name"], 200)
    if not claims:
        return f"{against} has no findings to compare with."
    held = counts["held"] + counts["drifted"]
    lost = [f"{counts[name]} {name}" for name in (*_TOLD, "inconclusive") if counts[name]]
    allowed = sum(bool(claim["allowed"]) for claim in claims)
    lost += [f"{allowed} of these allowed"] if allowed else []
    rest = f": {', '.join(lost)}" if lost else ""
    return f"{held} of {len(claims)} findings of {against} still hold{rest}."


def comparison_cells(comparison: Mapping[str, Any], limit: int = 200) -> list[tuple[str, ...]]:
    """Return a row of text for every claim of which there is more to say than that it held."""
    return [_cells(claim, limit) for claim in _worth_telling(comparison)]


def _worth_telling(comparison: Mapping[str, Any]) -> list[Claim]:
    return [claim for claim in comparison["claims"] if claim["change"] not in _QUIET]


def _cells(claim: Claim, limit: int) -> tuple[str, ...]:
    allowed = claim["allowed"]
    change = claim["change"]
    if allowed:
        change += f" (allowed until {allowed['expires']})"
    why = claim["reason"]
    if allowed:
        why += f"; allowed: {allowed['reason']}"
    name = claim["statement"] or claim["id"]
    return (
        clean_text(name, limit),
        change,
        _kept(claim),
        f"{_verdict(claim['before'])} -> {_verdict(claim['after'])}",
        clean_text(why, 2 * limit),
    )


def _kept(claim: Claim) -> str:
    """Return the smallest share kept of any measurement, with its interval."""
    known = [part["kept"] for part in claim["parts"] if part["kept"] is not None]
    known = [kept for kept in known if kept["estimate"] is not None]
    if not known:
        return "-"
    worst = min(known, key=lambda kept: kept["estimate"])
    if worst["low"] is None or worst["high"] is None:
        return f"{worst['estimate']:.2f}"
    return f"{worst['estimate']:.2f} [{worst['low']:.2f}, {worst['high']:.2f}]"


def _verdict(side: Mapping[str, Any] | None) -> str:
    return "-" if side is None else str(side["verdict"]).replace("_", " ")


# -- Markdown --------------------------------------------------------------------------------


def comparison_markdown(comparison: Mapping[str, Any]) -> str:
    """Return a comparison as a comment for a pull request, at most 60 kB long."""
    lines = comparison_section(comparison, _LIMIT - 2_000)
    return "\n".join([MARKER, *lines, _origin(comparison), ""])


def comparison_section(comparison: Mapping[str, Any], room: int) -> list[str]:
    """Return the lines of a comparison's part of a report, in at most `room` bytes."""
    lines = [f"### {escaped(comparison_headline(comparison), 400)}", ""]
    lines += [f"> {escaped(note, 500)}" for note in comparison["notes"][:10]]
    lines += [""] if comparison["notes"] else []
    claims = _worth_telling(comparison)
    counts = comparison["counts"]
    quiet = ", ".join(f"{counts[name]} {name}" for name in _QUIET if counts[name])
    tail = [f"Not listed: {quiet}.", ""] if quiet else []
    if not claims:
        return [*lines, *tail]
    head = [_joined(COMPARISON_HEADER), _joined("---" for _ in COMPARISON_HEADER)]
    used = size([*lines, *head, *tail]) + 200
    rows = [_row(claim) for claim in claims]
    shown = fitting(rows, room - used, "claims", blank=True, where="the JSON has them all")
    return [*lines, *head, *shown, "", *tail]


def _row(claim: Claim) -> str:
    cells = [escaped(cell, 600) for cell in _cells(claim, 150)]
    mark = _MARKS.get(claim["change"], "")
    strong = claim["change"] in _TOLD and not claim["allowed"]
    cells[1] = f"{mark} **{cells[1]}**" if strong else f"{mark} {cells[1]}".strip()
    return _joined(cells)


def _joined(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def _origin(comparison: Mapping[str, Any]) -> str:
    rules = comparison["rules"]
    sides = "lost or gained" if rules["two_sided"] else "lost"
    meaning = (
        f"held: shown that no more than {rules['margin']:.0%} of an effect was {sides}, paired by "
        "prompt, over templates, at the claim's registered level"
    )
    return f"<sub>{escaped('; '.join([meaning, *_commits(comparison)]), 500)}</sub>"


def _commits(comparison: Mapping[str, Any]) -> Sequence[str]:
    sides = [(name, comparison[name]["commit"]) for name in ("before", "after")]
    known = [f"{name} {commit[:12]}" for name, commit in sides if commit]
    return [f"commits: {', '.join(known)}"] if known else []
