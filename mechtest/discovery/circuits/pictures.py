"""What do the pictures of circuits have in common?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from mechtest.discovery.figures import new_figure, plain_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ABLATED", "GREY", "KEPT", "RESTORED", "heat_map", "new_axes"]

KEPT, ABLATED, RESTORED, GREY = "#2166ac", "#b2182b", "#4393c3", "#8a8a8a"
"""Told apart by people who see fewer colours; words or marks always say the same."""

_FONT = 8.0


def new_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of some inches with one pair of axes.

    Raises:
        MissingPackageError: Matplotlib is not installed.
    """
    figure = new_figure(width, height)
    return figure, plain_axes(figure.add_subplot(), _FONT)


def heat_map(
    axes: Axes,
    values: np.ndarray,
    rows: Sequence[str],
    columns: Sequence[str],
    label: str,
    *,
    low: float | None = None,
    high: float | None = None,
) -> None:
    """Draw a small table with its numbers; NaN is left blank. Warm is above zero, cold below."""
    far = float(np.nanmax(np.abs(values), initial=1e-9))
    below = float(np.nanmin(values, initial=0.0)) < -0.05 * far  # no half of a bar for rounding
    low = (-far if below else 0.0) if low is None else low
    high = far if high is None else high
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    start = 0.5 if low >= 0 else 0.0
    colours = ListedColormap(colormaps["RdBu_r"](np.linspace(start, 1.0, 256)))
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=colours, vmin=low, vmax=high, aspect="auto"
    )
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=_FONT)
    axes.set_yticks(range(len(rows)), rows, fontsize=_FONT)
    for side in axes.spines.values():
        side.set_visible(False)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            if np.isfinite(value):
                strong = (value - low) / max(high - low, 1e-9)
                dark = strong > 0.75 or (low < 0 and strong < 0.25)
                colour = "white" if dark else "#333333"
                said = f"{value:.2f}".replace("-0.00", "0.00")
                axes.text(column, row, said, ha="center", va="center", fontsize=7, color=colour)
            else:
                axes.text(column, row, "-", ha="center", va="center", fontsize=_FONT, color=GREY)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04)
    bar.set_label(label, fontsize=_FONT)
    bar.ax.tick_params(labelsize=_FONT - 1)
