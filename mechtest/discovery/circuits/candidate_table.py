"""What is known of every circuit that was tried, and how do they stand beside one another?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mechtest.discovery.circuits.measuring import Share
from mechtest.discovery.circuits.nodes import single_nodes
from mechtest.discovery.circuits.pictures import ABLATED, RESTORED, new_axes
from mechtest.discovery.figures import write_figure
from mechtest.discovery.record import DiscoveryRecord
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import DiscoveryError
from mechtest.interventions import Circuit, SweepResult
from mechtest.interventions.circuit_file import parsed_circuit
from mechtest.interventions.sweep_labels import shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Candidate", "CandidateTable"]


@part_of_records
@dataclass(frozen=True)
class Candidate:
    """One circuit that something pointed at.

    Attributes:
        name: How tables call it.
        sources: What pointed at it, those of merged ones too.
        merged: Names of circuits that overlapped and did less.
        text: The circuit, as `Circuit.save` writes it.
        size: Channels, or dimensions of its directions.
        ablated: Share of the behaviour that is lost without it.
        restored: Share that comes back when it alone is put into the corrupted run.
    """

    name: str
    sources: tuple[str, ...]
    merged: tuple[str, ...]
    text: str
    size: int
    ablated: Share
    restored: Share

    @property
    def circuit(self) -> Circuit:
        """The circuit, with the fingerprints of the prompts it was found on."""
        return parsed_circuit(self.text, self.name)

    @property
    def worth(self) -> float:
        """Mean of both shares, which puts what is only redundant or only half beside the rest."""
        return ((self.ablated.estimate or 0.0) + (self.restored.estimate or 0.0)) / 2


@dataclass(frozen=True, eq=False, repr=False)
class CandidateTable(DiscoveryRecord):
    """Candidate circuits, the best first.

    Attributes:
        rows: By the mean of what is lost without them and what they bring back.
        map: The sweep that places were taken from; None where no hooks were swept.
        notes: What could not be tried, and why.
    """

    rows: tuple[Candidate, ...]
    map: SweepResult | None
    notes: tuple[str, ...]

    def circuit(self, rank: int = 0) -> Circuit:
        """Return the circuit of a row, 0 being the best.

        Raises:
            DiscoveryError: There is no such row.
        """
        if not 0 <= rank < len(self.rows):
            raise DiscoveryError(
                "there is no such candidate",
                given=f"rank={rank}",
                expected=f"0 to {len(self.rows) - 1}",
            )
        return self.rows[rank].circuit

    def circuits(self, count: int | None = None) -> tuple[Circuit, ...]:
        """Return the best circuits."""
        return tuple(row.circuit for row in self.rows[:count])

    def scores(self) -> Mapping[str, float]:
        """Return the worth of each place; several places of one circuit share it out evenly."""
        found: dict[str, float] = {}
        for row in self.rows:
            circuit = row.circuit
            if circuit.subspace is not None:
                continue
            names = [node.name for node in single_nodes(circuit)]
            for name in names:
                found[name] = max(found.get(name, -np.inf), row.worth / len(names))
        return found

    def lines(self) -> tuple[str, ...]:
        """Return the table, the best first."""
        found = [f"{len(self.rows)} candidates on {len(self.about.prompt_ids)} discovery prompts"]
        for row in self.rows:
            found.append(
                f"  {row.name} ({row.size}): ablated {row.ablated}, restored {row.restored}"
                f"; {', '.join(row.sources)}"
            )
        return (*found, *(f"  not tried: {note}" for note in self.notes))

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw what is lost without each candidate, and what it brings back."""
        shown = self.rows[:20]
        figure, axes = new_axes(6.6, 1.4 + 0.34 * max(len(shown), 3))
        sides = (("lost without it", ABLATED, -0.19), ("brought back by it alone", RESTORED, 0.19))
        for which, (label, colour, offset) in enumerate(sides):
            places = np.arange(len(shown)) + offset
            shares = [(row.ablated, row.restored)[which] for row in shown]
            values = [share.estimate or 0.0 for share in shares]
            axes.barh(places, values, height=0.36, color=colour, label=label)
            for place, share in zip(places, shares, strict=True):
                if share.low is not None and share.high is not None:
                    axes.plot([share.low, share.high], [place, place], color="black", lw=1)
        names = [f"{shortened(row.name, 46)} ({row.size})" for row in shown]
        axes.set_yticks(range(len(shown)), names, fontsize=7)
        axes.set_ylim(len(shown) - 0.4, -0.6)
        axes.axvline(1.0, color="black", lw=0.8, ls=":")
        axes.axvline(0.0, color="black", lw=0.6)
        axes.set_xlabel("share of behaviour, 95 % interval over templates", fontsize=8)
        axes.set_title(self.lines()[0], fontsize=8, loc="left")
        axes.legend(fontsize=7, frameon=False, loc="lower right")
        return write_figure(figure, path, self.lines()[0])
