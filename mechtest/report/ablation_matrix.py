"""What does the same circuit come to when it is ablated in other ways, claim by claim?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mechtest.report.cells import effect_text
from mechtest.report.plain_text import clean_text

__all__ = ["AblationMatrix", "AblationRow", "ablation_matrix"]


@dataclass(frozen=True)
class AblationRow:
    """One measurement.

    Attributes:
        view: The claim, as the page has it.
        label: The claim, and which part of it.
        decides: The deciding ablation and its effect.
        cells: For each other way its effect as text and whether it agrees; empty without one.
    """

    view: Mapping[str, Any]
    label: str
    decides: str
    cells: tuple[tuple[str, bool | None], ...]


@dataclass(frozen=True)
class AblationMatrix:
    """All measurements that were also made in other ways."""

    names: tuple[str, ...]
    rows: tuple[AblationRow, ...]


def ablation_matrix(views: Sequence[Mapping[str, Any]]) -> AblationMatrix:
    """Return the other ablations of all claims."""
    measured = [
        (view, item) for view in views for item in view["row"]["evidence"] if item.get("ablations")
    ]
    names = tuple(
        dict.fromkeys(
            str(other["intervention"]) for _, item in measured for other in item["ablations"]
        )
    )
    rows = tuple(_row(view, item, names) for view, item in measured)
    return AblationMatrix(tuple(clean_text(name, 60) for name in names), rows)


def _row(view: Mapping[str, Any], item: Mapping[str, Any], names: Sequence[str]) -> AblationRow:
    found = {str(other["intervention"]): other for other in item["ablations"]}
    label = view["title"] + (f" ({clean_text(item['label'], 60)})" if item["label"] else "")
    return AblationRow(
        view,
        label,
        f"{clean_text(item['intervention'], 60)} {effect_text(item['effect'])}",
        tuple(_cell(found.get(name)) for name in names),
    )


def _cell(other: Mapping[str, Any] | None) -> tuple[str, bool | None]:
    if other is None:
        return "", None
    if other["effect"] is None:
        return "not measured", None
    return effect_text(other["effect"]), other["agrees"]
