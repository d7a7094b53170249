"""Is what a place no longer carries carried by another one now?

A measurement that regressed is called moved when all of this holds:

1. the behaviour itself was kept, by the same test, margin and level;
2. another place of the same kind (the same sites with other layers), measured in the second report
   by the same kind of claim, with the same ablation and metric and on the same prompts, has now
   what the claimed place had: non-inferior to it, at the same level;
3. in the first report that other place was shown to have less: below the margin.

Where no claim measured another place in both reports, two maps of effects of the same title are
asked: the claimed cell fell below the margin, another layer's cell of its column rose above it.
A map is looked at, not tested, and the answer says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mechtest.comparison.evidence import Item, place_pattern, shared_prompts
from mechtest.comparison.judging import Part, kept_share
from mechtest.comparison.rows import Row

if TYPE_CHECKING:
    from mechtest.comparison.compare import Rules
    from mechtest.stats import NonInferiority

__all__ = ["Place", "Places", "moved_to"]

# All of these measure what ablating a circuit takes away.
_ABLATED = ("necessity", "absence", "specificity")
_SITE = re.compile(r"blocks\.(\d+)\.(.+)@(.+)")


@dataclass(frozen=True)
class Place:
    """Where an effect is now.

    Attributes:
        circuit: Its sites, or the cell of a map.
        before: What it had at the first checkpoint, as a share of what the claimed place had.
        after: What it has at the second, likewise.
        tested: Whether both were tested, or only seen in maps.
    """

    circuit: tuple[str, ...]
    before: float | None
    after: float | None
    tested: bool


class Places:
    """Everything a report measured prompt by prompt, and its maps, by what can be compared.

    Args:
        rows: Of the report.
    """

    def __init__(self, rows: Iterable[Row]) -> None:
        self._items: dict[tuple[Any, ...], dict[tuple[str, ...], list[Item]]] = {}
        self._maps: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
        for row in rows:
            for item in row["evidence"]:
                if 0 < len(item["effects"]) == len(item["prompt_ids"]) == len(item["templates"]):
                    of_kind = self._items.setdefault(_kind(item), {})
                    of_kind.setdefault(tuple(item["circuit"]), []).append(item)
            for table in row["maps"]:
                self._maps.setdefault((row["family"], table["title"]), []).append(table)

    def like(self, item: Item) -> dict[tuple[str, ...], list[Item]]:
        """Return measurements of other places of the same kind, in the same weights, by place."""
        own = tuple(item["circuit"])
        found = self._items.get(_kind(item), {})
        return {circuit: items for circuit, items in found.items() if circuit != own}

    def maps_of(self, family: str) -> dict[str, Mapping[str, Any]]:
        """Return the maps of a family by title, those whose title is theirs alone."""
        return {
            title: tables[0]
            for (name, title), tables in self._maps.items()
            if name == family and len(tables) == 1
        }


def _kind(item: Item) -> tuple[Any, ...]:
    kind = "ablation" if item["kind"] in _ABLATED else item["kind"]
    weights = item["model"]["weights"]
    return kind, item["intervention"], item["metric"], weights, place_pattern(item)


def moved_to(
    part: Part, family: str, before: Places, after: Places, level: float, rules: Rules
) -> list[Place]:
    """Return where what `part` lost is now; empty where no place answers to the rule above.

    Args:
        part: A measurement that regressed.
        family: Of its claim.
        before: Places of the first report.
        after: Places of the second.
        level: Level of the claim.
        rules: Margin, sides, overlap.
    """
    if part.kept is None or part.after is None or not _behaviour_held(part, level, rules):
        return []
    found = _measured(part, before.like(part.before), after.like(part.after), level, rules)
    return found or _mapped(part, before.maps_of(family), after.maps_of(family), rules.margin)


def _behaviour_held(part: Part, level: float, rules: Rules) -> bool:
    if part.after is None or part.shared is None or not part.before["behaviours"]:
        return False
    kept = kept_share(part.before, part.after, part.shared, level, rules, "behaviours")
    return kept is not None and kept.held


def _measured(
    part: Part,
    before: Mapping[tuple[str, ...], Sequence[Item]],
    after: Mapping[tuple[str, ...], Sequence[Item]],
    level: float,
    rules: Rules,
) -> list[Place]:
    found = []
    for circuit, items in after.items():
        now = [_compared(part.before, item, level, rules) for item in items]
        has = next((one for one in now if one is not None and one.held), None)
        if has is None:
            continue
        then = [_compared(part.before, item, level, rules) for item in before.get(circuit, ())]
        had = next((one for one in then if one is not None and one.regressed), None)
        if had is not None:
            found.append(Place(circuit, had.kept, has.kept, tested=True))
    return found


def _compared(claimed: Item, other: Item, level: float, rules: Rules) -> NonInferiority | None:
    shared = shared_prompts(claimed, other)
    if shared.overlap < rules.overlap:
        return None
    return kept_share(claimed, other, shared, level, rules)


def _mapped(
    part: Part,
    before: Mapping[str, Mapping[str, Any]],
    after: Mapping[str, Mapping[str, Any]],
    margin: float,
) -> list[Place]:
    site = _SITE.fullmatch(part.before["circuit"][0]) if len(part.before["circuit"]) == 1 else None
    if site is None:
        return []
    layer, hook, position = site.groups()
    for title, old in before.items():
        new = after.get(title)
        if new is None or not title.startswith(f"{part.before['intervention']} of {hook},"):
            continue
        then, now = _column(old, position), _column(new, position)
        had = then.get(f"layer {layer}")
        if not had or had <= 0 or now.get(f"layer {layer}", 0.0) >= (1 - margin) * had:
            continue
        return [
            Place((f"{name} of the map {title!r}",), then[name] / had, value / had, tested=False)
            for name, value in now.items()
            if name in then and value >= (1 - margin) * had > then[name]
        ]
    return []


def _column(table: Mapping[str, Any], position: str) -> dict[str, float]:
    if position not in table["columns"]:
        return {}
    index = table["columns"].index(position)
    # A cell without a number changed nothing at all: it carries nothing.
    return {
        name: values[index] or 0.0
        for name, values in zip(table["rows"], table["values"], strict=True)
    }
