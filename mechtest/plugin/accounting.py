"""What became of every claim that was collected or registered?

Pure functions from plans, reports and journals to the rows of a report. No claim is left out: one
that crashed, was cut off or never ran has a row that says so, because a claim nobody checked must
not look like one that held.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mechtest.plugin.journal import JournalContent
from mechtest.plugin.levels import Budget, adjusted_in_order, holm
from mechtest.plugin.plan import PlannedClaim
from mechtest.plugin.verdicts import is_expected, plain

__all__ = ["VERDICTS", "make_rows", "missing_evidence", "not_checked"]

Row = dict[str, Any]
Facts = Mapping[str, Any]

VERDICTS = (
    "supported",
    "refuted",
    "inconclusive",
    "invalid",
    "skipped",
    "crashed",
    "interrupted",
    "not_run",
    "deselected",
)
UNFINISHED = ("crashed", "interrupted", "not_run")


@dataclass(frozen=True)
class Outcomes:
    """What is known about how tests ended.

    Attributes:
        facts: What test reports carried, by node id.
        journals: What workers wrote down.
        crashed: Node ids at which a worker died.
    """

    facts: Mapping[str, Facts]
    journals: JournalContent
    crashed: Collection[str] = ()


def make_rows(
    planned: Mapping[str, PlannedClaim],
    outcomes: Outcomes,
    budget: Budget,
    *,
    registered: Collection[str],
    replay: Sequence[str] = (),
) -> list[Row]:
    """Return one row for every collected claim, with gates and adjusted p values.

    Args:
        planned: Claims as collected, by node id.
        outcomes: How they ended.
        budget: How the error rate is shared.
        registered: Keys that the lock holds unchanged.
        replay: Options to add to the command that repeats a claim.
    """
    ended = {line["id"]: line["facts"] for line in outcomes.journals.events("end")}
    started = {line["id"] for line in outcomes.journals.events("start")}
    rows = []
    for claim in planned.values():
        facts = outcomes.facts.get(claim.id) or ended.get(claim.id)
        died = claim.id in outcomes.crashed
        if facts is None:
            facts = _absent(claim, outcomes.journals, died=died, started=claim.id in started)
        elif died:
            note = "its worker died after the claim was finished"
            facts = {**facts, "notes": [*facts.get("notes", ()), note]}
        rows.append(_row(claim, facts, budget, registered, replay))
    _close_gates(rows, budget)
    _adjust(rows, budget)
    return sorted(rows, key=lambda row: (row["family"], row["order"], row["id"]))


def missing_evidence(rows: Iterable[Row]) -> list[Row]:
    """Return the rows of claims that should have been checked and were not."""
    return [row for row in rows if row["verdict"] in UNFINISHED]


def not_checked(rows: Iterable[Row], registered: Iterable[str]) -> list[str]:
    """Return the keys of registered claims that were deselected or not collected."""
    seen = {row["key"] for row in rows if row["verdict"] != "deselected"}
    return [key for key in registered if key not in seen]


def partial_records(claim: str, journals: JournalContent) -> list[str]:
    """Return what a claim had found before its worker died, one sentence a record."""
    return [line["text"] for line in journals.events("record") if line["id"] == claim]


def _absent(
    claim: PlannedClaim, journals: JournalContent, *, died: bool, started: bool
) -> dict[str, Any]:
    """Return the facts of a claim that left none."""
    notes: list[str] = []
    if died:
        verdict, reason = "crashed", "its worker died while the claim was being checked"
        notes = [f"before that: {text}" for text in partial_records(claim.id, journals)]
    elif not claim.selected:
        verdict, reason = "deselected", "it was not selected to run"
    elif started:
        verdict, reason = "interrupted", "the run ended while the claim was being checked"
    else:
        verdict, reason = "not_run", "the run ended before the claim's turn"
    return {"verdict": verdict, "binding": verdict, "reason": reason, "notes": notes}


def _row(
    claim: PlannedClaim,
    facts: Facts,
    budget: Budget,
    registered: Collection[str],
    replay: Sequence[str],
) -> Row:
    model = {
        "suite": claim.suite,
        "seed": claim.seed,
        "checkpoint": claim.checkpoint,
        "step": claim.step,
        "sha256": "",
        "dtype": "",
        "device": "",
    }
    verdict = str(facts["verdict"])
    return {
        "id": claim.id,
        "key": claim.key,
        "statement": claim.statement,
        "family": claim.family,
        "order": budget.order(claim.key),
        "registered": bool(facts.get("registered", claim.key in registered)),
        "expect": claim.expect,
        "exact": claim.exact,
        "verdict": verdict,
        "as_expected": is_expected(verdict, claim.expect),
        "gate": "none",
        "level": float(facts.get("level", budget.level(claim.key))),
        "p": float(facts.get("p", 1.0)),
        "p_adjusted": 1.0,
        "binding": str(facts.get("binding", "")),
        "reason": str(facts.get("reason", "")),
        "settle": str(facts.get("settle", "")),
        "notes": list(facts.get("notes", ())),
        "model": {**model, **facts.get("model", {})},
        "settings": list(facts.get("settings", ())),
        "evidence": list(facts.get("evidence", ())),
        "maps": list(facts.get("maps", ())),
        "source": {"file": claim.file, "line": claim.line, "code": plain(claim.code)},
        "replay": " ".join(["pytest", shlex.quote(claim.id), *replay]),
        "message": str(facts.get("message", "")),
    }


def _peers(rows: Iterable[Row], row: Row, key: str) -> list[Row]:
    """Return a claim's rows at the checkpoint of `row`; rows without a model belong to all."""
    at = (row["model"]["suite"], row["model"]["checkpoint"])
    return [
        other
        for other in rows
        if other["key"] == key
        and (
            at == ("", "")
            or (other["model"]["suite"], other["model"]["checkpoint"]) in (at, ("", ""))
        )
    ]


def _close_gates(rows: Sequence[Row], budget: Budget) -> None:
    """Say of every claim of an ordered family whether all gates before it are open."""
    by_key = _by_key(rows)
    for row in rows:
        family = budget.families.get(row["family"])
        if family is None or not family.ordered or row["key"] not in family.claims:
            continue
        if not budget.counts(row["key"]):
            continue  # false twins and identities claim nothing that a gate could guard
        before = family.claims[: family.claims.index(row["key"])]
        gates = [key for key in before if budget.counts(key)]
        shut = [key for key in gates if not _held(_peers(by_key.get(key, ()), row, key))]
        row["gate"] = "closed" if shut else "open"
        if shut and row["verdict"] == "supported":
            note = f"counts only if {shut[0]} is supported, which comes before it"
            row["notes"] = [*row["notes"], note]


def _held(rows: Sequence[Row]) -> bool:
    return bool(rows) and all(row["verdict"] == "supported" for row in rows)


def _adjust(rows: Sequence[Row], budget: Budget) -> None:
    """Set the p values adjusted for all registered claims, at each checkpoint by itself."""
    by_key = _by_key(rows)
    for row in rows:
        key = row["key"]
        factor = budget.factor(key)
        family = budget.families.get(row["family"])
        if family is None or key not in family.claims or not budget.counts(key):
            row["p_adjusted"] = min(1.0, factor * row["p"])
            continue
        counted = [other for other in family.claims if budget.counts(other)]
        p_values = {
            other: max((peer["p"] for peer in _peers(by_key.get(other, ()), row, other)), default=1)
            for other in counted
        }
        p_values[key] = row["p"]
        adjusted = adjusted_in_order(p_values) if family.ordered else holm(p_values)
        row["p_adjusted"] = min(1.0, factor * adjusted[key])


def _by_key(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["key"], []).append(row)
    return found
