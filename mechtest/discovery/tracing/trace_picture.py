"""How does a causal trace look as a picture?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from mechtest.discovery.figures import new_figure, write_figure
from mechtest.interventions.sweep_glyphs import Lettering
from mechtest.interventions.sweep_labels import shortened, visible_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mechtest.discovery.tracing.trace_record import CausalTrace

__all__ = ["draw_trace"]

_FONT = 8.0
_MOST_WRITTEN = 200
"""Cells of a map whose numbers are still written into them."""


def draw_trace(trace: CausalTrace, path: str | Path | None = None) -> Figure:
    """Draw the average indirect effects of every map, side by side, on one scale of colours.

    Layers grow upwards; no effect is light, warm is what brings the answer back. Places where the
    noised and the clean run are alike are hatched.

    Raises:
        MissingPackageError: Matplotlib is not installed.
        DiscoveryFileError: Neither PNG nor SVG.
    """
    means = [each.mean() for each in trace.maps]
    shown = np.concatenate([mean[~np.isnan(mean)] for mean in means])
    low, high = float(shown.min(initial=0.0)), float(shown.max(initial=0.0))
    far = max(-low, high) or 1.0
    rows, columns = (max(mean.shape[axis] for mean in means) for axis in (0, 1))
    longest = max(len(name) for each in trace.maps for name in each.columns)
    wide = max(2.4, 0.8 + 0.42 * columns)
    figure = new_figure(wide * len(means) + 1.4, 1.4 + 0.24 * rows + 0.066 * min(longest, 18))
    axes = figure.subplots(1, len(means), squeeze=False)[0]
    letters = Lettering()
    for one, each, mean, hook in zip(
        axes, trace.maps, means, trace.about.settings["sites"], strict=True
    ):
        mesh = _draw(one, mean, far, letters)
        names = [shortened(letters.drawn(visible_text(name)), 18) for name in each.columns]
        one.set_xticks(np.arange(len(names)) + 0.5, names, rotation=90, **letters.style(_FONT))
        rest = [name.removeprefix("layer ") for name in each.rows]
        one.set_yticks(np.arange(len(rest)) + 0.5, rest, **letters.style(_FONT))
        one.set_xlabel(each.column_name, **letters.style(_FONT))
        one.set_ylabel(each.row_name, **letters.style(_FONT))
        one.set_title(hook, loc="left", **letters.style(_FONT))
    bar = figure.colorbar(mesh, ax=list(axes), pad=0.01, aspect=14)
    bar.ax.set_ylim(low, high if high > low else low + 1.0)
    bar.ax.tick_params(labelsize=_FONT)
    bar.set_label(f"indirect effect ({trace.unit})", fontsize=_FONT)
    title = f"{trace.map.intervention} in the noised run: mean of {trace.map.which_prompts()}"
    figure.suptitle(letters.drawn(title), x=0.01, ha="left", **letters.style(_FONT + 1))
    return write_figure(figure, path, title)


def _draw(axes: Axes, mean: Float[np.ndarray, "row column"], far: float, letters: Lettering) -> Any:
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(mean), cmap="RdBu_r", vmin=-far, vmax=far, edgecolors="white",
        linewidth=0.4,
    )  # fmt: skip
    axes.patch.set(facecolor="#ececec", edgecolor="#9a9a9a", hatch="//////", linewidth=0.0)
    axes.patch.set_hatch_linewidth(0.5)
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if mean.size <= _MOST_WRITTEN:
        for (row, column), value in np.ndenumerate(mean):
            if not np.isnan(value):
                axes.text(
                    column + 0.5, row + 0.5, _number(value, far), ha="center",
                    va="center", color="white" if abs(value) > 0.6 * far else "#1a1a1a",
                    in_layout=False, **letters.style(_FONT - 1.5),
                )  # fmt: skip
    return mesh


def _number(value: float, far: float) -> str:
    """Return a number with as many digits as tell it from the largest."""
    text = f"{value:.1f}" if far >= 3 else f"{value:.2f}"
    return text.removeprefix("-") if float(text) == 0 else text
