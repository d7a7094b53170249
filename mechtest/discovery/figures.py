"""How does a picture of a discovery reach the disk, without a window or anybody else's settings?

Every room that draws uses this one: only figure objects of matplotlib, imported when a picture is
asked for, and the same bytes for the same record.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechtest.errors import DiscoveryFileError, MissingPackageError
from mechtest.interventions.sweep_file import write_whole
from mechtest.interventions.sweep_labels import visible_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "new_figure",
    "plain_axes",
    "require_matplotlib",
    "require_picture_path",
    "write_figure",
]

FORMATS = (".png", ".svg")
DPI = 150


def require_matplotlib() -> None:
    """Find out before long work whether its picture can be drawn.

    Raises:
        MissingPackageError: Matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "drawing what was discovered needs matplotlib, which is not installed",
            given=str(error),
            next_step='pip install "mechtest[discover]"',
        ) from error


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of so many inches.

    Raises:
        MissingPackageError: Matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def plain_axes(
    axes: Axes, font: float = 8.0, *, hidden: tuple[str, ...] = ("top", "right"), **ticks: Any
) -> Axes:
    """Take away what is only decoration, and return the axes.

    Args:
        axes: Changed in place.
        font: Size of the labels at the ticks, in points.
        hidden: Edges that are not drawn.
        ticks: What else `tick_params` is told, such as `left=False`.
    """
    axes.tick_params(labelsize=font, **ticks)
    for side in hidden:
        axes.spines[side].set_visible(False)
    return axes


def require_picture_path(path: str | Path | None) -> None:
    """Refuse a path that no picture can be written to; None is a picture that is not written.

    Raises:
        DiscoveryFileError: A suffix that is neither .png nor .svg.
    """
    if path is not None and Path(path).suffix.lower() not in FORMATS:
        raise DiscoveryFileError(
            "a picture is written as PNG or SVG, by the suffix of its file",
            given=str(path),
            expected="a name that ends with .png or .svg",
        )


def write_figure(
    figure: Figure, path: str | Path | None, title: str, *, dpi: float = DPI
) -> Figure:
    """Write a figure as PNG or SVG by its suffix, whole or not at all, and return it.

    Args:
        figure: Drawn.
        path: Where to; nothing is written where it is None.
        title: What the file says of itself, to screen readers and catalogues.
        dpi: Dots an inch of a PNG.

    Raises:
        DiscoveryFileError: Another suffix.
    """
    require_picture_path(path)
    if path is None:
        return figure
    from matplotlib import rc_context

    kind = Path(path).suffix.lower()[1:]
    # What changes from day to day, or with the version of matplotlib alone, is left out.
    metadata: dict[str, Any] = {"Title": visible_text(title)}
    metadata["Date" if kind == "svg" else "Software"] = None
    buffer = io.BytesIO()
    # The salt of the names inside an SVG can be set in no other way; it is put back at once.
    with rc_context({"svg.hashsalt": "mechtest"}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    write_whole(Path(path), buffer.getvalue())
    return figure
