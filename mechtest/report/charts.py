"""Which charts does a report hold?

All effects beside their thresholds on one scale, the controls of each claim, and tables of effects
as coloured fields.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mechtest.report.cells import deciding_evidence, effect_text, number_text, threshold_text
from mechtest.report.geometry import Histogram, Scale, Tick, histogram, scale_over
from mechtest.report.plain_text import clean_text

__all__ = [
    "Field",
    "Forest",
    "HeatMap",
    "Strip",
    "Templates",
    "control_histogram",
    "forests",
    "heat_map",
    "prompt_histogram",
    "template_strip",
]

Row = Mapping[str, Any]

SHARE = "share of behaviour"
_SHARES = Scale(-0.5, 1.5)  # beyond these ends a share is drawn as an arrow
_MOST_FIELDS = 64
_FEW = 4  # labels on the axis of a chart inside a claim
_NAMED = 3  # templates named at each end
_LABELLED = 600  # fields that get their number written into them


@dataclass(frozen=True, slots=True)
class Strip:
    """One effect on a scale shared by all: places in percent.

    Attributes:
        row: Index of the claim in the report.
        label: Statement, or part of the claim.
        at: The estimate.
        low: Lower end of the interval; None where there is none.
        high: Upper end likewise.
        beyond_low: Whether something is further left than the scale.
        beyond_high: Whether something is further right.
        threshold: Where the effect is held against; None where only ranks count.
        side: Which side of the threshold is claimed: `greater` or `less`.
        effect: As text.
        against: The threshold as text.
        verdict: Of this measurement.
    """

    row: int
    label: str
    at: float
    low: float | None
    high: float | None
    beyond_low: bool
    beyond_high: bool
    threshold: float | None
    side: str
    effect: str
    against: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Forest:
    """All effects of one unit."""

    unit: str
    zero: float | None
    ticks: tuple[Tick, ...]
    strips: tuple[Strip, ...]


def forests(claims: Sequence[Row]) -> list[Forest]:
    """Return the weakest effect of every claim that has one, by unit."""
    by_unit: dict[str, list[tuple[int, str, Row]]] = {}
    for index, row in enumerate(claims):
        evidence = deciding_evidence(row)
        if evidence is not None:
            label = clean_text(row["statement"] or row["id"], 160)
            by_unit.setdefault(evidence["effect"]["unit"], []).append((index, label, evidence))
    return [_forest(unit, items) for unit, items in by_unit.items()]


def parts_forest(index: int, evidence: Sequence[Row]) -> list[Forest]:
    """Return the effects of the several measurements behind one claim, by unit."""
    by_unit: dict[str, list[tuple[int, str, Row]]] = {}
    for number, item in enumerate(evidence, start=1):
        label = clean_text(
            item["label"] or (f"part {number}" if len(evidence) > 1 else item["kind"]), 80
        )
        by_unit.setdefault(item["effect"]["unit"], []).append((index, label, item))
    return [_forest(unit, items, ticks=_FEW) for unit, items in by_unit.items()]


def _forest(unit: str, items: Sequence[tuple[int, str, Row]], ticks: int = 7) -> Forest:
    scale = _scale(unit, [evidence for _, _, evidence in items])
    strips = tuple(_strip(scale, *item) for item in items)
    zero = scale.at(0.0) if scale.holds(0.0) else None
    return Forest(clean_text(unit, 60), zero, tuple(scale.ticks(ticks)), strips)


def _scale(unit: str, evidence: Sequence[Row]) -> Scale:
    numbers = [0.0]
    for item in evidence:
        effect = item["effect"]
        numbers += [effect["estimate"], effect["low"], effect["high"], item["threshold"]]
    known = [number for number in numbers if number is not None]
    return _shares_scale(known) if unit == SHARE else scale_over(known)


def _shares_scale(numbers: Sequence[float]) -> Scale:
    scale = scale_over(numbers)
    return Scale(max(scale.low, _SHARES.low), min(scale.high, _SHARES.high))


def _strip(scale: Scale, index: int, label: str, evidence: Row) -> Strip:
    effect, threshold = evidence["effect"], evidence["threshold"]
    low, high, estimate = effect["low"], effect["high"], effect["estimate"]
    numbers = [number for number in (low, high, estimate) if number is not None]
    # One end alone is an interval that is open on the other side.
    has_ends = low is not None or high is not None
    open_low = -math.inf if low is None and has_ends else min(numbers)
    open_high = math.inf if high is None and has_ends else max(numbers)
    return Strip(
        index,
        label,
        scale.at(estimate),
        scale.at(scale.low if low is None else low) if has_ends else None,
        scale.at(scale.high if high is None else high) if has_ends else None,
        open_low < scale.low,
        open_high > scale.high,
        None if threshold is None else scale.at(threshold),
        evidence["direction"],
        effect_text(effect),
        threshold_text(evidence),
        evidence["verdict"],
    )


def control_histogram(controls: Row | None) -> Histogram | None:
    """Return the controls of a measurement with the claim among them; None where none is kept."""
    if controls is None or not controls["values"]:
        return None
    return histogram(controls["values"], controls["observed"], controls["null_mean"])


def prompt_histogram(evidence: Row) -> Histogram | None:
    """Return how the effect spreads over prompts, in units of the mean behaviour.

    The mean of what is drawn is the effect over prompts. None where it was not kept, or where there
    was no behaviour to move.
    """
    effects, behaviours = evidence["effects"], evidence["behaviours"]
    if len(effects) < 2 or len(behaviours) != len(effects):
        return None
    mean = sum(behaviours) / len(behaviours)
    shares = [effect / mean for effect in effects] if mean else [math.inf]
    if not all(math.isfinite(share) for share in shares):
        return None
    return histogram(shares, None, sum(shares) / len(shares))


@dataclass(frozen=True, slots=True)
class Templates:
    """The effect in every template, on one line.

    Attributes:
        dots: An SVG path in a field of 100 by 10: a point for each template.
        threshold: Where the effect is held against, in percent; None where only ranks count.
        ticks: Of the axis.
        total: Templates.
        weakest: The furthest on the other side: name and effect, at most three.
        strongest: The furthest on the claimed side, likewise.
    """

    dots: str
    threshold: float | None
    ticks: tuple[Tick, ...]
    total: int
    weakest: tuple[tuple[str, str], ...]
    strongest: tuple[tuple[str, str], ...]


def template_strip(evidence: Row) -> Templates | None:
    """Return the effect template by template: the sum of effects over the sum of behaviours.

    A prompt's template is its name up to the last slash. None where prompts are not so named, were
    not kept, or where a template has no behaviour to move.
    """
    names = [str(name).rpartition("/")[0] for name in evidence["prompt_ids"]]
    effects, behaviours = evidence["effects"], evidence["behaviours"]
    if not all(names) or not len(names) == len(effects) == len(behaviours):
        return None
    sums: dict[str, tuple[float, float]] = {}
    for name, effect, behaviour in zip(names, effects, behaviours, strict=True):
        moved, there = sums.get(name, (0.0, 0.0))
        sums[name] = (moved + effect, there + behaviour)
    if len(sums) < 2 or any(there <= 0 for _, there in sums.values()):
        return None
    shares = {name: moved / there for name, (moved, there) in sums.items()}
    if not all(math.isfinite(share) for share in shares.values()):
        return None
    threshold = evidence["threshold"]
    marks = [threshold] if threshold is not None else []
    scale = _shares_scale([0.0, *marks, *shares.values()])
    ranked = sorted(shares, key=lambda name: shares[name], reverse=evidence["direction"] == "less")
    named = [
        (clean_text(name.rpartition("/")[2], 60), number_text(shares[name])) for name in ranked
    ]
    return Templates(
        "".join(f"M{scale.at(shares[name]):g} 5h0" for name in ranked),
        None if threshold is None else scale.at(threshold),
        tuple(scale.ticks(_FEW)),
        len(shares),
        tuple(named[:_NAMED]),
        tuple(named[: -_NAMED - 1 : -1]) if len(named) >= 2 * _NAMED else (),
    )


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a heat map: place in fields, strength from 0 to 1, and its number."""

    x: int
    y: int
    strength: float
    positive: bool
    text: str


@dataclass(frozen=True, slots=True)
class HeatMap:
    """A table of effects as coloured fields.

    Attributes:
        title: What it shows.
        unit: Of the values.
        rows: Row labels.
        columns: Column labels.
        fields: Those that were measured.
        largest: The number that is drawn in full colour.
        labelled: Whether each field bears its number.
        cut: Rows and columns that are not drawn.
    """

    title: str
    unit: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    fields: tuple[Field, ...]
    largest: str
    labelled: bool
    cut: tuple[int, int]


def heat_map(table: Row) -> HeatMap:
    """Return a table of effects, coloured on a scale that is symmetric around zero."""
    rows, columns = table["rows"][:_MOST_FIELDS], table["columns"][:_MOST_FIELDS]
    shown = [line[: len(columns)] for line in table["values"][: len(rows)]]
    numbers = [abs(value) for line in shown for value in line if value is not None]
    largest = max(numbers, default=0.0)
    fields = tuple(
        Field(x, y, round(abs(value) / largest, 3) if largest else 0.0, value >= 0, _short(value))
        for y, line in enumerate(shown)
        for x, value in enumerate(line)
        if value is not None
    )
    return HeatMap(
        clean_text(table["title"], 300),
        clean_text(table["unit"], 60),
        tuple(clean_text(label, 18) for label in rows),
        tuple(clean_text(label, 22) for label in _with_tokens(columns, table.get("tokens", ()))),
        fields,
        number_text(largest),
        len(fields) <= _LABELLED,
        (len(table["rows"]) - len(rows), len(table["columns"]) - len(columns)),
    )


def _with_tokens(columns: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """Return column labels with the word that stands there in the first prompt."""
    if not tokens:
        return list(columns)
    return [f"{name}: {word}" for name, word in zip(columns, tokens, strict=False)]


def _short(value: float) -> str:
    text = f"{value:.2f}" if abs(value) < 10 else f"{value:.3g}"
    return text.replace("-0.00", "0.00").replace("0.", ".", 1) if abs(value) < 1 else text
