"""Where does each mark of a claim's chart over training go?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mechtest.report.cells import number_text
from mechtest.report.charts import SHARE
from mechtest.report.geometry import Tick, scale_over
from mechtest.report.plain_text import clean_text
from mechtest.report.timeline import Timeline, Track, read_timeline
from mechtest.report.timeline_text import letter, step_text

__all__ = ["Course", "Mark", "courses"]

_HIGH = 84
"""Height of the field that effects are drawn in, in pixels."""
_SHARES = (-0.25, 1.25)
_LABELS = 9


@dataclass(frozen=True, slots=True)
class Mark:
    """One checkpoint: places in percent of the width and in pixels of the height.

    Attributes:
        x: Of the checkpoint.
        y: Of the estimate; None without one.
        low: Lower end of the interval; None where there is none.
        high: Upper end.
        verdict: As reported.
        counts: Whether the verdict counts.
        id: Of the row.
        letter: The verdict, for who cannot tell colours apart.
        text: What a reader without eyes is told.
    """

    x: float
    y: float | None
    low: float | None
    high: float | None
    verdict: str
    counts: bool
    id: str
    letter: str
    text: str


@dataclass(frozen=True, slots=True)
class Course:
    """One claim over training."""

    key: str
    title: str
    where: str
    fate: str
    threshold: float | None
    marks: tuple[Mark, ...]
    turns: tuple[tuple[float, str], ...]
    steps: tuple[Tick, ...]
    across: tuple[Tick, ...]


def courses(report: Mapping[str, Any]) -> tuple[Timeline, list[Course]]:
    """Return the claims that were checked at more than one checkpoint, as charts."""
    timeline = read_timeline([report])
    return timeline, [_course(track) for track in timeline.tracks if len(track.moments) > 1]


def _course(track: Track) -> Course:
    count = len(track.moments)
    at = {m.step: round((index + 0.5) * 100 / count, 2) for index, m in enumerate(track.moments)}
    numbers = [0.0]
    for moment in track.moments:
        known = (moment.estimate, moment.low, moment.high, moment.threshold)
        numbers += [number for number in known if number is not None]
    if track.unit == SHARE:
        numbers = [min(max(number, _SHARES[0]), _SHARES[1]) for number in [*numbers, 1.0]]
    scale = scale_over(numbers)

    def height(value: float | None) -> float | None:
        return None if value is None else round(_HIGH * (1 - scale.at(value) / 100), 1)

    marks = tuple(
        Mark(
            at[m.step], height(m.estimate), height(m.low), height(m.high), m.verdict,
            m.counted == m.verdict, m.id, letter(m),
            f"{m.checkpoint}: {m.verdict.replace('_', ' ')} {number_text(m.estimate)}",
        )
        for m in track.moments
    )  # fmt: skip
    threshold = next((m.threshold for m in track.moments if m.threshold is not None), None)
    every = -(-count // _LABELS)
    return Course(
        track.key,
        clean_text(track.statement or track.key, 200),
        clean_text(track.suite + ("" if track.seed is None else f", seed {track.seed}"), 120),
        clean_text(track.fate, 300),
        height(threshold),
        marks,
        tuple((at[turn.step], turn.what) for turn in track.turns),
        tuple(Tick(at[m.step], step_text(m.step)) for m in track.moments[::every]),
        tuple(Tick(_HIGH * (1 - tick.at / 100), tick.text) for tick in scale.ticks(4)),
    )
