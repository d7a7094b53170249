"""When is a p value small enough, and when can it never be?

A level such as .05 / 3 and a p value such as 3 / 180 are the same number written twice; floating
point may disagree by its last digit. Every comparison of the two goes through `reaches`.
"""

from __future__ import annotations

import math

from mechtest.stats.validation import fraction

__all__ = ["SLACK", "ceiling", "reaches"]

SLACK = 1e-9
"""Relative difference below which a p value counts as equal to a level."""


def reaches(p: float, level: float) -> bool:
    """Return whether `p` <= `level`, blind to the last digits of floating point."""
    return p <= fraction(level, "level") * (1 + SLACK)


def ceiling(number: float) -> int:
    """Return the smallest integer that is not below `number` by more than rounding."""
    return math.ceil(number - SLACK * max(1.0, abs(number)))
