"""What became of every finding of one report in another?"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mechtest.comparison.allowances import Allowance, require_known
from mechtest.comparison.evidence import Item, is_judged
from mechtest.comparison.fields import Difference, differences_of_claims
from mechtest.comparison.judging import Part, judge_part
from mechtest.comparison.moving import Place, Places, moved_to
from mechtest.comparison.rows import Row, paired
from mechtest.comparison.statuses import CHANGES, status_of
from mechtest.errors import RunError

__all__ = ["SCHEMA", "Rules", "compare_reports", "require_templates"]

SCHEMA = "mechtest-comparison/1"
DECIDED = ("supported", "refuted", "inconclusive")
GONE = "MT705"
"""Code of the error that says a model does not do the task: no accident, but an answer."""

_WORST = (
    "regressed", "moved", "incomparable", "incomplete", "inconclusive", "drifted", "held",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Rules:
    """How findings are compared.

    Attributes:
        margin: Share of an effect that may be lost, between 0 and 1.
        two_sided: Whether gaining more than the margin counts as well.
        overlap: Smallest share of prompts that two measurements have to have in common.
    """

    margin: float = 0.2
    two_sided: bool = False
    overlap: float = 0.8

    def __post_init__(self) -> None:
        if not 0 < self.margin < 1:
            raise RunError(
                "a margin is the share of an effect that may be lost",
                given=f"margin {self.margin:g}",
                expected="a number between 0 and 1, for example 0.2",
            )


@dataclass(frozen=True)
class _Outcome:
    change: str
    reason: str
    parts: tuple[tuple[Part, tuple[Place, ...]], ...] = ()
    fields: tuple[Difference, ...] = ()


def compare_reports(
    before: Mapping[str, Any],
    after: Mapping[str, Any],
    *,
    rules: Rules | None = None,
    names: tuple[str, str] = ("baseline", "this run"),
    allowances: Collection[Allowance] = (),
) -> dict[str, Any]:
    """Return what became of every finding, as plain JSON values.

    A finding is a claim that came out as expected in the first report. Levels stay the registered
    ones: comparing is no further family of tests, each claim is asked its own question again.

    Args:
        before: The report of the baseline (`read_report`).
        after: The report to hold against it.
        rules: Margin, sides, overlap.
        names: How the reports are called.
        allowances: Findings that may be lost for now.

    Raises:
        AllowListError: An allowance for a claim that neither report has.
        RunError: A margin that is no share, or a report that does not tell prompts' templates.
    """
    used = rules or Rules()
    for report, name in zip((before, after), names, strict=True):
        require_templates(report, name)
    pairs = paired(before["claims"], after["claims"])
    require_known(allowances, {str((old or new or {})["key"]) for old, new in pairs})
    alphas = before["family_error"]["alpha"], after["family_error"]["alpha"]
    places = Places(before["claims"]), Places(after["claims"])
    reasons = {allowance.claim: allowance for allowance in allowances}
    claims = []
    for old, new in pairs:
        outcome = _outcome(old, new, alphas, places, used)
        claims.append(_claim(old, new, outcome, reasons))
    claims.sort(key=lambda claim: (CHANGES.index(claim["change"]), claim["key"], claim["id"]))
    return {
        "schema": SCHEMA,
        "before": _described(before, names[0]),
        "after": _described(after, names[1]),
        "rules": asdict(used),
        "status": status_of(claims),
        "counts": {name: sum(c["change"] == name for c in claims) for name in CHANGES},
        "claims": claims,
        "notes": _notes(claims, reasons.values()),
    }


def require_templates(report: Mapping[str, Any], name: str) -> None:
    """Raise for a report that effects cannot be paired from.

    Raises:
        RunError: Its evidence does not tell which prompt is of which template.
    """
    for row in report["claims"]:
        for item in row["evidence"]:
            missing = [field for field in ("templates", "prompt_digests") if field not in item]
            if missing:
                raise RunError(
                    f"{name} cannot be compared: it was written before reports told which prompt "
                    "is of which template",
                    given=f"evidence of {row['id']} without {' and '.join(missing)}",
                    next_step="run its claims again with this version of mechtest",
                )


def _described(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    git = report["provenance"].get("git") or {}
    return {
        "name": name,
        "commit": str(git.get("commit", "")),
        "claims": len(report["claims"]),
        "findings": sum(bool(row["as_expected"]) for row in report["claims"]),
    }


def _notes(claims: Sequence[Mapping[str, Any]], allowances: Collection[Allowance]) -> list[str]:
    needed = {claim["key"] for claim in claims if claim["allowed"]}
    return [
        f"the allowance for {allowance.claim} is no longer needed: delete it"
        for allowance in allowances
        if allowance.claim not in needed
    ]


# -- one claim -------------------------------------------------------------------------------


def _outcome(
    before: Row | None,
    after: Row | None,
    alphas: tuple[float, float],
    places: tuple[Places, Places],
    rules: Rules,
) -> _Outcome:
    if before is None:
        return _Outcome("new", "the baseline does not have it")
    if after is None:
        finding = "it was a finding" if before["as_expected"] else "it was no finding"
        change = "removed" if before["as_expected"] else "no finding"
        return _Outcome(change, f"it was not collected; {finding} ({before['verdict']})")
    if not before["as_expected"]:
        change = "gained" if after["as_expected"] else "no finding"
        return _Outcome(change, f"{before['verdict']} before, {after['verdict']} now")
    if after["verdict"] not in DECIDED:
        change = "regressed" if after["binding"] == GONE else "incomplete"
        return _Outcome(change, f"{after['verdict'].replace('_', ' ')} now{_why(after)}")
    fields = differences_of_claims(before, after, alphas)
    if fields:
        return _Outcome("incomparable", "; ".join(map(str, fields)), fields=tuple(fields))
    return _of_parts(before, after, places, rules)


def _of_parts(before: Row, after: Row, places: tuple[Places, Places], rules: Rules) -> _Outcome:
    """Compare the measurements of a claim; the worst of them decides."""
    level = min(before["level"], after["level"])
    parts = []
    if before["verdict"] == "supported":
        for old, new in _matched(before["evidence"], after["evidence"]):
            part = judge_part(old, new, level, rules)
            moved: list[Place] = []
            if part.verdict == "regressed":
                moved = moved_to(part, before["family"], *places, level, rules)
            parts.append((part, tuple(moved)))
    told = [_told(part, moved) for part, moved in parts]
    if all(part.verdict != "regressed" for part, _ in parts):
        # A refuted claim whose measurements held: something else speaks against it now.
        told.append(_own_verdict(before, after, settled=bool(parts)))
    change, reason = min(told, key=lambda one: _WORST.index(one[0]))
    return _Outcome(change, reason, tuple(parts))


def _told(part: Part, moved: Sequence[Place]) -> tuple[str, str]:
    label = part.before["label"]
    reason = f"{label}: {part.reason}" if label else part.reason
    if not moved:
        return part.verdict, reason
    where = ", ".join(" + ".join(place.circuit) for place in moved)
    how = "" if moved[0].tested else " (seen in maps, not tested)"
    share = moved[0].after
    has = "" if share is None else f", which now has {share:.2f} of what was here"
    return "moved", f"{reason}; moved to {where}{has}{how}"


def _own_verdict(before: Row, after: Row, *, settled: bool) -> tuple[str, str]:
    """Return what the verdicts of two rows alone say.

    Where measurements were compared, a claim that is only inconclusive now is left to them: by
    itself it may miss its threshold while the effect is shown to be kept.
    """
    said = f"{before['verdict']} before, {after['verdict']} now"
    if after["as_expected"]:
        return "held", said
    if after["verdict"] == "inconclusive":
        return ("held" if settled else "inconclusive"), said
    return "regressed", said + _why(after)


def _why(row: Row) -> str:
    first = str(row["reason"]).partition("\n")[0]
    return f": {first}" if first else ""


def _matched(before: Sequence[Item], after: Sequence[Item]) -> list[tuple[Item, Item | None]]:
    """Return the measurements that supported a claim, each with its counterpart."""
    there: dict[tuple[Any, ...], list[Item]] = {}
    for item in after:
        there.setdefault((item["kind"], item["label"]), []).append(item)
    found = []
    for item in before:
        same = there.get((item["kind"], item["label"]), [])
        counterpart = same.pop(0) if same else None
        if is_judged(item) and item["verdict"] == "supported":
            found.append((item, counterpart))
    return found


# -- as plain values -------------------------------------------------------------------------


def _claim(
    before: Row | None, after: Row | None, outcome: _Outcome, allowances: Mapping[str, Allowance]
) -> dict[str, Any]:
    row = after or before
    assert row is not None, "a pair has at least one row"
    allowance = allowances.get(row["key"])
    bad = outcome.change in ("regressed", "moved", "incomparable", "removed")
    return {
        "id": row["id"],
        "key": row["key"],
        "statement": row["statement"],
        "change": outcome.change,
        "reason": outcome.reason,
        "finding": bool(before and before["as_expected"]),
        "before": _side(before),
        "after": _side(after),
        "allowed": {"reason": allowance.reason, "expires": allowance.expires.isoformat()}
        if allowance is not None and bad
        else None,
        "fields": [asdict(field) for field in outcome.fields],
        "parts": [_part(part, moved) for part, moved in outcome.parts],
        "source": {name: row["source"][name] for name in ("file", "line")},
        "replay": after["replay"] if after is not None else "",
    }


def _side(row: Row | None) -> dict[str, Any] | None:
    if row is None:
        return None
    names = ("suite", "seed", "checkpoint", "sha256")
    return {
        "id": row["id"],
        "verdict": row["verdict"],
        "level": row["level"],
        **{name: row["model"][name] for name in names},
    }


def _part(part: Part, moved: Sequence[Place]) -> dict[str, Any]:
    kept = part.kept
    return {
        "kind": part.before["kind"],
        "label": part.before["label"],
        "circuit": list(part.before["circuit"]),
        "change": "moved" if moved else part.verdict,
        "by": part.by,
        "reason": part.reason,
        "kept": None
        if kept is None
        else {
            "estimate": _plain(kept.kept),
            "low": _plain(kept.wide.low),
            "high": _plain(kept.wide.high),
            "confidence": kept.wide.confidence,
            "reason": kept.wide.reason,
            "p": _plain(kept.p),
            "level": kept.level,
            "method": kept.method,
            "clusters": kept.clusters,
            "prompts": kept.prompts,
        },
        "behaviour_kept": _plain(part.behaviour),
        "overlap": None if part.shared is None else _plain(part.shared.overlap),
        "fields": [asdict(field) for field in part.fields],
        "moved_to": [
            {
                "circuit": list(place.circuit),
                "before": _plain(place.before),
                "after": _plain(place.after),
                "tested": place.tested,
            }
            for place in moved
        ],
    }


def _plain(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.7g}")
