"""How does a lens look as a picture?

The likeliest token of every place is written into its cell, light where the lens is unsure of it;
beside it stands how far each row is from what the model says.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mechtest.discovery.figures import new_figure, plain_axes, write_figure
from mechtest.errors import DiscoveryError, closest_names
from mechtest.interventions.sweep_glyphs import Lettering
from mechtest.interventions.sweep_labels import shortened, visible_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from mechtest.discovery.lens.lens_result import Guesses, LensResult

__all__ = ["draw_lens"]

_FONT = 8.0
_LONGEST = 12
"""Letters of a token that are written into a cell."""


def draw_lens(
    result: LensResult, path: str | Path | None = None, prompt: str | None = None
) -> Figure:
    """Draw what one prompt's places say, and each row's distance from the model.

    Args:
        result: The lens.
        path: Where the picture goes, if anywhere.
        prompt: Name of a prompt on display; by default the first.

    Raises:
        DiscoveryError: No such prompt is on display.
        DiscoveryFileError: Neither PNG nor SVG.
        MissingPackageError: Matplotlib is not installed.
    """
    shown = {one.prompt: one for one in result.guesses}
    name = next(iter(shown), None) if prompt is None else prompt
    if name is None or name not in shown:
        raise DiscoveryError(
            "this prompt is not on display",
            given=repr(prompt),
            closest=closest_names(str(prompt), list(shown)),
            expected=", ".join(shown) or "a lens made with display=1 or more",
        )
    columns = _columns(result, shown[name])
    read = [at for at in range(len(columns)) if shown[name].tokens[0][at]]
    rows = len(result.rows)
    figure = new_figure(1.6 + 0.75 * len(read) + 2.6, 1.5 + 0.24 * rows)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=(0.75 * len(read) + 0.4, 2.2))
    letters = Lettering()
    _draw_guesses(left, shown[name], read, letters, figure)
    labels = [shortened(letters.drawn(visible_text(columns[at])), 18) for at in read]
    left.set_xticks(np.arange(len(read)) + 0.5, labels, rotation=90, **letters.style(_FONT))
    left.set_yticks(np.arange(rows) + 0.5, result.rows, **letters.style(_FONT))
    left.tick_params(length=0)
    left.set_xlabel(result.map.column_name, **letters.style(_FONT))
    _draw_distances(right, result)
    tool = result.about.tool.replace("_", " ")
    title = f"{tool}: likeliest next token, prompt {name}"
    figure.suptitle(letters.drawn(title), x=0.01, ha="left", **letters.style(_FONT + 1))
    return write_figure(figure, path, title)


def _columns(result: LensResult, shown: Guesses) -> list[str]:
    """Return the labels of the columns, the prompt's own tokens among them."""
    if result.map.prompt_columns:
        return list(result.map.prompt_columns[result.map.prompt_index(shown.prompt)])
    pairs = zip(result.map.columns, shown.read, strict=True)
    return [f"{name} {word.strip()}" if word not in name else name for name, word in pairs]


def _draw_guesses(
    axes: Axes, shown: Guesses, read: list[int], letters: Lettering, figure: Figure
) -> None:
    shares = np.array([[row[at][0] for at in read] for row in shown.probabilities])
    mesh = axes.pcolormesh(shares, cmap="Blues", vmin=0, vmax=1, edgecolors="white", linewidth=0.4)
    for (row, column), share in np.ndenumerate(shares):
        text = visible_text(shown.tokens[row][read[column]][0].strip() or " ")
        axes.text(
            column + 0.5, row + 0.5, shortened(letters.drawn(text), _LONGEST), ha="center",
            va="center", color="white" if share > 0.6 else "#1a1a1a", in_layout=False,
            **letters.style(_FONT - 1),
        )  # fmt: skip
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = figure.colorbar(mesh, ax=axes, pad=0.01, aspect=25)
    bar.ax.tick_params(labelsize=_FONT - 1)
    bar.set_label("its probability", fontsize=_FONT - 1)


def _draw_distances(axes: Axes, result: LensResult) -> None:
    """Draw KL and cross-entropy of each row, both in nats, at the height of the row."""
    height = np.arange(len(result.rows)) + 0.5
    style: dict[str, Any] = {"markersize": 3.5, "linewidth": 1.2}
    axes.plot(result.kl_by_row, height, "o-", color="#2166ac", label="KL(model || lens)", **style)
    entropy = result.by_row(result.cross_entropy)
    axes.plot(entropy, height, "s--", color="#b2182b", label="cross-entropy", **style)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"nats a token, {len(result.about.prompt_ids)} prompts", fontsize=_FONT)
    plain_axes(axes, _FONT, hidden=("top", "right", "left"), left=False)
    axes.grid(axis="x", color="#dddddd", linewidth=0.5)
    axes.legend(fontsize=_FONT - 1, frameon=False)
