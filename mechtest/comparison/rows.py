"""Which claim of one report is which of the other?

The key of a claim is its test without the model; what is left over is told apart by training seed
and checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

__all__ = ["Row", "coordinates", "paired"]

Row = Mapping[str, Any]


def coordinates(row: Row) -> tuple[Any, ...]:
    """Return what tells the rows of one key apart: suite, training seed, checkpoint."""
    model = row["model"]
    return model["suite"], model["seed"], model["checkpoint"]


def paired(before: Iterable[Row], after: Iterable[Row]) -> list[tuple[Row | None, Row | None]]:
    """Return the rows of two reports side by side, None where one has no counterpart.

    Rows of one key are paired when suite, seed and checkpoint agree; then, where just one with a
    seed is left on both sides, by seed (two checkpoints of one training run); then, where just one
    is left at all, whatever it was checked on. The rest is removed or new.
    """
    pairs: list[tuple[Row | None, Row | None]] = []
    old, new = _by_key(before), _by_key(after)
    for key in [*old, *(key for key in new if key not in old)]:
        left, right = old.get(key, []), new.get(key, [])
        for same in (coordinates, _suite_and_seed, _seed, _anything):
            pairs += _taken(left, right, same)
        pairs += [(row, None) for row in left] + [(None, row) for row in right]
    return pairs


def _taken(left: list[Row], right: list[Row], same: Any) -> list[tuple[Row | None, Row | None]]:
    """Take out the rows of a key that only one row on each side answers to."""
    found: list[tuple[Row | None, Row | None]] = []
    for place in dict.fromkeys(same(row) for row in left):
        here = [row for row in left if same(row) == place]
        there = [row for row in right if same(row) == place]
        if len(here) == 1 == len(there):
            found.append((here[0], there[0]))
            left[:] = [row for row in left if row is not here[0]]
            right[:] = [row for row in right if row is not there[0]]
    return found


def _suite_and_seed(row: Row) -> tuple[Any, ...]:
    return coordinates(row)[:2]


def _seed(row: Row) -> Any:
    return row["model"]["seed"]


def _anything(row: Row) -> str:
    return str(row["key"])


def _by_key(rows: Iterable[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(str(row["key"]), []).append(row)
    return found
