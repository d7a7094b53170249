"""What does the study look like on one sheet?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mechtest.discovery.figures import new_figure, require_matplotlib, write_figure
from mechtest.interventions import SweepResult
from mechtest.study.bench import Bench
from mechtest.study.step import Found
from mechtest.study.table import PAGE_DPI, StepTable

__all__ = ["draw_pictures"]

SHEET = "overview.png"


def draw_pictures(bench: Bench) -> Found:
    """Draw the effect map beside the candidates, lost and restored; and every map as SVG."""
    found = Found()
    maps = {
        f"{step}-{name}": record
        for step, before in bench.before.items()
        for name, record in before.records.items()
        if isinstance(record, SweepResult)
    }
    require_matplotlib()
    if not bench.study.study["pictures"]:
        found.lines.append("not asked for: pictures = false")
        return found
    for name, record in maps.items():
        found.files[f"{name}.svg"] = _svg(record)
    effects = bench.before["patching"].records["effects"]
    main = bench.before["selection"].records.get("map")
    assert isinstance(effects, StepTable)
    found.files[SHEET] = lambda path: _sheet(path, effects, main)
    found.lines = [f"an overview, and {len(maps)} maps as SVG"]
    found.facts = {"maps": sorted(maps), "sheet": SHEET}
    return found


def _svg(record: SweepResult) -> Any:
    return lambda path: record.plot(path)


def _sheet(path: Path, effects: StepTable, main: object) -> None:
    """Draw the map, and what is lost against what comes back."""
    figure = new_figure(11, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(1.3, 1))
    if isinstance(main, SweepResult):
        main.plot(ax=left)
        left.set_title("lost when one place is ablated", fontsize=9, loc="left")
    rows = [row for row in zip(effects.column("circuit"), effects.column("lost"),
                               effects.column("restored"), strict=True)
            if row[1] is not None and row[2] is not None]  # fmt: skip
    right.axline((0, 0), slope=1, color="0.8", linewidth=0.8, zorder=0)
    for number, (name, lost, back) in enumerate(rows[:8]):
        right.plot([lost], [back], "o", color=f"C{number}", markersize=5, label=str(name))
    right.set_xlabel("lost without it", fontsize=8)
    right.set_ylabel("restored with it alone", fontsize=8)
    right.set_title(
        "candidates, on the discovery half (share of behaviour)", fontsize=9, loc="left"
    )
    right.tick_params(labelsize=8)
    if rows:
        right.legend(fontsize=6, frameon=False)
    write_figure(
        figure, path, "what is lost without a place, and what it brings back", dpi=PAGE_DPI
    )
