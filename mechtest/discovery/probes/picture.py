"""How do probes look as a picture: what is decodable across, what is used upwards?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mechtest.discovery.figures import new_figure, plain_axes, write_figure
from mechtest.discovery.probes.record import VERDICTS, ProbedPlace, ProbeRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["plot_probes"]

COLOURS = dict(zip(VERDICTS, ("#b2182b", "#2166ac", "#8073ac", "#8c8c8c"), strict=True))
MARKS = dict(zip(VERDICTS, ("o", "s", "D", "x"), strict=True))
FONT = 8.0
NAMED = 24
"""Places beyond this many are not named."""


def plot_probes(record: ProbeRecord, path: str | Path | None = None) -> Figure:
    """Draw accuracy across and effect upwards, one point a place, with intervals.

    Args:
        record: The probes.
        path: Also write the picture there, as PNG or SVG by its suffix.

    Raises:
        MissingPackageError: Matplotlib is not installed.
        DiscoveryFileError: Another suffix.
    """
    figure = new_figure(5.6, 4.0)
    axes = figure.add_subplot()
    places = record.places()
    for place in places:
        _draw(axes, place)
    settings = record.about.settings
    edge = record.baseline + settings["decodable"] * (1 - record.baseline)
    _ground(axes, record, edge, settings["used"])
    if len(places) <= NAMED:
        _name(axes, places)
    _legend(axes, places)
    title = (
        f"{record.label} by {settings['kind']} probes, {len(record.about.prompt_ids)} prompts of "
        f"{len(set(record.about.templates))} templates"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=FONT + 1)
    return write_figure(figure, path, title)


def _draw(axes: Axes, place: ProbedPlace) -> None:
    colour = COLOURS[place.verdict]
    height = 0.0 if place.effect is None else place.effect
    wide, high = place.accuracy_interval, place.effect_interval
    if wide.low is not None and wide.high is not None:
        axes.plot([wide.low, wide.high], [height, height], color=colour, lw=0.8, alpha=0.6)
    if high is not None and high.low is not None and high.high is not None:
        axes.plot([place.accuracy] * 2, [high.low, high.high], color=colour, lw=0.8, alpha=0.6)
    axes.plot(place.accuracy, height, MARKS[place.verdict], color=colour, ms=5.5)
    if place.control is not None:
        axes.plot(place.control, height, "|", color="#8c8c8c", ms=6)


def _ground(axes: Axes, record: ProbeRecord, edge: float, used: float) -> None:
    axes.axvline(record.baseline, color="#8c8c8c", lw=0.8, ls=":")
    axes.axhline(0, color="#d0d0d0", lw=0.8, zorder=0)
    low, high = axes.get_ylim()
    low, high = min(low, -0.1), max(high, 1.05)
    right = max(axes.get_xlim()[1], 1.03)
    left = min(axes.get_xlim()[0], record.baseline - 0.05)
    axes.fill_between([edge, right], low, used, color="#2166ac", alpha=0.08, lw=0)
    axes.set(xlim=(left, right), ylim=(low, high))
    measure = "accuracy" if record.measure == "accuracy" else "R2"
    axes.set_xlabel(
        f"{measure} on templates held out (dotted: guessing; grey tick: control task)",
        fontsize=FONT,
    )
    axes.set_ylabel("effect of what is read\n(share of behaviour lost)", fontsize=FONT)
    plain_axes(axes, FONT)


def _name(axes: Axes, places: tuple[ProbedPlace, ...]) -> None:
    """Write names beside points, from the bottom up and apart from each other."""
    low, high = axes.get_ylim()
    step = (high - low) * 0.045
    many = len({place.column for place in places}) > 1
    at = low
    for place in sorted(places, key=lambda one: one.effect or 0.0):
        height = max((place.effect or 0.0) + step * 0.3, at)
        at = height + step
        text = f"{place.row} {place.column}" if many else place.row
        left, right = axes.get_xlim()
        ends = place.accuracy > (left + right) / 2
        axes.annotate(
            text,
            (place.accuracy, place.effect or 0.0),
            (place.accuracy + (-0.012 if ends else 0.012) * (right - left), height),
            ha="right" if ends else "left",
            fontsize=FONT - 1,
            color=COLOURS[place.verdict],
        )


def _legend(axes: Axes, places: tuple[ProbedPlace, ...]) -> None:
    there = [verdict for verdict in VERDICTS if any(p.verdict == verdict for p in places)]
    marks = [
        axes.plot([], [], MARKS[verdict], color=COLOURS[verdict], ms=5.5, label=verdict)[0]
        for verdict in there
    ]
    axes.legend(handles=marks, fontsize=FONT - 1, edgecolor="none", loc="center left")
