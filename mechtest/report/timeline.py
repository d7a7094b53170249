"""At which training step was a claim born, when did it die, and where did it go?

Reads rows of reports and nothing else. The rule is fixed before any data are seen (`RULE`), and it
reads verdicts, not curves: at every checkpoint a claim is tested at its registered level.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from mechtest.errors import InputError, closest_names
from mechtest.report.cells import deciding_evidence

__all__ = ["LEVELS", "RULE", "Moment", "Timeline", "Track", "Turn", "read_timeline", "with_claims"]

Row = Mapping[str, Any]
Adjust = Callable[[Mapping[str, float]], Mapping[str, float]]

RULE = (
    "A claim is born at the first checkpoint at which it is supported and is so at the next one "
    "too, or there is no next one. It dies at the first later checkpoint at which it is refuted "
    "and is so at the next one too, or there is no next one. It has moved where another claim of "
    "the same family, kind and prompts, at another site, was born after it and before its death, "
    "or where it died. "
    "Inconclusive and invalid checkpoints, and support behind a closed gate, neither bear nor kill."
)
"""How births and deaths are read off the verdicts; pictures print it."""

LEVELS = (
    "Every checkpoint is tested at the claim's registered level: the error rate holds at each "
    "checkpoint, not over all of them together."
)
LEVELS_HOLM = (
    "Support is Holm-corrected over the checkpoints of each claim: the error rate holds over all "
    "of them together."
)


@dataclass(frozen=True, slots=True)
class Moment:
    """A claim at one checkpoint.

    Attributes:
        step: Training step (or tokens).
        checkpoint: As its directory or revision is called.
        id: Node id of the row.
        verdict: As reported.
        counted: What the rule counts: the verdict, or `inconclusive` where support does not count.
        gate: Of an ordered family: `open`, `closed` or `none`.
        estimate: Effect of the weakest measurement; None without one.
        low: Lower end of its interval.
        high: Upper end.
        threshold: What it is held against.
        p: Of the claim.
        p_steps: The same, Holm-corrected over the claim's checkpoints; None where not asked for.
        level: Error rate at this checkpoint.
    """

    step: int
    checkpoint: str
    id: str
    verdict: str
    counted: str
    gate: str
    estimate: float | None
    low: float | None
    high: float | None
    threshold: float | None
    p: float
    p_steps: float | None
    level: float


@dataclass(frozen=True, slots=True)
class Turn:
    """A birth, a death or a move.

    Attributes:
        what: `born`, `died` or `moved`.
        step: Where.
        to: Keys of the claims it moved to.
    """

    what: str
    step: int
    to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Track:
    """One claim on one model over the steps of its training.

    Attributes:
        key: Node id without the model.
        statement: The claim as a sentence.
        family: Name of its family.
        expect: Verdict it is written to come to.
        suite: The model, without the step.
        seed: Training seed; None for all, or outside a suite.
        unit: Of the effects.
        circuit: Sites of the weakest measurement.
        moments: By ascending step.
        turns: What became of it.
        differs: Names of settings that are not the same at all checkpoints.
        peers: What a claim must share for this one to have moved there.
    """

    key: str
    statement: str
    family: str
    expect: str
    suite: str
    seed: int | None
    unit: str
    circuit: tuple[str, ...]
    moments: tuple[Moment, ...]
    turns: tuple[Turn, ...] = ()
    differs: tuple[str, ...] = ()
    peers: str = ""

    @property
    def fate(self) -> str:
        """What became of the claim, in a few words."""
        if not self.turns:
            return "never born"
        return ", ".join(
            f"{turn.what} at {turn.step}" + (f" to {_names(turn.to)}" if turn.to else "")
            for turn in self.turns
        )


@dataclass(frozen=True)
class Timeline:
    """All claims of some reports over training.

    Attributes:
        tracks: In the order of the reports.
        steps: All steps, ascending.
        unplaced: Node ids of rows whose model names no training step.
        replaced: Node ids that a later report replaced.
        corrected: Whether support is Holm-corrected over checkpoints.
    """

    tracks: tuple[Track, ...]
    steps: tuple[int, ...]
    unplaced: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    corrected: bool = False

    @property
    def levels(self) -> str:
        """What the levels mean over several checkpoints, one sentence."""
        return LEVELS_HOLM if self.corrected else LEVELS

    def as_json(self) -> dict[str, Any]:
        """Return plain values: the rule, the levels and every claim."""
        tracks = []
        for track in self.tracks:
            content = {**asdict(track), "fate": track.fate}
            del content["peers"]
            tracks.append(content)
        return {
            "schema": "mechtest-timeline/1",
            "rule": RULE,
            "levels": self.levels,
            "steps": list(self.steps),
            "claims": tracks,
            "unplaced": list(self.unplaced),
            "replaced": list(self.replaced),
        }


def read_timeline(reports: Iterable[Row], *, adjust: Adjust | None = None) -> Timeline:
    """Return what reports say of every claim over training.

    Args:
        reports: One of several checkpoints, or several; of one row given twice the later counts.
        adjust: Corrects p values by name for there being several, such as Holm's; support then
            counts where the corrected p value of a checkpoint is within the claim's level.
    """
    placed: dict[tuple[str, str, int | None], dict[int, Row]] = {}
    unplaced: list[str] = []
    replaced: list[str] = []
    for report in reports:
        for row in report["claims"]:
            step = row["model"].get("step")
            if row["verdict"] == "deselected":
                continue
            if step is None:
                unplaced.append(row["id"])
                continue
            at = placed.setdefault((row["key"], _place(row["model"]), row["model"]["seed"]), {})
            if int(step) in at:
                replaced.append(row["id"])
            at[int(step)] = row
    tracks = [_track([at[s] for s in sorted(at)], place[1], adjust) for place, at in placed.items()]
    steps = sorted({moment.step for track in tracks for moment in track.moments})
    return Timeline(
        tuple(_with_moves(tracks)),
        tuple(steps),
        tuple(unplaced),
        tuple(replaced),
        corrected=adjust is not None,
    )


def with_claims(timeline: Timeline, pattern: str) -> Timeline:
    """Return only the claims whose key holds a text, or matches a pattern with `*`.

    Raises:
        InputError: There is none.
    """
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    kept = tuple(track for track in timeline.tracks if fnmatchcase(track.key, wanted))
    if not kept:
        names = [track.key.rpartition("::")[2] for track in timeline.tracks]
        raise InputError(
            f"no claim matches {pattern!r}",
            given=pattern,
            closest=closest_names(pattern, names),
            expected="a part of a test's id, or a pattern such as *layer_0*",
        )
    return replace(timeline, tracks=kept)


def _place(model: Row) -> str:
    """Return a model's name without its step: one checkpoint given by its path loses the end."""
    suite = str(model["suite"])
    if model["checkpoint"]:
        return suite
    head, _, last = suite.rstrip("/").rpartition("/")
    return f"{head}/{last.partition('@')[0]}" if "@" in last else head


def _track(rows: Sequence[Row], place: str, adjust: Adjust | None) -> Track:
    moments = _moments(rows, adjust)
    last = rows[-1]
    measured = next((row for row in reversed(rows) if row["evidence"]), None)
    evidence = None if measured is None else deciding_evidence(measured)
    peers = [last["family"], place, last["model"]["seed"]]
    if evidence is not None:
        peers += [evidence["kind"], evidence["direction"], evidence["prompt_ids"]]
    return Track(
        key=last["key"],
        statement=last["statement"],
        family=last["family"],
        expect=last["expect"],
        suite=place,
        seed=last["model"]["seed"],
        unit="" if evidence is None else evidence["effect"]["unit"],
        circuit=() if evidence is None else tuple(evidence["circuit"]),
        moments=moments,
        turns=_turns(moments),
        differs=_differing(rows),
        peers="" if evidence is None else json.dumps(peers),
    )


def _moments(rows: Sequence[Row], adjust: Adjust | None) -> tuple[Moment, ...]:
    corrected = {} if adjust is None else adjust({row["id"]: row["p"] for row in rows})
    return tuple(_moment(row, corrected.get(row["id"])) for row in rows)


def _moment(row: Row, p_steps: float | None) -> Moment:
    evidence = deciding_evidence(row)
    effect: Row = {} if evidence is None else evidence["effect"]
    counted = str(row["verdict"])
    short = p_steps is not None and not row["exact"] and p_steps > row["level"]
    if counted == "supported" and (short or row["gate"] == "closed"):
        counted = "inconclusive"
    return Moment(
        step=int(row["model"]["step"]),
        checkpoint=str(row["model"]["checkpoint"] or row["model"]["suite"].rpartition("/")[2]),
        id=row["id"],
        verdict=str(row["verdict"]),
        counted=counted,
        gate=str(row["gate"]),
        estimate=effect.get("estimate"),
        low=effect.get("low"),
        high=effect.get("high"),
        threshold=None if evidence is None else evidence["threshold"],
        p=float(row["p"]),
        p_steps=p_steps,
        level=float(row["level"]),
    )


def _turns(moments: Sequence[Moment]) -> tuple[Turn, ...]:
    """Apply the rule: two in a row, or the last one."""
    found: list[Turn] = []
    alive = False
    for index, moment in enumerate(moments):
        wanted = "refuted" if alive else "supported"
        after = moments[index + 1].counted if index + 1 < len(moments) else wanted
        if moment.counted == wanted == after:
            alive = not alive
            found.append(Turn("born" if alive else "died", moment.step))
    return tuple(found)


def _with_moves(tracks: Sequence[Track]) -> list[Track]:
    return [
        replace(
            track, turns=tuple(_moved(track, index, tracks) for index in range(len(track.turns)))
        )
        for track in tracks
    ]


def _moved(track: Track, index: int, tracks: Sequence[Track]) -> Turn:
    """Return a turn of a claim's life; a death that is a birth elsewhere is a move."""
    turn = track.turns[index]
    if turn.what != "died" or not track.peers:
        return turn
    born = track.turns[index - 1].step
    to = tuple(
        other.key
        for other in tracks
        if other.peers == track.peers
        and other.circuit != track.circuit
        and any(t.what == "born" and born < t.step <= turn.step for t in other.turns)
    )
    return replace(turn, what="moved", to=to) if to else turn


def _differing(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the names of what a claim was not asked alike at all checkpoints."""
    # An invalid claim may have ended before all was set.
    asked = [row["settings"] for row in rows if row["evidence"]]
    names: dict[str, None] = {}
    for settings in asked[1:]:  # against the first
        if len(settings) != len(asked[0]):
            names["number of assertions"] = None
        for old, new in zip(asked[0], settings, strict=False):
            names.update(dict.fromkeys(n for n in {**old, **new} if old.get(n) != new.get(n)))
    if len({row["level"] for row in rows}) > 1:
        names["level"] = None
    return tuple(names)


def _names(keys: Sequence[str]) -> str:
    return ", ".join(key.rpartition("::")[2] for key in keys)
