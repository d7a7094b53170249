"""What is one step of a study: what may be set, what it builds on, and what does it hand back?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import StudyError
from mechtest.interventions import Circuit, SweepResult

if TYPE_CHECKING:
    from mechtest.study.bench import Bench

__all__ = ["Found", "Record", "Setting", "Step"]

Record = DiscoveryRecord | SweepResult

_WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    tuple: "a list of texts",
}


@dataclass(frozen=True)
class Setting:
    """One key of a study file.

    Attributes:
        default: What holds where the file says nothing; its type is the type of the key.
        meaning: What it does, in a few words.
    """

    default: Any
    meaning: str

    def read(self, key: str, given: Mapping[str, Any]) -> Any:
        """Return what is given for this key, or the default.

        Raises:
            StudyError: A value of another type, or a number below zero.
        """
        if key not in given:
            return self.default
        value, kind = given[key], type(self.default)
        if kind is tuple and isinstance(value, list):
            value = tuple(value)
        if kind is float and type(value) is int:
            value = float(value)
        # A bool is an int to Python, and "last" may be written as a number of a step.
        if kind is str and type(value) is int:
            value = str(value)
        fits = type(value) is kind
        if fits and kind is tuple:
            fits = all(isinstance(one, str) for one in value)
        if fits and kind in (int, float):
            fits = value >= 0
        if not fits:
            raise StudyError(
                f"{key!r} cannot be {given[key]!r}",
                given=f"{key} = {given[key]!r}",
                expected=f"{_WORDS[kind]}{', not below 0' if kind in (int, float) else ''}: "
                f"{self.meaning}",
            )
        return value


@dataclass(eq=False)
class Found:
    """What a step found.

    Attributes:
        lines: What it came to, the most important first.
        warnings: What a reader has to know before believing it.
        facts: Plain JSON values that later steps read.
        records: Records and sweeps by name.
        circuits: Circuits by name.
        files: What else is written into the step's folder: file name -> function of its path.
    """

    lines: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    records: dict[str, Record] = field(default_factory=dict)
    circuits: dict[str, Circuit] = field(default_factory=dict)
    files: dict[str, Callable[[Path], object]] = field(default_factory=dict)

    def keep(self, name: str, record: Record, *, count: int = 3) -> Record:
        """Keep a record, and its first lines among the step's."""
        self.records[name] = record
        self.lines += [f"{name}: {line}" for line in lines_of(record)[:count]]
        return record


@dataclass(frozen=True)
class Step:
    """One step of a study.

    Attributes:
        number: From 1; the beginning of its folder's name.
        name: As study files and the command line call it.
        question: What it asks, as one sentence.
        run: Looks, and returns what it found.
        settings: Keys of `[steps.<name>]`.
        needs: Steps it cannot do without.
        uses: Steps it takes up where they are there.
        reads: Tables of the study file it depends on beside its own: `transfer`, `scale`.
    """

    number: int
    name: str
    question: str
    run: Callable[[Bench], Found]
    settings: Mapping[str, Setting] = field(default_factory=dict)
    needs: Sequence[str] = ()
    uses: Sequence[str] = ()
    reads: Sequence[str] = ()

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{self.number:02d}-{self.name}"


def lines_of(record: Record) -> tuple[str, ...]:
    """Return what a record came to, whichever kind it is."""
    if not isinstance(record, SweepResult):
        return tuple(record.lines())
    strongest = [f"{one.effect:.3g} at {one.site}" for one in record.top(3)]
    return (f"{record.title()}: {', '.join(strongest) or 'no effect anywhere'} ({record.unit})",)
