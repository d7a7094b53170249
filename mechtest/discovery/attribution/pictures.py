"""How do an attribution and its comparison with true patching look, side by side?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mechtest.discovery.attribution.agreement import Agreement
from mechtest.discovery.figures import new_figure, plain_axes, write_figure
from mechtest.interventions import SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw"]

FONT = 8.0
SCATTER = 3.0
"""Width and height of the comparison, in inches."""


def draw(
    maps: list[tuple[SweepResult, str]],
    agreement: Agreement,
    heading: str,
    path: str | Path | None,
) -> Figure:
    """Draw maps and the comparison with true patching beside one another.

    Args:
        maps: Heat maps with their titles, from the left.
        agreement: Drawn last.
        heading: Above all of it.
        path: Also write it there, as PNG or SVG by its suffix.

    Raises:
        MissingPackageError: matplotlib is not installed.
        DiscoveryFileError: Another suffix.
    """
    sizes = [_size(one) for one, _ in maps]
    high = max([SCATTER + 0.6, *(size[1] for size in sizes)])
    wide = [size[0] for size in sizes] + [SCATTER + 0.8]
    figure = new_figure(sum(wide), high)
    axes = figure.subplots(1, len(wide), width_ratios=wide, squeeze=False)[0]
    for (one, title), ax in zip(maps, axes, strict=False):
        one.plot(ax=ax)
        ax.set_title(title, loc="left", fontsize=FONT)
    _scatter(axes[-1], agreement)
    figure.suptitle(heading, x=0.01, ha="left", fontsize=FONT + 1)
    return write_figure(figure, path, heading)


def _size(one: SweepResult) -> tuple[float, float]:
    """Return width and height of a map in inches, its labels included."""
    rows, columns = one.shape
    letter = 0.066
    left = min(max(map(len, one.rows), default=0), 28) * letter + 1.6
    below = min(max(map(len, one.columns), default=0), 18) * letter + 1.2
    return (
        min(max(columns * 0.36, 1.6), 14.0) + left,
        min(max(rows * 0.22, 1.6), 12.0) + below,
    )


def _scatter(axes: Axes, agreement: Agreement) -> None:
    guessed, true = agreement.attributed_means, agreement.true_means
    low = float(min(guessed.min(), true.min(), 0.0))
    high = float(max(guessed.max(), true.max(), 0.0))
    room = 0.06 * max(high - low, 1e-6)
    ends = (low - room, high + room)
    axes.plot(ends, ends, color="#9a9a9a", linewidth=0.8, zorder=1)
    axes.scatter(true, guessed, s=16, color="#2166ac", edgecolors="white", linewidths=0.4, zorder=2)
    axes.set(xlim=ends, ylim=ends, aspect="equal")
    style: dict[str, Any] = {"fontsize": FONT}
    axes.set_xlabel("by patching (share of behaviour)", **style)
    axes.set_ylabel("attributed", **style)
    plain_axes(axes, FONT)
    rank, linear = agreement.rank_correlation, agreement.linear_correlation
    told = "no spread" if rank is None or linear is None else f"Spearman {rank:.2f}, r {linear:.2f}"
    axes.set_title(f"{len(true)} places: {told}", loc="left", **style)
    if np.ptp(ends) < 1e-3:
        axes.ticklabel_format(style="sci", scilimits=(0, 0))
