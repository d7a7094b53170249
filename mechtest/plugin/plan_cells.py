"""What would checking the claims take, claim by claim and in all?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mechtest.plugin.shown import number

__all__ = ["PLAN_HEADER", "plan_cells", "plan_total"]

PLAN_HEADER = (
    "claim",
    "level",
    "templates have/need",
    "controls need/most",
    "seeds",
    "passes",
    "GFLOP",
    "tokens",
    "MiB",
)
MIB = 2**20

Plan = tuple[Mapping[str, Any], Mapping[str, Any]]
"""The row of a claim, and what one of its assertions would do."""


def plan_cells(plans: Sequence[Plan]) -> list[list[str]]:
    """Return one row of cells an assertion.

    The cost is that of the claimed circuit and of the controls needed for support, in all seeds.
    """
    return [
        [
            row["statement"],
            number(row["level"]),
            f"{_count(plan, 'clusters')}/{_count(plan, 'needed_clusters')}",
            f"{_count(plan, 'needed_controls')}/{_count(plan, 'controls')}",
            _count(plan, "seeds"),
            _count(plan, "forward_passes"),
            *_cost(plan.get("cost")),
        ]
        for row, plan in plans
    ]


def plan_total(plans: Sequence[Plan]) -> str:
    """Return one line about all claims together; empty where no cost is known."""
    costs = [plan["cost"] for _, plan in plans if plan.get("cost") is not None]
    if not costs:
        return ""
    controls = sum(plan.get("needed_controls", 0) * plan.get("seeds", 1) for _, plan in plans)
    gflop, tokens, size = _cost(
        {
            "gflop": sum(cost["gflop"] for cost in costs),
            "forward_tokens": sum(cost["forward_tokens"] for cost in costs),
            "bytes": max(cost["bytes"] for cost in costs),
        }
    )
    memory = "" if size == "-" else f", up to {size} MiB"
    return (
        f"in all: {len(costs)} of {len(plans)} claims, {controls:,} controls, {gflop} GFLOP, "
        f"{tokens} tokens through the model{memory}"
    )


def _count(plan: Mapping[str, Any], name: str) -> str:
    value = plan.get(name)
    return "-" if value is None else str(value)


def _cost(cost: Mapping[str, Any] | None) -> list[str]:
    """Return the cells of a cost; hooks keep no budget, so their memory is not predicted."""
    if cost is None:
        return ["-", "-", "-"]
    gflop = cost["gflop"]
    size = cost["bytes"] / MIB
    return [
        f"{gflop:,.0f}" if gflop >= 10 else f"{gflop:.2g}",
        f"{cost['forward_tokens']:,}",
        "-" if not size else f"{size:,.0f}" if size >= 1 else "<1",
    ]
