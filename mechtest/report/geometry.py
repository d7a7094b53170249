"""Where does each mark of a chart go?

Places are percentages of a chart's width, so that it may be as wide as the screen while marks and
letters keep their size. Drawing is left to the templates, which escape every text they print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Histogram", "Scale", "Tick", "histogram", "scale_over"]

_STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Scale:
    """A line of numbers from `low` to `high`, drawn over the whole width."""

    low: float
    high: float

    def at(self, value: float) -> float:
        """Return where `value` lies, in percent; what is beyond an end is put at that end."""
        share = (value / 2 - self.low / 2) / (self.high / 2 - self.low / 2)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def holds(self, value: float) -> bool:
        """Say whether `value` is on this line."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 7) -> list[Tick]:
        """Return round numbers along the line."""
        step = _round_step((self.high / most) - (self.low / most))
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        # The numbers of a line far from zero may be closer together than floats are.
        if not 0 <= last - first <= 2 * most:
            return [Tick(0.0, f"{self.low:.3g}"), Tick(100.0, f"{self.high:.3g}")]
        return [Tick(self.at(i * step), f"{i * step:.4g}") for i in range(first, last + 1)]


def _round_step(rough: float) -> float:
    if not math.isfinite(rough) or rough < 1e-300:
        return 1.0
    power = math.floor(math.log10(rough))
    size: float = 10.0**power
    return next((step * size for step in _STEPS if step * size >= rough), 10 * size)


def scale_over(values: Sequence[float], margin: float = 0.04) -> Scale:
    """Return a scale that holds all `values`, with a little room at both ends."""
    low, high = min(values), max(values)
    room = (high / 2 - low / 2) * 2 * margin or abs(high) * margin or 1.0
    if not math.isfinite(room):  # the ends of what a float can hold
        return Scale(low, high)
    return Scale(max(low - room, -1e308), min(high + room, 1e308))


@dataclass(frozen=True, slots=True)
class Histogram:
    """Counts of values, with lines at numbers of interest.

    Attributes:
        outline: Bars as an SVG path in a field of 100 by 100.
        ticks: Of the axis.
        total: Values counted.
        tallest: Count of the highest bar.
        observed: Where the claim's own value lies; None without one.
        mean: Where the mean of the values lies; None without one.
    """

    outline: str
    ticks: tuple[Tick, ...]
    total: int
    tallest: int
    observed: float | None
    mean: float | None


def histogram(
    values: Sequence[float], observed: float | None, mean: float | None, bins: int = 40
) -> Histogram:
    """Count `values` in equal bins over a scale that also holds the numbers of interest."""
    marks = [number for number in (observed, mean) if number is not None]
    scale = scale_over([*values, *marks])
    counts = [0] * bins
    for value in values:
        counts[min(int(scale.at(value) / 100 * bins), bins - 1)] += 1
    tallest = max(counts, default=0)
    return Histogram(
        _outline(counts, tallest),
        tuple(scale.ticks(4)),
        len(values),
        tallest,
        None if observed is None else scale.at(observed),
        None if mean is None else scale.at(mean),
    )


def _outline(counts: Sequence[int], tallest: int) -> str:
    """Return one path around all bars: shorter than a path each, and the same field."""
    width = 100 / len(counts)
    parts: list[str] = []
    at = 0  # bins drawn so far
    for index, count in enumerate(counts):
        if not count:
            continue
        if index > at or not parts:
            parts.append(f"{'V100' if parts else ''}M{index * width:g} 100")
        parts.append(f"V{100 - 100 * count / tallest:.3g}h{width:g}")
        at = index + 1
    return "".join([*parts, "V100z"]) if parts else ""
