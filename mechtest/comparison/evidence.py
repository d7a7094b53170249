"""Which measurements of a claim can be compared, and on which prompts?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "Item",
    "Shared",
    "is_absence",
    "is_judged",
    "is_paired",
    "name_of",
    "place_pattern",
    "shared_prompts",
]

Item = Mapping[str, Any]

# An effect of these is a share that a circuit carries, measured prompt by prompt.
_CARRIED = ("necessity", "sufficiency", "transfer")
_LAYER = re.compile(r"blocks\.\d+")


@dataclass(frozen=True)
class Shared:
    """Prompts that two measurements have in common, in the order of the first.

    Attributes:
        before: Indices of the first's prompts.
        after: Indices of the second's.
        templates: Of these prompts.
        overlap: Their number, as a share of the larger measurement's.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    templates: tuple[str, ...]
    overlap: float

    def of_first(self, values: Sequence[float]) -> list[float]:
        """Return the first's values at the shared prompts."""
        return [values[index] for index in self.before]

    def of_second(self, values: Sequence[float]) -> list[float]:
        """Return the second's values at the shared prompts."""
        return [values[index] for index in self.after]


def name_of(item: Item) -> str:
    """Return how a measurement is called in messages."""
    label = f" ({item['label']})" if item["label"] else ""
    return f"{item['kind']}{label} of {' + '.join(item['circuit'])}"


def is_judged(item: Item) -> bool:
    """Whether a measurement decides something, and is not only shown."""
    return item["threshold"] is not None or item["controls"] is not None


def is_paired(item: Item) -> bool:
    """Whether a measurement can be held against another prompt by prompt."""
    return (
        item["kind"] in _CARRIED
        and item["direction"] == "greater"
        and 0 < len(item["effects"]) == len(item["prompt_ids"]) == len(item["templates"])
    )


def is_absence(item: Item) -> bool:
    """Whether a measurement shows that an effect is below its threshold, prompt by prompt."""
    return (
        item["kind"] == "absence"
        and item["threshold"] is not None
        and 0 < len(item["effects"]) == len(item["behaviours"]) == len(item["templates"])
    )


def place_pattern(item: Item) -> tuple[str, ...]:
    """Return the sites of a measurement with their layers left open."""
    return tuple(sorted(_LAYER.sub("blocks.*", site) for site in item["circuit"]))


def shared_prompts(before: Item, after: Item) -> Shared:
    """Return the prompts two measurements share: the same row of a prompt file, word for word.

    Rows are told by the digest of what they say; by name where a measurement keeps no digests.
    """
    digests = bool(before["prompt_digests"]) and bool(after["prompt_digests"])
    kind = "prompt_digests" if digests else "prompt_ids"
    if before[kind] == after[kind]:
        same = tuple(range(len(before[kind])))
        return Shared(same, same, tuple(before["templates"] or before["prompt_ids"]), 1.0)
    there = {name: index for index, name in enumerate(after[kind])}
    both = [(index, there[name]) for index, name in enumerate(before[kind]) if name in there]
    templates = before["templates"] or before["prompt_ids"]
    most = max(len(before[kind]), len(after[kind]), 1)
    return Shared(
        before=tuple(index for index, _ in both),
        after=tuple(index for _, index in both),
        templates=tuple(templates[index] for index, _ in both),
        overlap=len(both) / most,
    )
