"""How does a sweep look as a picture?

Matplotlib is imported here and nowhere else, and only its figure objects are used: no window, no
state shared between pictures, nothing that another picture of the user's would notice.

Layers grow upwards from the bottom, the way the residual stream is drawn; any other list of rows is
read from the top. No effect is light, whatever the range: warm is above zero, cold below.
"""

from __future__ import annotations

import io
import math
import textwrap
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float

from mechtest.errors import MissingPackageError, ShapeError, SweepFileError
from mechtest.interventions.sweep_file import write_whole
from mechtest.interventions.sweep_glyphs import Lettering
from mechtest.interventions.sweep_labels import shortened, visible_text
from mechtest.interventions.sweep_result import SweepResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.figure import Figure

__all__ = ["plot_sweep", "svg_text"]

Numbers = Float[np.ndarray, "row column"]

FORMATS = (".png", ".svg")
DPI = 150
_FONT = 8.0
_NUMBER_FONT = 6.5
_ROW_LETTERS, _COLUMN_LETTERS = 28, 18
_LETTER = 0.066
"""Width of a letter in inches, at `_FONT`."""
_LINE = 0.135
"""Height of a line in inches, at `_FONT`."""
_BAR_WIDTH = 0.16
_LARGEST_AREA = (18.0, 14.0)
_SMALLEST_AREA = (2.4, 1.7)
_MOST_WRITTEN, _MOST_WRITTEN_COLUMNS = 600, 30
_SHORT = (1e-3, 1e4)
"""Largest effects that are written without a power of ten."""
_VECTOR_CELLS = 4000
"""Beyond this many cells an SVG holds the colours as an image."""


def plot_sweep(
    result: SweepResult,
    path: str | Path | None = None,
    *,
    prompt: int | str | None = None,
    ax: Axes | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    annotate: bool | Literal["auto"] = "auto",
) -> Figure:
    """Draw a sweep as a heat map.

    Args:
        result: The sweep.
        path: Also write the picture there, as PNG or SVG by its suffix.
        prompt: Index or name of the prompt to draw; by default the mean of all.
        ax: Axes of the user's to draw into; by default a figure of its own.
        vmin: Effect at the lower end of the colours; by default the lowest, or 0.
        vmax: Effect at the upper end; by default the highest, or 0.
        annotate: Whether numbers are written into the cells; `auto`: where they can be read.

    Returns:
        The figure.

    Raises:
        MissingPackageError: matplotlib is not installed.
        SweepFileError: Another suffix.
        ShapeError: No such prompt, or colours that end where they begin.
    """
    suffix = None if path is None else _suffix(Path(path))
    figure_class, canvas_class = _matplotlib()
    numbers = result.mean() if prompt is None else result.of_prompt(prompt)
    columns = result.columns
    if prompt is not None and result.prompt_columns:
        columns = result.prompt_columns[result.prompt_index(prompt)]
    letters = Lettering()
    rows = _labels(result.rows, result.row_name, _ROW_LETTERS, letters)
    names = _labels(columns, result.column_name, _COLUMN_LETTERS, letters)
    low, high = _ends(numbers, vmin, vmax)
    writes = _can_be_read(numbers, ax) if annotate == "auto" else annotate
    heading = [result.what(), f"{_model(result)}: {_mean_of(result, prompt)}"]
    if ax is None:
        figure = figure_class(figsize=_size(rows, names, writes=writes), layout="constrained")
        canvas_class(figure)
        axes = figure.add_subplot()
    else:
        axes, figure = ax, ax.figure.figure
    mesh = _draw(axes, numbers, low, high)
    _write_edges(axes, rows, names, result, letters)
    _write_heading(axes, heading, _missing(result, numbers), letters, own=ax is None)
    if writes:
        _write_numbers(axes, mesh, numbers, letters)
    _draw_bar(axes, mesh, numbers, f"{result.effect_name}\n({result.unit})", letters)
    if path is not None and suffix is not None:
        write_whole(Path(path), _rendered(figure, suffix, result.title(prompt)))
    return figure


def svg_text(result: SweepResult) -> str:
    """Return the picture of a sweep as SVG; the same sweep gives the same bytes.

    Raises:
        MissingPackageError: matplotlib is not installed.
    """
    return _rendered(plot_sweep(result), ".svg", result.title()).decode()


def _matplotlib() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "drawing a sweep needs matplotlib, which is not installed",
            given=str(error),
            next_step="pip install 'mechtest[plots]'",
        ) from error
    return Figure, FigureCanvasAgg


def _suffix(path: Path) -> str:
    if path.suffix.lower() in FORMATS:
        return path.suffix.lower()
    raise SweepFileError(
        "a picture is written as PNG or SVG, by the suffix of its file",
        given=str(path),
        expected="a name that ends with .png or .svg",
    )


def _rendered(figure: Figure, suffix: str, title: str) -> bytes:
    from matplotlib import rc_context

    metadata: dict[str, Any] = {"Title": visible_text(title)}
    if suffix == ".svg":
        metadata["Date"] = None
    buffer = io.BytesIO()
    # The salt of the names inside an SVG can be set in no other way; it is put back at once.
    with rc_context({"svg.hashsalt": "mechtest"}):
        figure.savefig(buffer, format=suffix[1:], dpi=DPI, metadata=metadata)
    return buffer.getvalue()


def _labels(labels: tuple[str, ...], axis_name: str, limit: int, letters: Lettering) -> list[str]:
    """Return labels that can be drawn and read, without the axis' name in each of them."""
    start = f"{axis_name} "
    bare = labels
    if all(label.startswith(start) and label != start for label in labels):
        bare = tuple(label.removeprefix(start) for label in labels)
    return [shortened(letters.drawn(visible_text(label)), limit) for label in bare]


def _ends(numbers: Numbers, vmin: float | None, vmax: float | None) -> tuple[float, float]:
    """Return the effects at both ends of the colours; zero is between them unless asked."""
    low = float(np.nanmin(numbers, initial=0.0)) if vmin is None else float(vmin)
    high = float(np.nanmax(numbers, initial=0.0)) if vmax is None else float(vmax)
    if vmin is None and vmax is None and low == high:
        return 0.0, 1.0
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ShapeError(
            "the colours of a heat map end where they begin",
            given=f"from {low:.4g} to {high:.4g}",
            expected="vmin < vmax, both finite",
        )
    return low, high


def _colours(low: float, high: float) -> Any:
    """Return a colour map that is light at zero and equally strong at equal distances from it.

    A part of ColorBrewer's red-blue, which people who see fewer colours tell apart.
    """
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    if low >= 0:
        ends = (0.5, 1.0)
    elif high <= 0:
        ends = (0.0, 0.5)
    else:
        far = max(-low, high)
        ends = (0.5 + 0.5 * low / far, 0.5 + 0.5 * high / far)
    return ListedColormap(colormaps["RdBu_r"](np.linspace(*ends, 256)))


def _can_be_read(numbers: Numbers, ax: Axes | None) -> bool:
    rows, columns = numbers.shape
    if not _SHORT[0] <= float(np.nanmax(np.abs(numbers), initial=0.0)) < _SHORT[1]:
        return False
    if ax is None:
        return rows * columns <= _MOST_WRITTEN and columns <= _MOST_WRITTEN_COLUMNS
    wide, high = _inches(ax)
    return wide / max(columns, 1) > 0.35 and high / max(rows, 1) > 0.14


def _inches(axes: Axes) -> tuple[float, float]:
    """Return width and height of axes, as far as they are known before the layout."""
    size = axes.figure.figure.get_size_inches()
    box = axes.get_position()
    return float(size[0] * box.width), float(size[1] * box.height)


def _size(rows: list[str], columns: list[str], *, writes: bool) -> tuple[float, float]:
    """Return width and height of a figure in inches."""
    wide = len(columns) * (0.42 if writes else 0.23)
    high = len(rows) * 0.22
    area_wide = min(max(wide, _SMALLEST_AREA[0]), _LARGEST_AREA[0])
    area_high = min(max(high, _SMALLEST_AREA[1]), _LARGEST_AREA[1])
    left = max(map(len, rows), default=0) * _LETTER + 0.45
    below = max(map(len, columns), default=0) * _LETTER + 0.7
    return area_wide + left + 1.2, area_high + below + 0.6


def _draw(axes: Axes, numbers: Numbers, low: float, high: float) -> QuadMesh:
    cells = numbers.size
    mesh = axes.pcolormesh(
        np.ma.masked_invalid(numbers),
        cmap=_colours(low, high),
        vmin=low,
        vmax=high,
        edgecolors="white" if cells <= _VECTOR_CELLS else "none",
        linewidth=0.4 if cells <= _VECTOR_CELLS else 0.0,
        rasterized=cells > _VECTOR_CELLS,
    )
    # What has no number is not drawn, and the ground shows through.
    axes.patch.set(facecolor="#ececec", edgecolor="#9a9a9a", hatch="//////", linewidth=0.0)
    axes.patch.set_hatch_linewidth(0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return mesh


def _draw_bar(axes: Axes, mesh: QuadMesh, numbers: Numbers, label: str, letters: Lettering) -> None:
    """Draw the scale of colours, with a tip at an end that some number lies beyond."""
    low, high = mesh.get_clim()
    beyond = (
        bool((numbers[~np.isnan(numbers)] < low).any()),
        bool((numbers[~np.isnan(numbers)] > high).any()),
    )
    tips = {(True, True): "both", (True, False): "min", (False, True): "max"}.get(beyond)
    bar = axes.figure.figure.colorbar(
        mesh,
        ax=axes,
        extend=tips or "neither",
        pad=0.02,
        aspect=max(_inches(axes)[1] / _BAR_WIDTH, 8.0),
    )
    bar.ax.tick_params(labelsize=_FONT)
    bar.outline.set_linewidth(0.5)
    bar.set_label(letters.drawn(label), **letters.style(_FONT))


def _write_edges(
    axes: Axes, rows: list[str], columns: list[str], result: SweepResult, letters: Lettering
) -> None:
    """Write labels, as many as can be read, and turn layers so that the first is at the bottom."""
    own_size = _inches(axes)
    every_row = max(1, math.ceil(_LINE * len(rows) / own_size[1]))
    every_column = max(1, math.ceil(_LINE * len(columns) / own_size[0]))
    style = letters.style(_FONT)
    flat = max(map(len, columns), default=0) * _LETTER < own_size[0] / max(len(columns), 1)
    turned: dict[str, Any] = {} if flat else {"rotation": 90}
    axes.set_xticks(
        np.arange(0, len(columns), every_column) + 0.5, columns[::every_column], **style, **turned
    )
    axes.set_yticks(np.arange(0, len(rows), every_row) + 0.5, rows[::every_row], **style)
    axes.tick_params(length=0)
    axes.set_xlabel(_axis_name(result.column_name, every_column, letters), **style)
    axes.set_ylabel(_axis_name(result.row_name, every_row, letters), **style)
    if not result.row_name.startswith("layer"):
        axes.invert_yaxis()


def _axis_name(name: str, every: int, letters: Lettering) -> str:
    text = letters.drawn(name)
    return text if every == 1 else f"{text} (one of {every} is labelled)"


def _write_heading(
    axes: Axes, lines: list[str], note: str, letters: Lettering, *, own: bool
) -> None:
    figure = axes.figure.figure
    width = float(figure.get_size_inches()[0]) if own else _inches(axes)[0]
    large, small = (_FONT + 1, _FONT - 1) if own else (_FONT, _FONT)
    text = "\n".join(_wrapped(letters.drawn(line), width, large) for line in lines)
    told = _wrapped(letters.drawn(note), width, small)
    if own:
        figure.suptitle(text, x=0.01, ha="left", **letters.style(large))
        if told:
            figure.supxlabel(told, x=0.01, ha="left", **letters.style(small))
        return
    axes.set_title(text, loc="left", **letters.style(large))
    if told:
        axes.set_xlabel(f"{axes.get_xlabel()}\n{told}", **letters.style(small))


def _wrapped(text: str, inches: float, size: float) -> str:
    """Return `text` broken into lines that are not wider than so many inches."""
    letters = int(inches / (_LETTER * size / _FONT))
    return "\n".join(textwrap.wrap(text, max(letters, 20), break_on_hyphens=False))


def _write_numbers(axes: Axes, mesh: QuadMesh, numbers: Numbers, letters: Lettering) -> None:
    largest = float(np.nanmax(np.abs(numbers), initial=0.0))
    for (row, column), value in np.ndenumerate(numbers):
        if np.isnan(value):
            continue
        red, green, blue, _ = mesh.to_rgba(value)
        light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45
        axes.text(
            column + 0.5,
            row + 0.5,
            _number(value, largest),
            ha="center",
            va="center",
            color="#1a1a1a" if light else "white",
            in_layout=False,
            **letters.style(_NUMBER_FONT),
        )


def _number(value: float, largest: float) -> str:
    """Return a number with as many digits as tell it from the largest."""
    if not _SHORT[0] <= largest < _SHORT[1]:
        return f"{value:.0e}" if value else "0"
    digits = max(0, 1 - math.floor(math.log10(largest))) if largest < 1 else 2
    digits = digits if largest < 10 else int(largest < 100)
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def _missing(result: SweepResult, numbers: Numbers) -> str:
    """Return why cells are hatched, the commonest reasons first."""
    count = int(np.isnan(numbers).sum())
    if not count:
        return ""
    reasons = Counter(
        result.reasons[int(row), int(column)] for row, column in np.argwhere(np.isnan(numbers))
    )
    told = [
        f"{visible_text(reason)} ({times} cell{'s' if times > 1 else ''})"
        for reason, times in reasons.most_common(2)
    ]
    rest = len(reasons) - len(told)
    more = f"; {rest} other reason{'s' if rest > 1 else ''}" if rest else ""
    return f"Hatched, no number: {'; '.join(told)}{more}."


def _mean_of(result: SweepResult, prompt: int | str | None) -> str:
    text = result.which_prompts(prompt)
    if prompt is not None or len(result.prompt_ids) == 1:
        return text
    equally = ", each template weighted equally" if len(set(result.templates)) > 1 else ""
    return f"mean of {text}{equally}"


def _model(result: SweepResult) -> str:
    return "/".join(Path(result.model.name).parts[-3:]) or "model"
