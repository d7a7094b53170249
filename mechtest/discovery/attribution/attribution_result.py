"""What did attribution patching find, and how far can it be trusted?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mechtest.discovery.attribution.agreement import Agreement
from mechtest.discovery.attribution.pictures import draw
from mechtest.discovery.attribution.traces import AttributionCost
from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, SweepPlace, SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["AttributionResult"]

SHOWN = 5
CHANNELS = "channels"


@dataclass(frozen=True, eq=False, repr=False)
class AttributionResult(DiscoveryRecord):
    """First-order effects of patching many places, beside the true effects of some.

    Attributes:
        map: The attributed effects, rows and columns as those of `sweep`: shares of the behaviour
            lost (base `clean`) or restored (base `corrupted`).
        agreement: The comparison with true patching on a sample of places.
        strongest: The same at the strongest places, the strongest first. They were chosen by what
            was attributed to them, so their correlation says nothing of the rest.
        cost: What it took.
    """

    map: SweepResult
    agreement: Agreement
    strongest: Agreement
    cost: AttributionCost

    def top(self, count: int = 10) -> tuple[SweepPlace, ...]:
        """Return the places with the largest attributed effects; see `SweepResult.top`."""
        return self.map.top(count)

    def scores(self) -> Mapping[str, float]:
        """Return how much each place matters: the size of its mean attributed effect.

        Keys are sites with positions; `#17` behind one is channel 17 of it. The channels of a group
        share the score of the group.
        """
        means = np.abs(self.map.mean())
        found: dict[str, float] = {}
        for (row, column), value in np.ndenumerate(means):
            if np.isnan(value):
                continue
            site = self.map.sites[row][column]
            if self.map.column_name == CHANNELS:
                for channel in _channels(self.map.columns[column]):
                    found[f"{site}#{channel}"] = float(value)
            else:
                found[site] = float(value)
        return found

    def circuit(self, count: int, *, site: str | None = None, name: str | None = None) -> Circuit:
        """Return the places that matter most as a circuit, to be tested on other prompts.

        Args:
            count: How many places, or groups of channels.
            site: For channels: the site they are taken of, as in `map.sites`; by default that of
                the strongest group.
            name: How reports call it.

        Raises:
            ShapeError: There are not that many places, or no such site.
        """
        ranked = self.map.top(self.map.values.shape[0] * self.map.values.shape[1])
        if self.map.column_name == CHANNELS:
            of = site or (ranked[0].site if ranked else "")
            ranked = tuple(place for place in ranked if place.site == of)
            channels = [c for place in ranked[:count] for c in _channels(place.column)]
            _require(count, len(ranked), f"groups of channels of {of}")
            told = name or f"{len(channels)} channels of {of}"
            return Circuit(of, channels=channels, name=told, fitted_on=self.about.fitted_on)
        if site is not None:
            ranked = tuple(place for place in ranked if place.site.partition("@")[0] == site)
        _require(count, len(ranked), "places" if site is None else f"places of {site}")
        chosen = [place.site for place in ranked[:count]]
        return Circuit(*chosen, name=name, fitted_on=self.about.fitted_on)

    def lines(self) -> tuple[str, ...]:
        """Return the strongest places, the comparison with true patching, and the cost."""
        strongest = self.strongest.side_by_side(SHOWN)
        return (
            f"{self.map.title()}; strongest ({self.map.unit}): {strongest or 'none'}",
            *self.agreement.lines(),
            self.cost.line(),
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the map and, beside it, the comparison with true patching.

        Raises:
            MissingPackageError: Matplotlib is not installed.
            DiscoveryFileError: A suffix other than .png and .svg.
        """
        return draw([(self.map, "to first order")], self.agreement, self.map.title(), path)


def _channels(label: str) -> range:
    """Return the channels that a column of groups stands for."""
    first, _, last = label.partition("-")
    return range(int(first), int(last or first) + 1)


def _require(count: int, there: int, what: str) -> None:
    if isinstance(count, bool) or not 0 < count <= there:
        raise ShapeError(
            f"a circuit takes 1 to {there} {what}",
            given=f"count={count}",
            expected=f"1 to {there}",
        )
