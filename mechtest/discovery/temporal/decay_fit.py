"""How fast does influence fade with distance, and how far back does most of it reach?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Float

from mechtest.discovery.dynamics.pictures import BLUE, ORANGE, named_axes
from mechtest.discovery.figures import new_figure, require_picture_path, write_figure
from mechtest.discovery.record import DiscoveryRecord, read_only
from mechtest.discovery.record_values import part_of_records
from mechtest.discovery.temporal.influence_map import InfluenceMap
from mechtest.errors import ShapeError
from mechtest.stats import cluster_effect, inversion_interval, keyed_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DecayFit", "FittedDecay", "decay_fit", "fit_rate", "receptive_field"]

FEWEST = 3
"""Lags with influence below which no rate is fitted."""


@part_of_records
@dataclass(frozen=True)
class FittedDecay:
    """The decay of one row.

    Attributes:
        row: Which row.
        half_life: Tokens in which influence halves; None where it does not fade.
        low: Lower end of its confidence interval; None where there is none.
        high: Upper end; None where it may not fade at all.
        rate: Mean over templates of the fitted rates, per token (ln 2 / half-life).
        start: Influence at lag 0 on the line of that rate.
        r_squared: Of the mean influence's logarithm, over lags.
        receptive_field: Smallest lag up to which `coverage` of the influence lies.
        reason: Why something is missing; empty otherwise.
    """

    row: str
    half_life: float | None
    low: float | None
    high: float | None
    rate: float | None
    start: float | None
    r_squared: float | None
    receptive_field: int | None
    reason: str = ""


@dataclass(frozen=True, eq=False, repr=False)
class DecayFit(DiscoveryRecord):
    """Half-lives of influence, a row each.

    Attributes:
        decays: The fits.
        lags: Lags fitted over.
        influence: Mean influence, "row lag", read-only; 0 where there was no number.
        unit: Of the influence.
        coverage: Share of the influence that a receptive field holds.
        confidence: Of the intervals.
    """

    decays: tuple[FittedDecay, ...]
    lags: tuple[int, ...]
    influence: Float[np.ndarray, "row lag"]
    unit: str
    coverage: float
    confidence: float

    def lines(self) -> tuple[str, ...]:
        """Return each row's half-life and receptive field."""
        return tuple(self._line(one) for one in self.decays)

    def _line(self, one: FittedDecay) -> str:
        if one.half_life is None:
            return f"{one.row}: {one.reason}"
        ends = f"{_tokens(one.low)} to {_tokens(one.high)}"
        return (
            f"{one.row}: half-life {one.half_life:.3g} tokens ({ends}), "
            f"{self.coverage:.0%} of the influence within {one.receptive_field} tokens"
            + (f"; {one.reason}" if one.reason else "")
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw influence over lag on a logarithmic scale, with the fitted lines."""
        require_picture_path(path)
        count = len(self.decays)
        wide = min(count, 4)
        high = -(-count // wide)
        figure = new_figure(2.6 * wide + 0.8, 2.3 * high)
        axes = figure.subplots(high, wide, squeeze=False, sharex=True, sharey=True)
        for place, one in enumerate(self.decays):
            panel = named_axes(axes.flat[place], one.row, "lag (tokens)", "")
            shown = self.influence[place] > 0
            lags = np.array(self.lags)
            panel.semilogy(lags[shown], self.influence[place][shown], "o", color=BLUE, ms=4)
            if one.rate is not None and one.start is not None:
                panel.semilogy(lags, one.start * np.exp(-one.rate * lags), color=ORANGE, lw=1.2)
            if one.half_life is not None:
                panel.set_title(f"{one.row}: half-life {one.half_life:.2g}", loc="left", fontsize=9)
        for panel in axes.flat[count:]:
            panel.set_visible(False)
        figure.supylabel(self.unit.replace(" (", "\n("), fontsize=8)
        return write_figure(figure, path, "decay of influence")


def decay_fit(
    influence: InfluenceMap,
    *,
    of: Literal["sensitivity", "effect"] = "sensitivity",
    first_lag: int = 0,
    coverage: float = 0.9,
    confidence: float = 0.95,
) -> DecayFit:
    """Fit an exponential decay over lag to each row of an influence map.

    Each template's mean influence gets a rate, by least squares on its logarithm; the rate of a row
    is their mean, and its interval has templates as the unit. A half-life is ln 2 / rate. An
    exponential is a description: r_squared says how good a one.

    Args:
        influence: From `influence_map`.
        of: Fit the gradient's length, or the size of what interventions did.
        first_lag: Lags before it are left out; 1 leaves out the token itself, whose direct path
            does not decay.
        coverage: Share of the influence that a receptive field has to hold.
        confidence: Of the intervals.

    Raises:
        ShapeError: Shares outside (0, 1), a first lag that leaves fewer than three, or a table that
            is not there.

    Exactness: intervals as `inversion_interval` of the mean rate; the receptive field is of the
    lags that were measured, and says nothing about longer ones.
    """
    tables = {"sensitivity": influence.sensitivity, "effect": influence.effect}
    if of not in tables or not (0 < coverage < 1 and 0 < confidence < 1):
        raise ShapeError(
            "no such decay is fitted",
            given=f"of={of!r}, coverage={coverage}, confidence={confidence}",
            expected='"sensitivity" or "effect", and shares between 0 and 1',
        )
    table = tables[of]
    lags = tuple(range(first_lag, table.shape[1]))
    if first_lag < 0 or len(lags) < FEWEST:
        raise ShapeError(
            "a decay is fitted to three lags or more",
            given=f"lags {first_lag} to {table.shape[1] - 1}",
            expected="a smaller first_lag, or a larger max_lag in influence_map",
        )
    values = np.abs(table.values[:, first_lag:])
    fits = [
        _fitted(row, lags, values[index], table.templates, coverage, confidence)
        for index, row in enumerate(table.rows)
    ]
    settings = {**influence.about.settings, "of": of, "first_lag": first_lag}
    return DecayFit(
        replace(influence.about, tool="decay_fit", settings=settings),
        tuple(one for one, _ in fits),
        lags,
        read_only(np.array([mean for _, mean in fits])),
        f"{table.effect_name} ({table.unit})",
        coverage,
        confidence,
    )


def fit_rate(
    lags: Sequence[int], influence: Float[np.ndarray, " lag"]
) -> tuple[float, float, float] | None:
    """Return (rate per token, influence at lag 0, r squared) of an exponential decay.

    By least squares on the logarithm, over the lags with influence; None where they are fewer than
    three.
    """
    there = np.isfinite(influence) & (influence > 0)
    if there.sum() < FEWEST:
        return None
    x, y = np.array(lags, dtype=np.float64)[there], np.log(influence[there])
    slope, level = np.polyfit(x, y, 1)
    spread = float(((y - y.mean()) ** 2).sum())
    left = float(((y - (slope * x + level)) ** 2).sum())
    return -float(slope), math.exp(float(level)), 1.0 if not spread else 1.0 - left / spread


def receptive_field(
    lags: Sequence[int], influence: Float[np.ndarray, " lag"], coverage: float
) -> int | None:
    """Return the smallest lag up to which that share of the influence lies; None without any."""
    mass = np.cumsum(np.nan_to_num(influence))
    if not mass[-1] > 0:
        return None
    # A hair of slack: shares that are equal in exact arithmetic must not differ by rounding.
    return lags[int(np.argmax(mass >= coverage * mass[-1] * (1 - 1e-12)))]


def _fitted(
    row: str,
    lags: tuple[int, ...],
    values: np.ndarray,
    templates: Sequence[str],
    coverage: float,
    confidence: float,
) -> tuple[FittedDecay, np.ndarray]:
    labels = np.array(templates, dtype=str)
    names = np.unique(labels)
    each = [_mean_there(values[:, labels == name]) for name in names]
    mean = np.nan_to_num(_mean_there(np.stack(each, axis=1)))
    field = receptive_field(lags, mean, coverage)
    fits = [(name, fit_rate(lags, one)) for name, one in zip(names, each, strict=True)]
    rates = {str(name): fit[0] for name, fit in fits if fit is not None}
    overall = fit_rate(lags, mean)
    if not rates or overall is None:
        reason = f"fewer than {FEWEST} lags have influence"
        return FittedDecay(row, None, None, None, None, None, None, field, reason), mean
    rate = float(np.mean(list(rates.values())))
    low, high, reason = _interval(row, rates, confidence)
    missing = len(names) - len(rates)
    if missing:
        reason = f"{missing} templates without a fit; {reason}".removesuffix("; ")
    if rate <= 0:
        reason = "influence does not fade over these lags"
    half = math.log(2) / rate if rate > 0 else None
    there = mean > 0
    # The line of this rate through the middle of the points.
    start = math.exp(float(np.log(mean[there]).mean() + rate * np.array(lags)[there].mean()))
    made = FittedDecay(row, half, low, high, rate, start, overall[2], field, reason)
    return made, mean


def _mean_there(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of the numbers that are there; NaN without any."""
    there = np.isfinite(values)
    counts = there.sum(-1)
    totals = np.where(there, values, 0.0).sum(-1)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.nan)


def _interval(
    row: str, rates: dict[str, float], confidence: float
) -> tuple[float | None, float | None, str]:
    """Return the ends of the half-life's interval, and why one is missing."""
    if len(rates) < 2:
        return None, None, "one template: no interval"
    values = np.array(list(rates.values()))
    effect = cluster_effect(values, np.ones(len(values)), list(rates))
    found = inversion_interval(
        effect, confidence, generator=keyed_generator(0, row, "decay of influence")
    )
    # A large rate is a short half-life: the ends change places.
    low = math.log(2) / found.high if found.high is not None and found.high > 0 else None
    high = math.log(2) / found.low if found.low is not None and found.low > 0 else None
    return low, high, found.reason


def _tokens(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
