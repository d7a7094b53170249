"""How many digits of a number go into a record?"""

from __future__ import annotations

from mechtest.records import Effect
from mechtest.stats import Interval

__all__ = ["UNIT", "plain", "with_interval"]

UNIT = "share of behaviour"


def with_interval(estimate: float, interval: Interval) -> Effect:
    """Return an effect as a record holds it."""
    return Effect(
        estimate=plain(estimate),
        low=None if interval.low is None else plain(interval.low),
        high=None if interval.high is None else plain(interval.high),
        confidence=plain(interval.confidence),
        unit=UNIT,
        reason=interval.reason,
    )


def plain(value: float) -> float:
    """Return a float of seven digits: what float32 can tell, and short in a file."""
    return float(f"{float(value):.7g}")
