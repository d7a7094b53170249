"""Which threshold can an effect that was found be expected to pass on other prompts?

An effect on the prompts a circuit was found on is too large, and how much too large is not known
before the test. The rule: the lower end of its 95 % interval, minus a margin of a tenth of the
behaviour, rounded down to a twentieth; never above the default of the claim, and nothing below a
tenth. Without an interval, half of the estimate takes the place of the lower end.
"""

from __future__ import annotations

import math

__all__ = ["MARGIN", "NECESSITY", "SUFFICIENCY", "proposed_threshold"]

MARGIN = 0.1
STEP = 0.05
FEWEST = 0.1
NECESSITY = 0.5
"""Default threshold of claims of necessity; proposals are never above it."""
SUFFICIENCY = 0.8
"""The same for sufficiency."""


def proposed_threshold(effect: float | None, low: float | None, most: float) -> float | None:
    """Return the threshold to claim, None where too little is left to claim anything.

    Args:
        effect: Share of the behaviour on the discovery half.
        low: Lower end of its 95 % interval, None where there is none.
        most: The default of the claim.
    """
    if effect is None:
        return None
    floor = effect / 2 if low is None else low
    # Rounding down .30000000000000004 / .05 has to give 6, and so has .3 / .05.
    steps = math.floor((floor - MARGIN) / STEP + 1e-9)
    found = min(round(steps * STEP, 2), most)
    return found if found >= FEWEST else None
