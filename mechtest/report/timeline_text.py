"""How does a timeline read in a terminal: a line for each claim, a column for each checkpoint?"""

from __future__ import annotations

from collections.abc import Sequence

from mechtest.report.cells import number_text
from mechtest.report.plain_text import clean_text
from mechtest.report.timeline import RULE, Moment, Timeline, Track

__all__ = ["LETTERS", "letter", "step_text", "timeline_lines", "warnings_of"]

LETTERS = {"supported": "S", "refuted": "R", "inconclusive": "?", "invalid": "E"}
"""How verdicts are shortened; anything that came to no verdict is `-`."""

KEY = (
    "S supported, R refuted, ? inconclusive, E invalid, - no verdict; a small s does not count "
    "(gate closed, or not within its level after correction)"
)
_MOST_NAMES = 5


def letter(moment: Moment) -> str:
    """Return a verdict as one letter; support that does not count is small."""
    found = LETTERS.get(moment.verdict, "-")
    return found if moment.counted == moment.verdict else found.lower()


def step_text(step: int) -> str:
    """Return a step as short as it can be said exactly: `2500`, `10B`."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M")):
        if step >= size and step % (size // 1000) == 0:
            return f"{step / size:.6g}{unit}"
    return str(step)


def timeline_lines(timeline: Timeline, width: int = 100) -> list[str]:
    """Return the table, what its letters mean, the rule, and what cannot be read off it."""
    if not timeline.tracks:
        return ["No claim was checked on a model whose name says its training step."]
    cells = [[_cell(track, step) for step in timeline.steps] for track in timeline.tracks]
    heads = [step_text(step) for step in timeline.steps]
    if sum(map(len, heads)) + 7 * len(heads) > width:  # too many for numbers: letters alone
        cells = [[text[:1] for text in row] for row in cells]
    sizes = [max(len(c) for c in column) for column in zip(heads, *cells, strict=True)]
    lines = [_row(heads, sizes)]
    model = ""
    for track, row in zip(timeline.tracks, cells, strict=True):
        where = f"{track.suite}" + ("" if track.seed is None else f", seed {track.seed}")
        if where != model:
            lines.append(f"{clean_text(where, width)}:")
            model = where
        lines.append(f"  {clean_text(track.statement or track.key, max(width - 2, 20))}")
        lines.append(f"{_row(row, sizes)}   {track.fate}")
    return [*lines, "", KEY, RULE, timeline.levels, *warnings_of(timeline)]


def _row(cells: Sequence[str], sizes: Sequence[int]) -> str:
    return ("    " + "  ".join(c.ljust(s) for c, s in zip(cells, sizes, strict=True))).rstrip()


def _cell(track: Track, step: int) -> str:
    moment = next((m for m in track.moments if m.step == step), None)
    if moment is None:
        return ""
    effect = "" if moment.estimate is None else f" {number_text(moment.estimate)}"
    return letter(moment) + effect


def warnings_of(timeline: Timeline) -> list[str]:
    """Return what keeps checkpoints from being compared at face value."""
    found = [
        f"{track.key.rpartition('::')[2]} was not asked alike at all checkpoints: "
        f"{', '.join(track.differs)}"
        for track in timeline.tracks
        if track.differs
    ]
    for ids, what in (
        (timeline.unplaced, "no training step in the name of the model of"),
        (timeline.replaced, "given more than once, the later report counts:"),
    ):
        if ids:
            rest = f" and {len(ids) - _MOST_NAMES} more" if len(ids) > _MOST_NAMES else ""
            found.append(f"{what} {', '.join(clean_text(i, 200) for i in ids[:_MOST_NAMES])}{rest}")
    return found
