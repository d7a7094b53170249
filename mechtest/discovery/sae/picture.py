"""How do a sparse autoencoder, its training and its features look as pictures?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mechtest.discovery.figures import new_figure, plain_axes, write_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mechtest.discovery.sae.autoencoder import SAE
    from mechtest.discovery.sae.features import SAEFeatures
    from mechtest.discovery.sae.matching import SAEMatch
    from mechtest.discovery.sae.quality import SAEQuality

__all__ = ["plot_features", "plot_frequencies", "plot_match", "plot_training"]

FONT = 8.0
BLUE, RED, GREY = "#2166ac", "#b2182b", "#8c8c8c"
NAMED = 8
"""Features that are named in a picture."""


def plot_training(sae: SAE, path: str | Path | None = None) -> Figure:
    """Draw explained variance, features active and the share of dead ones over the steps."""
    figure, axes = _figure(3, sae.lines()[0], width=7.2)
    log = sae.origin.log
    steps = [point.step for point in log]
    for one, values, name in zip(
        axes,
        (
            [point.explained_variance for point in log],
            [point.l0 for point in log],
            [100 * point.dead for point in log],
        ),
        ("explained variance", "features active", "dead features (%)"),
        strict=True,
    ):
        one.plot(steps, values, color=BLUE, lw=1.2)
        _labelled(one, "step", name)
    axes[0].set_ylim(min(0.0, *axes[0].get_ylim()), 1.02)
    return write_figure(figure, path, figure.get_suptitle())


def plot_frequencies(quality: SAEQuality, path: str | Path | None = None) -> Figure:
    """Draw how many features are active how often."""
    figure, (axes,) = _figure(1, f"{quality.site}: {quality.lines()[1]}")
    there = quality.frequencies[quality.frequencies > 0]
    low = max(float(there.min(initial=1.0)), 1e-7)
    axes.hist(there, bins=np.geomspace(low * 0.999, 1.001, 30).tolist(), color=BLUE)
    axes.set_xscale("log")
    silent = int((quality.frequencies == 0).sum())
    _labelled(axes, f"share of rows at which a feature is active ({silent} never)", "features")
    return write_figure(figure, path, figure.get_suptitle())


def plot_match(match: SAEMatch, path: str | Path | None = None) -> Figure:
    """Draw the largest cosines of the first autoencoder's features in the others."""
    figure, (axes,) = _figure(1, match.lines()[0])
    for index in range(match.best.shape[1]):
        axes.plot(
            np.arange(len(match.best)), np.sort(match.best[:, index])[::-1], lw=1.2,
            label=f"in number {index + 1}",
        )  # fmt: skip
    axes.axhline(match.by_chance, color=GREY, ls=":", lw=0.8)
    axes.set_ylim(0, 1.02)
    axes.legend(fontsize=FONT - 1, frameon=False, loc="lower left")
    _labelled(axes, "features, the best found first (dotted: random)", "largest cosine")
    return write_figure(figure, path, figure.get_suptitle())


def plot_features(features: SAEFeatures, path: str | Path | None = None) -> Figure:
    """Draw how often features are active across, and what they carry upwards."""
    prompts = f"{len(features.about.prompt_ids)} prompts"
    figure, (axes,) = _figure(
        1, f"{len(features.frequency)} features of {features.site}, {prompts}"
    )
    there = features.frequency > 0
    strong = features.correlation >= 0.5
    for mask, colour, name in (
        (there & ~strong, GREY, "r with every label below 0.5"),
        (there & strong, RED, "0.5 or more"),
    ):
        axes.plot(
            features.frequency[mask], features.attribution[mask], "o", ms=4, color=colour,
            alpha=0.7, label=name,
        )  # fmt: skip
    axes.axhline(0, color="#d0d0d0", lw=0.8, zorder=0)
    axes.set_xscale("log")
    for index in features.top(NAMED):
        if there[index]:
            axes.annotate(
                f"{index} {features.labels[index]}",
                (features.frequency[index], features.attribution[index]),
                textcoords="offset points", xytext=(4, 2), fontsize=FONT - 1.5,
            )  # fmt: skip
    axes.legend(fontsize=FONT - 1, frameon=False, loc="best")
    _labelled(axes, "share of tokens at which it is active", "share of the behaviour it carries")
    return write_figure(figure, path, figure.get_suptitle())


def _figure(count: int, title: str, width: float = 5.2) -> tuple[Figure, list[Axes]]:
    figure = new_figure(width, 2.4 if count > 1 else 3.2)
    figure.suptitle(title, x=0.01, ha="left", fontsize=FONT + 0.5)
    return figure, [figure.add_subplot(1, count, number + 1) for number in range(count)]


def _labelled(axes: Axes, x: str, y: str) -> None:
    axes.set_xlabel(x, fontsize=FONT)
    axes.set_ylabel(y, fontsize=FONT)
    plain_axes(axes, FONT - 1)
