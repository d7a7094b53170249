"""Which restored states bring the answer back after its subject was made unreadable?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import DiscoveryError, MetricError, closest_names
from mechtest.interventions import Circuit, SweepPlace, SweepResult
from mechtest.stats import Interval, cluster_effect, inversion_interval, keyed_generator

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CausalTrace", "template_interval", "template_mean"]

SMALLEST_EFFECT = 1e-6
"""Smallest mean total effect, in the metric's unit, that shares are taken of."""


@dataclass(frozen=True, eq=False, repr=False)
class CausalTrace(DiscoveryRecord):
    """What is restored of the behaviour at each layer and token of noised runs.

    Attributes:
        maps: Indirect effects, a map for each kind of hook: restored minus corrupted, in the
            metric's unit, the mean over samples for each prompt.
        clean: Metric of each prompt as it is.
        corrupted: Of the same with noise on its subject, mean over samples.
        samples: Of the same, every sample: "sample prompt".
        std: Standard deviation of the noise, in the embedding's unit.
    """

    maps: tuple[SweepResult, ...]
    clean: Float[np.ndarray, " prompt"]
    corrupted: Float[np.ndarray, " prompt"]
    samples: Float[np.ndarray, "sample prompt"]
    std: float

    @property
    def map(self) -> SweepResult:
        """The first map."""
        return self.maps[0]

    @property
    def unit(self) -> str:
        """Unit of every number."""
        return self.map.unit

    @property
    def total_effect(self) -> float:
        """Mean of clean minus corrupted, templates weighted equally."""
        return template_mean(self.clean - self.corrupted, self.about.templates)

    def total_interval(self, confidence: float = 0.95) -> Interval:
        """Return the interval of the total effect, with templates as the unit."""
        return template_interval(
            self.clean - self.corrupted, self.about.templates, "total effect", confidence
        )

    def of(self, hook: str) -> SweepResult:
        """Return the map of one hook, named as it was asked for.

        Raises:
            DiscoveryError: It was not traced.
        """
        hooks = list(self.about.settings["sites"])
        if hook not in hooks:
            raise DiscoveryError(
                f"{hook} was not traced",
                given=hook,
                closest=closest_names(hook, hooks),
                expected=f"one of {', '.join(hooks)}",
            )
        return self.maps[hooks.index(hook)]

    def shares(self, hook: str | None = None) -> SweepResult:
        """Return a map as shares of the total effect: 1 where everything comes back.

        Args:
            hook: As for `of`; by default the first.

        Raises:
            MetricError: Noise has no effect to take shares of.
        """
        found = self.map if hook is None else self.of(hook)
        total = self.total_effect
        if not abs(total) > SMALLEST_EFFECT:
            raise MetricError(
                "the noise changes nothing on average, so there is no effect to take shares of",
                given=f"{found.metric} differs by {total:.3g} {found.unit}",
                expected="a model that does the task, and noise that keeps it from doing it",
                next_step="more noise, or another subject",
            )
        return dataclasses.replace(found, values=found.values / total, unit="share of total effect")

    def top(self, count: int = 10) -> tuple[SweepPlace, ...]:
        """Return the places of all maps with the largest average indirect effects."""
        places = [place for each in self.maps for place in each.top(count)]
        return tuple(sorted(places, key=lambda place: -abs(place.effect))[: max(count, 0)])

    def scores(self) -> Mapping[str, float]:
        """Return the absolute average indirect effect of every place, by its site.

        A place with a window of layers bears the site in its middle.
        """
        found: dict[str, float] = {}
        for each in self.maps:
            for (row, column), value in np.ndenumerate(each.mean()):
                if not np.isnan(value):
                    found[each.sites[row][column]] = abs(float(value))
        return found

    def circuit(
        self, count: int = 1, *, hook: str | None = None, name: str | None = None
    ) -> Circuit:
        """Return the places with the largest effects as one circuit, for a claim to test.

        Args:
            count: Places.
            hook: Of this map only, named as for `of`.
            name: How reports call the circuit.

        Raises:
            ShapeError: No place, or `count` is not positive.
        """
        places = self.top(count) if hook is None else self.of(hook).top(count)
        sites = [place.site for place in places]
        return Circuit(*sites, name=name, fitted_on=self.about.fitted_on)

    def lines(self) -> tuple[str, ...]:
        """Return the effects in words."""
        templates, unit = self.about.templates, self.unit
        clean, corrupted = template_mean(self.clean, templates), template_mean(
            self.corrupted, templates
        )  # fmt: skip
        severed = self.about.settings["sever"]
        found = [
            f"{self.map.metric}: clean {clean:.4g}, subject noised {corrupted:.4g}; total effect "
            f"{self.total_effect:.4g} {unit}{_ends(self.total_interval())}, "
            f"{self.map.which_prompts()}" + (f", {severed} path severed" if severed else "")
        ]
        for each in self.maps:
            for place in each.top(3):
                interval = each.interval(place.row_index, place.column_index)
                found.append(
                    f"{place.site}: average indirect effect {place.effect:.4g} {unit}"
                    f"{_ends(interval)}"
                )
        return tuple(found)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw every map, side by side, on one scale of colours."""
        from mechtest.discovery.tracing.trace_picture import draw_trace

        return draw_trace(self, path)


def template_mean(values: Float[np.ndarray, " prompt"], templates: tuple[str, ...]) -> float:
    """Return the mean over templates of each template's mean."""
    labels = np.array(templates, dtype=str)
    return float(np.mean([values[labels == one].mean() for one in np.unique(labels)]))


def template_interval(
    values: Float[np.ndarray, " prompt"],
    templates: tuple[str, ...],
    key: str,
    confidence: float = 0.95,
) -> Interval:
    """Return the interval of a mean, with templates as the unit.

    Exactness: as `inversion_interval`: sign flips of template means.
    """
    if len(set(templates)) < 2:
        return Interval(None, None, confidence, "sign flips", "one template has no spread")
    effect = cluster_effect(values, np.ones(len(values)), list(templates))
    return inversion_interval(effect, confidence, generator=keyed_generator(0, key, "sign flips"))


def _ends(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f" [{interval.low:.3g}, {interval.high:.3g}]"
