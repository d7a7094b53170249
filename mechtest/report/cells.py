"""How does one claim read in a table, whoever prints it?

The terminal, the Markdown comment and the page say the same thing in the same words. Cells are
plain text: cleaned, not escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from decimal import ROUND_CEILING, Decimal
from typing import Any, NamedTuple

from mechtest.report.plain_text import clean_text

__all__ = [
    "HEADER",
    "Cells",
    "cells_of",
    "clean_text",
    "controls_text",
    "deciding_evidence",
    "effect_text",
    "number_text",
    "p_text",
    "sample_text",
    "seconds_text",
    "threshold_text",
    "titled",
    "verdict_table",
    "verdict_text",
]

Row = Mapping[str, Any]

NOTHING = "-"
SEVERITY = ("supported", "inconclusive", "refuted", "invalid")


class Cells(NamedTuple):
    """One claim as text, in the order of `HEADER`."""

    claim: str
    verdict: str
    effect: str
    threshold: str
    p: str
    controls: str
    sample: str


HEADER = Cells(
    "claim", "verdict", "effect [interval]", "threshold", "p", "controls", "prompts/templates"
)


def verdict_table(report_or_rows: Row | Iterable[Row], limit: int = 120) -> list[Cells]:
    """Return every claim as text.

    Args:
        report_or_rows: A report, or the rows of one.
        limit: The most characters of a statement.
    """
    rows: Any = report_or_rows
    if isinstance(report_or_rows, Mapping):
        rows = report_or_rows["claims"]
    return [cells_of(row, limit) for row in titled(list(rows))]


def titled(rows: Sequence[Row]) -> list[Row]:
    """Return rows whose statements tell which model, where a claim was checked on several."""
    times = Counter(row["key"] for row in rows)
    return [
        {**row, "statement": f"{_model(row)}: {row['statement']}"} if times[row["key"]] > 1 else row
        for row in rows
    ]


def _model(row: Row) -> str:
    parameter = str(row["id"]).partition("[")[2].removesuffix("]")
    return parameter or f"seed {row['model']['seed']} {row['model']['checkpoint']}".rstrip()


def cells_of(row: Row, limit: int = 120) -> Cells:
    """Return one claim as text."""
    claim = clean_text(row["statement"], limit) or clean_text(row["id"], limit)
    evidence = deciding_evidence(row)
    if evidence is None:
        return Cells(claim, verdict_text(row), *[NOTHING] * 5)
    effect = effect_text(evidence["effect"])
    if len(row["evidence"]) > 1:
        effect += f" (weakest of {len(row['evidence'])})"
    return Cells(
        claim,
        verdict_text(row),
        effect,
        threshold_text(evidence),
        _without_p(evidence) if row["exact"] else p_text(row["p"]),
        controls_text(evidence["controls"]),
        sample_text(evidence),
    )


def _without_p(evidence: Mapping[str, Any]) -> str:
    """Return why there is no p value: a search is none of what is exact."""
    return "search" if evidence["method"].startswith("search") else "exact"


def deciding_evidence(row: Row) -> Mapping[str, Any] | None:
    """Return the weakest measurement of a claim: a claim is no better than that."""
    evidence: Sequence[Mapping[str, Any]] = row["evidence"]
    return max(evidence, key=_weakness, default=None)


def _weakness(item: Mapping[str, Any]) -> tuple[int, float, float]:
    parts = [item["p_effect"], (item["controls"] or {}).get("p")]
    parts += [guard["p"] for guard in item["guards"]]
    estimate = float(item["effect"]["estimate"])
    side = estimate if item["direction"] == "less" else -estimate
    return (
        SEVERITY.index(item["verdict"]) if item["verdict"] in SEVERITY else len(SEVERITY),
        max((float(p) for p in parts if p is not None), default=0.0),
        side,
    )


def verdict_text(row: Row) -> str:
    """Return the verdict in words, beside what was expected where that is not support."""
    verdict = str(row["verdict"]).replace("_", " ")
    expected = clean_text(row["expect"], 40)
    if row["gate"] == "closed" and verdict == "supported":
        return "supported, gate closed"
    if expected == "supported" or verdict not in SEVERITY:
        return verdict
    if row["as_expected"]:
        return f"{verdict}, as expected"
    return f"{verdict}, expected {expected}"


def effect_text(effect: Mapping[str, Any]) -> str:
    """Return an effect with its interval, or with why there is none: `0.91 [0.86, 0.95]`."""
    low, high = effect["low"], effect["high"]
    known = [abs(number) for number in (effect["estimate"], low, high) if number is not None]
    # Small numbers get four decimals together, so that an interval reads as one.
    text = _small_text if 0.0005 <= max(known) < 0.01 else number_text
    estimate = text(effect["estimate"])
    if low is None and high is None:
        reason = clean_text(effect["reason"], 60)
        return f"{estimate} [{NOTHING}: {reason}]" if reason else f"{estimate} [{NOTHING}]"
    ends = "-inf" if low is None else text(low), "inf" if high is None else text(high)
    return f"{estimate} [{ends[0]}, {ends[1]}]"


def _small_text(value: float) -> str:
    return f"{value:.4f}".replace("-0.0000", "0.0000")


def threshold_text(evidence: Mapping[str, Any]) -> str:
    """Return what the effect is held against, with the claimed side: `> 0.5`."""
    if evidence["threshold"] is None:
        return NOTHING
    side = "<" if evidence["direction"] == "less" else ">"
    return f"{side} {number_text(evidence['threshold'])}"


def number_text(value: float | None) -> str:
    """Return a number with two decimals, or three significant digits where that says too little."""
    if value is None:
        return NOTHING
    if value == 0:
        return "0"
    if 0.01 <= abs(value) < 1000:
        return f"{value:.2f}"
    return f"{value:.3g}"


def p_text(value: float | None) -> str:
    """Return a p value, rounded up so that it never looks smaller than it is.

    Levels are printed by the same rule: a p value at its level then does not look larger.
    """
    if value is None:
        return NOTHING
    if value < 0.0001:
        return "<0.0001"
    # Twelve digits first: 0.0125 is stored a little above itself.
    exact = Decimal(f"{value:.12g}")
    up = exact.quantize(Decimal("0.0001"), rounding=ROUND_CEILING)
    return f"{up:f}".rstrip("0").rstrip(".")


def controls_text(controls: Mapping[str, Any] | None) -> str:
    """Return how many controls did at least as well, of how many: `0/237`."""
    if controls is None:
        return NOTHING
    text = f"{controls['at_least_as_extreme']}/{controls['drawn']}"
    return f"{text} weak" if controls["weak"] else text


def sample_text(evidence: Mapping[str, Any]) -> str:
    """Return prompts and templates: `128/16`."""
    if not evidence["prompts"] and not evidence["clusters"]:
        return NOTHING
    return f"{evidence['prompts']}/{evidence['clusters']}"


def seconds_text(seconds: float | None) -> str:
    """Return a duration: `0.4 s`, `12 s`, `3 min 05 s`."""
    if seconds is None:
        return NOTHING
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
