"""Which parts of the model write the answer into the residual stream, and how much each?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from mechtest.discovery.record import DiscoveryRecord
from mechtest.interventions import Circuit, SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["LogitAttribution"]


@dataclass(frozen=True, eq=False, repr=False)
class LogitAttribution(DiscoveryRecord):
    """The logit difference at the last token as a sum over parts of the model.

    Attributes:
        map: The parts, in logits; rows and columns depend on what was asked for.
        rest: What no part of the map holds, of each prompt: layers, channels or biases left out.
        total: The model's own logit difference, of each prompt.
    """

    map: SweepResult
    rest: Float[np.ndarray, " prompt"]
    total: Float[np.ndarray, " prompt"]

    @property
    def error(self) -> float:
        """Largest difference between the sum of all parts and the model, over the largest total.

        Rounding, and nothing else: the decomposition is exact.
        """
        summed = np.nansum(self.map.values, axis=(0, 1)) + self.rest
        return float(np.abs(summed - self.total).max() / np.abs(self.total).max())

    def scores(self) -> Mapping[str, float]:
        """Return the absolute mean contribution of each part, in logits.

        Channels bear their number behind the site (`blocks.1.hook_after_skip@last#17`). Parts of
        one site are added before the absolute value is taken.
        """
        found: dict[str, float] = {}
        mean = self.map.mean()
        for row, column in np.ndindex(*self.map.shape):
            name, value = self._part(row, column), mean[row, column]
            if name and not np.isnan(value):
                found[name] = found.get(name, 0.0) + float(value)
        return {name: abs(value) for name, value in found.items()}

    def circuit(self, count: int = 1, *, name: str | None = None) -> Circuit:
        """Return the parts with the largest absolute contributions, for a claim to test.

        Whole sites are taken together; channels only within the strongest channel's site.

        Args:
            count: Sites, or channels.
            name: How reports call the circuit.

        Raises:
            ShapeError: Not one part of that name.
        """
        order = sorted(self.scores().items(), key=lambda item: -item[1])
        site, _, channel = order[0][0].partition("#")
        if not channel:
            sites = [one for one, _ in order[: max(count, 0)]]
            return Circuit(*sites, name=name, fitted_on=self.about.fitted_on)
        own = [one.partition("#")[2] for one, _ in order if one.startswith(f"{site}#")]
        channels = [int(one) for one in own[: max(count, 0)]]
        return Circuit(site, channels=channels, name=name, fitted_on=self.about.fitted_on)

    def lines(self) -> tuple[str, ...]:
        """Return the largest parts."""
        total, rest = self._over_templates(self.total), self._over_templates(self.rest)
        first = (
            f"logit difference {total:.4g} = parts {total - rest:.4g} + rest {rest:.4g} "
            f"({self.map.which_prompts()}; exact to {self.error:.1e})"
        )
        found = [first]
        for place in self.map.top(10):
            found.append(f"{place.row}, {place.column}: {place.effect:+.4g} logits")
        return tuple(found)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the parts as a heat map."""
        return self.map.plot(path)

    def _part(self, row: int, column: int) -> str:
        """Return the name of a part: its site, and its channel where it is of one."""
        site = self.map.sites[row][column]
        if site and self.about.settings["by"] == "channel":
            return f"{site}#{self.map.columns[column]}"
        if site and self.about.settings["by"] == "state":
            return f"{site}#{self.map.rows[row].rpartition('#')[2]}"
        return site

    def _over_templates(self, values: np.ndarray) -> float:
        labels = np.array(self.about.templates, dtype=str)
        return float(np.mean([values[labels == one].mean() for one in np.unique(labels)]))
