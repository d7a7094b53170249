"""Is the claim special among its controls, and when have enough controls been seen?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from mechtest.errors import NonFiniteError, SampleError, UnattainableLevelError
from mechtest.stats.intervals import Interval
from mechtest.stats.levels import ceiling, reaches
from mechtest.stats.proportions import clopper_pearson_interval
from mechtest.stats.validation import finite_number, fraction

__all__ = [
    "LOSSES",
    "ControlSummary",
    "ControlTest",
    "most_controls",
    "needed_controls",
    "smallest_control_level",
]

LOSSES = 3
"""h: controls at least as extreme as the claim that end the test."""

TIE = 1e-6
"""Differences below this times max(1, |observed|) are ties: values come from float32 batches."""

QUANTILES = (0.05, 0.5, 0.95)

Stop = Literal["specific", "futile", "cap", "running"]


@dataclass(frozen=True)
class ControlSummary:
    """Where a claim stands among its controls.

    Attributes:
        observed: Statistic of the claim.
        drawn: Controls seen.
        at_least_as_extreme: Controls that reached the claim's statistic, ties included: L.
        p: Anytime-valid p value, the smallest reached so far.
        level: Level the test was run for.
        losses: h.
        stop: `"specific"` (p <= level), `"futile"` (h losses), `"cap"` (out of budget) or
            `"running"` (more controls are wanted).
        null_mean: Mean of the controls; None before the first.
        null_quantiles: Their .05, .5 and .95 quantiles; empty before the first.
        exceedance: at_least_as_extreme / drawn with its 95 % Clopper-Pearson ends; None before the
            first control. The lower end is exact at a futile stop, the upper one conservative.
        values: The controls, in the order of their numbers.
    """

    observed: float
    drawn: int
    at_least_as_extreme: int
    p: float
    level: float
    losses: int
    stop: Stop
    null_mean: float | None
    null_quantiles: tuple[float, ...]
    exceedance: Interval | None
    values: tuple[float, ...]


class ControlTest:
    """Rank a claim among exchangeable controls, one control at a time, and stop early.

    Null hypothesis: the claimed set is exchangeable with its controls: it was chosen from their
        family without regard to the behaviour.
    Exchange unit: one whole component set (or subspace), on the same model and prompts.
    Exactness: P(p <= level) <= level for any distribution of the statistic, conditional on model
        and prompts, at every stopping time. With h losses, p after t controls is h / (t + h - L)
        while L < h and h / t from then on; the smallest value so far is reported. This is the
        fixed test "fewer than h losses among ceil(h / level) - 1 controls", stopped when decided.

    Controls are fed in the order of their numbers, singly or in batches of any size: what comes
    after the stop is ignored, so the batch size changes nothing.

    Args:
        observed: T_0, statistic of the claim. Larger is more extreme: negate for other claims.
        level: Level of the claim.
        losses: h. More losses give power against controls that are sometimes as good, at the price
            of h / level - h controls for a true claim.
        cap: Most controls to draw; by default as many as can still matter.

    Raises:
        UnattainableLevelError: `cap` is below what any p <= level needs.
        NonFiniteError: NaN or infinity; names the control.

    Numerics: |T_k - T_0| <= 1e-6 max(1, |T_0|) is a tie, and ties count against the claim.
    Sources: Besag & Clifford 1991, section 3; Fischer, Barry & Ramdas 2024 (arXiv 2404.15586),
        anytime-valid version; Phipson & Smyth 2010 (p is never 0).

    Example:
        >>> test = ControlTest(observed=0.9, level=0.05)
        >>> test.feed([0.1] * 100).stop, test.summary().drawn
        ('specific', 57)
    """

    def __init__(
        self, observed: float, level: float, *, losses: int = LOSSES, cap: int | None = None
    ) -> None:
        self.observed = finite_number(observed, "statistic of the claim")
        self.level = fraction(level, "level")
        self.losses = _at_least_one(losses)
        enough = most_controls(level, losses=losses)
        self.cap = enough if cap is None else min(cap, enough)
        fewest = needed_controls(level, losses=losses)
        if self.cap < fewest:
            raise UnattainableLevelError(
                f"{cap} controls can never give p <= {level:.4g}",
                given=f"a cap of {cap} controls, {losses} losses",
                expected=f"at least {fewest} controls",
                next_step="raise the cap, or share the error rate among fewer claims",
            )
        self._values: list[float] = []
        self._lost = 0
        self._p = 1.0
        self._tie = TIE * max(1.0, abs(self.observed))

    @property
    def stop(self) -> Stop:
        """Why no more controls are wanted, or `"running"`."""
        if reaches(self._p, self.level):
            return "specific"
        if self._lost >= self.losses:
            return "futile"
        return "cap" if len(self._values) >= self.cap else "running"

    @property
    def next_control(self) -> int:
        """Number of the control to draw next, from 0."""
        return len(self._values)

    def feed(self, controls: float | Iterable[float]) -> ControlTest:
        """Take the next control, or the next few in order; return the test itself."""
        for value in controls if isinstance(controls, Iterable) else (controls,):
            if self.stop != "running":
                break
            if not np.isfinite(value):
                raise NonFiniteError(
                    f"control {len(self._values)} has no finite statistic",
                    given=value,
                    next_step="find out what broke in its run; a control is never left out",
                )
            self._take(float(value))
        return self

    def summary(self) -> ControlSummary:
        """Return the state of the test; its p is valid whether or not the test has stopped."""
        values, drawn = self._values, len(self._values)
        return ControlSummary(
            observed=self.observed,
            drawn=drawn,
            at_least_as_extreme=self._lost,
            p=self._p,
            level=self.level,
            losses=self.losses,
            stop=self.stop,
            null_mean=float(np.mean(values)) if values else None,
            null_quantiles=tuple(np.quantile(values, QUANTILES).tolist()) if values else (),
            exceedance=clopper_pearson_interval(self._lost, drawn, 0.95) if values else None,
            values=tuple(values),
        )

    def _take(self, value: float) -> None:
        self._values.append(value)
        self._lost += value >= self.observed - self._tie
        drawn, h = len(self._values), self.losses
        reached = h / (drawn + h - self._lost) if self._lost < h else h / drawn
        self._p = min(self._p, reached)


def needed_controls(level: float, *, losses: int = LOSSES) -> int:
    """Return the fewest controls after which p <= level is possible (no loss): h / level - h."""
    return ceiling(_at_least_one(losses) / fraction(level, "level") - losses)


def most_controls(level: float, *, losses: int = LOSSES) -> int:
    """Return the number of controls by which the test has always stopped: ceil(h / level) - 1."""
    return ceiling(_at_least_one(losses) / fraction(level, "level")) - 1


def smallest_control_level(controls: int, *, losses: int = LOSSES) -> float:
    """Return the smallest p value that `controls` controls can give: h / (controls + h)."""
    if controls < 0:
        raise SampleError("a number of controls cannot be negative", given=controls)
    return _at_least_one(losses) / (controls + losses)


def _at_least_one(losses: int) -> int:
    if isinstance(losses, bool) or losses != int(losses) or losses < 1:
        raise SampleError("losses should be a whole number, at least 1", given=losses)
    return int(losses)
