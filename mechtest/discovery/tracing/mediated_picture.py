"""How do direct and indirect effects look as a picture?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mechtest.discovery.figures import new_figure, plain_axes, write_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mechtest.discovery.tracing.mediated import MediatedEffects

__all__ = ["draw_mediated"]

_FONT = 8.0
_COLOURS = ("#4d4d4d", "#b2182b", "#ef8a62", "#2166ac", "#67a9cf")


def draw_mediated(effects: MediatedEffects, path: str | Path | None = None) -> Figure:
    """Draw the effects as bars with 95% intervals, the total first.

    Raises:
        MissingPackageError: Matplotlib is not installed.
        DiscoveryFileError: Neither PNG nor SVG.
    """
    from mechtest.discovery.tracing.mediated import EFFECTS

    figure = new_figure(5.2, 2.1)
    axes = figure.add_subplot()
    means = [effects.mean(one) for one in EFFECTS]
    axes.barh(np.arange(len(means)), means, color=_COLOURS, height=0.6)
    for row, one in enumerate(EFFECTS):
        ends = effects.interval(one)
        if ends.low is not None and ends.high is not None:
            axes.plot([ends.low, ends.high], [row, row], color="#1a1a1a", linewidth=1.2)
    axes.axvline(0, color="#1a1a1a", linewidth=0.6)
    axes.set_yticks(np.arange(len(means)), list(EFFECTS), fontsize=_FONT)
    axes.invert_yaxis()
    plain_axes(axes, _FONT, hidden=("top", "right", "left"), left=False)
    axes.set_xlabel(f"{effects.about.metric.replace('_', ' ')} ({effects.unit})", fontsize=_FONT)
    title = f"effects through and past {', '.join(effects.sites)}"
    figure.suptitle(title, x=0.01, ha="left", fontsize=_FONT + 1)
    return write_figure(figure, path, title)
