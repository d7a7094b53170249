"""How does a step keep a table of what it measured, and what is its picture?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mechtest.discovery.figures import new_figure, plain_axes, write_figure
from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import ShapeError
from mechtest.interventions.sweep_labels import shortened, visible_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PAGE_DPI", "StepTable"]

PAGE_DPI = 120
"""Dots an inch of the pictures that a study's page holds."""

_ROWS_DRAWN = 40
_FEW_ROWS = 12
_SHOWN = 6

Value = str | int | float | None


@dataclass(frozen=True, eq=False, repr=False)
class StepTable(DiscoveryRecord):
    """Rows of names and numbers.

    Attributes:
        title: What it shows.
        columns: Names of the columns; the first is what a row is called.
        rows: Values, None where there is no number.
        bars: Columns that are drawn, each the beginning of `<name> low` and `<name> high` where
            there are intervals.
        unit: Of what is drawn.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    bars: tuple[str, ...] = ()
    unit: str = ""

    def __post_init__(self) -> None:
        wrong = [row for row in self.rows if len(row) != len(self.columns)]
        missing = [name for name in self.bars if name not in self.columns]
        if wrong or missing:
            raise ShapeError(
                "the rows of a table do not fit its columns",
                given=repr(wrong[0]) if wrong else f"bars of {missing[0]!r}",
                expected=", ".join(self.columns),
            )

    def column(self, name: str) -> tuple[Value, ...]:
        """Return the values of one column.

        Raises:
            ShapeError: There is none of that name.
        """
        if name not in self.columns:
            raise ShapeError("no such column", given=name, expected=", ".join(self.columns))
        index = self.columns.index(name)
        return tuple(row[index] for row in self.rows)

    def lines(self) -> tuple[str, ...]:
        """Return the title and the first rows."""
        shown = [
            ", ".join(
                [str(row[0])]
                + [f"{name} {_text(v)}" for name, v in self._told(row) if v is not None]
            )
            for row in self.rows[:_SHOWN]
        ]
        more = len(self.rows) - _SHOWN
        return (self.title, *shown, *([f"and {more} more"] if more > 0 else []))

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the columns `bars`, one row below the other, with their intervals.

        Raises:
            MissingPackageError: Matplotlib is not installed.
            DiscoveryFileError: A suffix other than .png and .svg.
        """
        rows = self.rows[:_ROWS_DRAWN]
        names = [shortened(visible_text(str(row[0])), 44) for row in rows]
        each = (0.3 if len(rows) <= _FEW_ROWS else 0.17) * max(len(self.bars), 1) ** 0.25
        height = 0.9 + each * max(len(rows), 1)
        figure = new_figure(7.2, height)
        axes = figure.add_subplot()
        count = max(len(self.bars), 1)
        for number, bar in enumerate(self.bars):
            offset = (number - (count - 1) / 2) * 0.7 / count
            self._draw(axes, rows, bar, offset, f"C{number}")
        axes.set_yticks(range(len(rows)), names, fontsize=8 if len(rows) <= _FEW_ROWS else 6.5)
        axes.set_ylim(max(len(rows), 1) - 0.4, -0.6)
        axes.axvline(0, color="0.6", linewidth=0.8)
        axes.set_xlabel(self.unit, fontsize=8)
        plain_axes(axes, axis="x")
        axes.set_title(self.title, fontsize=9, loc="left")
        if len(self.bars) > 1:
            axes.legend(fontsize=7, frameon=False, loc="best")
        return write_figure(figure, path, self.title, dpi=PAGE_DPI)

    def _draw(self, axes: object, rows: Sequence[tuple[Value, ...]], bar: str, at: float,
              colour: str) -> None:  # fmt: skip
        index = self.columns.index(bar)
        low, high = (
            self.columns.index(f"{bar} {end}") if f"{bar} {end}" in self.columns else None
            for end in ("low", "high")
        )
        label: str | None = bar
        for number, row in enumerate(rows):
            value = row[index]
            if not isinstance(value, int | float):
                continue
            if low is not None and high is not None:
                ends = row[low], row[high]
                if all(isinstance(end, int | float) for end in ends):
                    axes.plot(ends, [number + at] * 2, color=colour, linewidth=1.4)  # type: ignore[attr-defined]
            axes.plot(  # type: ignore[attr-defined]
                [value], [number + at], "o", color=colour, markersize=4, label=label
            )
            label = None

    def _told(self, row: tuple[Value, ...]) -> list[tuple[str, Value]]:
        ends = {f"{bar} {end}" for bar in self.bars for end in ("low", "high")}
        pairs = list(zip(self.columns, row, strict=True))[1:]
        told: list[tuple[str, Value]] = []
        for name, value in pairs:
            if name in ends:
                continue
            known = dict(pairs)
            low, high = known.get(f"{name} low"), known.get(f"{name} high")
            if name in self.bars and low is not None and high is not None and value is not None:
                value = f"{_text(value)} [{_text(low)}, {_text(high)}]"
            told.append((name, value))
        return told


def _text(value: Value) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
