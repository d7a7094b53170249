"""What does a whole run come to?

Rows from any number of workers, in any order, become one report: sorted, counted, and said to be
complete or not. Nothing here knows of pytest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mechtest.errors import MechtestError, NonFiniteError
from mechtest.report.plain_text import whole_characters

__all__ = ["SCHEMA", "VERDICTS", "build_report"]

SCHEMA = "mechtest-report/1"

DECIDED = ("supported", "refuted", "inconclusive", "invalid")
VERDICTS = (*DECIDED, "skipped", "crashed", "interrupted", "not_run", "deselected")


def build_report(
    rows: Iterable[Mapping[str, Any]],
    *,
    families: Mapping[str, Any],
    family_error: Mapping[str, Any],
    provenance: Mapping[str, Any],
    run: Mapping[str, Any],
    assumptions: Sequence[str],
    collection_errors: Sequence[Mapping[str, Any]] = (),
    comparison: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the report of a run, made of plain JSON values only.

    Args:
        rows: One for every claim test, in any order.
        families: Name -> whether it is ordered, its level, and its claims in order.
        family_error: The budget: alpha, claims registered and selected, source, stale entries.
        provenance: Versions, lock, commit, seed, prompts.
        run: What may differ between two runs of the same claims: times, workers, passes.
        assumptions: Sentences printed with every report.
        collection_errors: Files whose claims could not be collected.
        comparison: With an earlier report, where one was asked for.

    Raises:
        NonFiniteError: A number is NaN or infinite; names its place.
        MechtestError: A row has a verdict nobody knows.
    """
    claims = [_plain(row, f"claims[{row.get('id', index)}]") for index, row in enumerate(rows)]
    for row in claims:
        if row["verdict"] not in VERDICTS:
            raise MechtestError(
                f"the verdict of {row['id']} is not one of a claim",
                given=row["verdict"],
                expected=", ".join(VERDICTS),
            )
    claims.sort(key=lambda row: (row["family"], row["order"], row["id"]))
    budget = _plain(family_error, "family_error")
    errors = _plain(list(collection_errors), "collection_errors")
    return {
        "schema": SCHEMA,
        "complete": _is_complete(claims, budget, errors),
        "exploratory": budget["source"] == "collection"
        or any(not row["registered"] for row in claims),
        "summary": _summary(claims),
        "family_error": budget,
        "families": _plain(families, "families"),
        "claims": claims,
        "collection_errors": errors,
        "assumptions": _plain(list(assumptions), "assumptions"),
        "provenance": _plain(provenance, "provenance"),
        "run": _plain(run, "run"),
        "comparison": _plain(comparison, "comparison"),
    }


def _summary(claims: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    counts = {verdict: sum(row["verdict"] == verdict for row in claims) for verdict in VERDICTS}
    as_expected = sum(bool(row["as_expected"]) for row in claims)
    return {**counts, "as_expected": as_expected, "total": len(claims)}


def _is_complete(
    claims: Sequence[Mapping[str, Any]], budget: Mapping[str, Any], errors: Sequence[object]
) -> bool:
    """Every registered claim was selected and came to a verdict of its own."""
    return (
        bool(claims)
        and not errors
        and budget["selected"] >= budget["registered"]
        and all(row["verdict"] in DECIDED for row in claims)
    )


def _plain(value: object, place: str) -> Any:
    """Return `value` as JSON would give it back: lists, dicts, text that can be encoded."""
    copied = json.loads(json.dumps(value, default=_as_json))
    return _checked(copied, place)


def _as_json(value: Any) -> Any:
    # Scalars of numpy and torch know how to become plain; paths and the like become text.
    return value.item() if callable(getattr(value, "item", None)) else str(value)


def _checked(value: Any, place: str) -> Any:
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise NonFiniteError(
            f"{place} of the report is {value}",
            given=value,
            expected="a finite number, or null with a reason",
        )
    if isinstance(value, dict):
        return {
            whole_characters(key): _checked(item, f"{place}.{key}") for key, item in value.items()
        }
    if isinstance(value, list):
        return [_checked(item, f"{place}[{index}]") for index, item in enumerate(value)]
    return value
