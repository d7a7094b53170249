"""How does a timeline look as a picture: one panel for each claim, effects over training steps?

Matplotlib is imported when a picture is asked for, and only its figure objects are used. The same
timeline gives the same bytes.
"""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mechtest.errors import InputError, MissingPackageError
from mechtest.report.plain_text import clean_text
from mechtest.report.timeline import RULE, Moment, Timeline, Track
from mechtest.report.timeline_text import letter, step_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FORMATS", "MOST_PANELS", "timeline_picture"]

FORMATS = (".png", ".svg")
MOST_PANELS = 48
TONES = {
    "supported": "#1a7a4c",
    "refuted": "#c0342b",
    "inconclusive": "#9a6700",
    "invalid": "#7a3fb0",
}
"""Colours of verdicts, those of the report's page."""
KEY = (
    "Effect with its interval at each checkpoint; dashed: threshold. S supported (green), "
    "R refuted (red), ? inconclusive (ochre), E invalid (violet), - no verdict; hollow does not "
    "count."
)
_ABSENT = "#9aa4b0"
_INK, _SOFT = "#1c2024", "#5b6470"
DPI = 125
_PANEL = (3.7, 2.15)
_SHARES = (-0.25, 1.25)


def timeline_picture(timeline: Timeline, suffix: str) -> bytes:
    """Return a picture of a timeline.

    Args:
        timeline: At most `MOST_PANELS` claims.
        suffix: `.png` or `.svg`.

    Raises:
        MissingPackageError: matplotlib is not installed.
        InputError: No claims, too many for one picture, or another format.
    """
    if suffix not in FORMATS:
        raise InputError(
            f"a timeline is not drawn as {suffix or 'a file without a suffix'}",
            given=suffix,
            expected=" or ".join(FORMATS),
        )
    count = len(timeline.tracks)
    if not 0 < count <= MOST_PANELS:
        raise InputError(
            f"{count} claims do not fit one picture",
            given=f"{count} claims",
            expected=f"1 to {MOST_PANELS}",
            next_step="choose some: --claim PATTERN",
        )
    figure = _figure(timeline)
    return _rendered(figure, suffix)


def _figure(timeline: Timeline) -> Figure:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure as FigureClass
    except ImportError as error:
        raise MissingPackageError(
            "pictures of timelines are drawn by matplotlib, which is not installed",
            next_step='pip install "mechtest[plots]"; the table needs nothing',
        ) from error
    count = len(timeline.tracks)
    columns = min(3 if count > 4 else 2, count)
    rows = math.ceil(count / columns)
    caption = textwrap.wrap(f"{KEY} {RULE} {timeline.levels}", 40 + 58 * columns)
    foot = 0.145 * (len(caption) + 2)
    height = _PANEL[1] * rows + foot
    figure = FigureClass(figsize=(_PANEL[0] * max(columns, 2), height))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        rows, columns, left=0.06, right=0.985, bottom=(foot + 0.3) / height,
        top=1 - 0.42 / height, hspace=0.72, wspace=0.2,
    )  # fmt: skip
    for index, track in enumerate(timeline.tracks):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        _draw(axes, track, timeline.steps)
    figure.text(
        0.02, 0.07 / height, "\n".join(caption), fontsize=6.2, color=_SOFT, va="bottom",
        linespacing=1.25, parse_math=False,
    )  # fmt: skip
    return figure


def _draw(axes: Axes, track: Track, steps: Sequence[int]) -> None:
    """Draw one claim: intervals, threshold, a strip of verdicts, births and deaths."""
    at = {step: place for place, step in enumerate(steps)}
    shown = [m for m in track.moments if m.estimate is not None]
    low, high = _range(track)
    thresholds = {m.threshold for m in shown if m.threshold is not None}
    for threshold in thresholds:
        axes.axhline(threshold, color=_INK, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
    places = [at[m.step] for m in shown]
    values = [_inside(m.estimate, low, high) for m in shown]
    axes.plot(places, values, color=_SOFT, linewidth=0.8, alpha=0.6, zorder=2)
    for moment, place, value in zip(shown, places, values, strict=True):
        tone = TONES.get(moment.verdict, _ABSENT)
        ends = [_inside(end, low, high) for end in (moment.low, moment.high) if end is not None]
        if len(ends) == 2:
            axes.plot([place, place], ends, color=tone, linewidth=1.6, zorder=3)
        axes.plot(
            [place], [value], "o", color=tone, markersize=5, zorder=4, markeredgewidth=1.2,
            markerfacecolor=tone if moment.counted == moment.verdict else "white",
        )  # fmt: skip
    for moment in track.moments:
        _square(axes, at[moment.step], moment)
    for turn in track.turns:
        word = turn.what if not turn.to else f"moved to {turn.to[0].rpartition('_')[2]}"
        axes.axvline(at[turn.step], color=_INK, linewidth=0.7, alpha=0.35, zorder=0)
        axes.annotate(
            turn.what if len(word) > 24 else word, (at[turn.step], 1.0),
            xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
            fontsize=6.5, ha="center", color=_INK, parse_math=False,
        )  # fmt: skip
    _edges(axes, track, steps, low, high)


def _square(axes: Axes, place: int, moment: Moment) -> None:
    """Draw a verdict: its colour, and its letter for who cannot tell colours apart."""
    tone = TONES.get(moment.verdict, _ABSENT)
    counts = moment.counted == moment.verdict
    edge = axes.get_xaxis_transform()
    axes.plot(
        [place], [-0.08], "s", transform=edge, clip_on=False, markersize=9, color=tone,
        markerfacecolor=tone if counts else "white",
    )  # fmt: skip
    axes.text(
        place, -0.085, letter(moment), transform=edge, ha="center", va="center", fontsize=6,
        color="white" if counts else tone, parse_math=False,
    )  # fmt: skip


def _edges(axes: Axes, track: Track, steps: Sequence[int], low: float, high: float) -> None:
    axes.set_xlim(-0.5, len(steps) - 0.5)
    axes.set_ylim(low, high)
    every = max(1, math.ceil(len(steps) / 9))
    axes.set_xticks(
        range(0, len(steps), every), [step_text(s) for s in steps[::every]], fontsize=6.5
    )
    axes.tick_params(axis="x", length=0, pad=16)
    axes.tick_params(axis="y", labelsize=6.5, length=2)
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)
    model = track.suite.rpartition("/")[2] + ("" if track.seed is None else f", seed {track.seed}")
    title = textwrap.wrap(clean_text(track.statement or track.key, 110), 58)[:2]
    axes.set_title(
        "\n".join([*title, clean_text(f"{model}: {track.fate}", 62)]), fontsize=7, loc="left",
        color=_INK, pad=11, parse_math=False, linespacing=1.15,
    )  # fmt: skip
    if track.unit:
        axes.set_ylabel(clean_text(track.unit, 40), fontsize=6.5, color=_SOFT, parse_math=False)


def _range(track: Track) -> tuple[float, float]:
    numbers = [0.0]
    for moment in track.moments:
        known = (moment.estimate, moment.low, moment.high, moment.threshold)
        numbers += [number for number in known if number is not None]
    low, high = min(numbers), max(numbers)
    if track.unit == "share of behaviour":
        low, high = max(low, _SHARES[0]), min(max(high, 1.0), _SHARES[1])
    room = 0.06 * (high - low) or 1.0
    return low - room, high + room


def _inside(value: float | None, low: float, high: float) -> float:
    return low if value is None else min(max(value, low), high)


def _rendered(figure: Figure, suffix: str) -> bytes:
    from matplotlib import rc_context

    metadata: dict[str, Any] = {"Software": None} if suffix == ".png" else {"Date": None}
    file = io.BytesIO()
    with rc_context({"svg.hashsalt": "mechtest"}), warnings.catch_warnings():
        # A statement may hold letters the font lacks: a box is drawn, and the table has them.
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)
        figure.savefig(file, format=suffix[1:], dpi=DPI, metadata=metadata)
    return file.getvalue()
