"""What did edge attribution find, and how far can it be trusted?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mechtest.discovery.attribution.agreement import Agreement
from mechtest.discovery.attribution.pictures import draw
from mechtest.discovery.attribution.residual_graph import readers, writers
from mechtest.discovery.attribution.traces import AttributionCost
from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["EdgeAttributionResult", "ScoredEdge"]

SHOWN = 5


@dataclass(frozen=True, slots=True)
class ScoredEdge:
    """One edge and what is attributed to it.

    Attributes:
        writer: For example `0.state`.
        reader: For example `1.conv`, or `logits`.
        position: Where; empty for all positions.
        effect: Share of the behaviour lost, to first order, templates weighted equally.
        write_site: Where the writer writes.
        read_site: Where the reader reads.
    """

    writer: str
    reader: str
    position: str
    effect: float
    write_site: str
    read_site: str

    def __str__(self) -> str:
        at = f"@{self.position}" if self.position else ""
        return f"{self.writer}->{self.reader}{at} {self.effect:.3g}"


@dataclass(frozen=True, eq=False, repr=False)
class EdgeAttributionResult(DiscoveryRecord):
    """First-order effects of patching edges, beside the true effects of some.

    Attributes:
        map: Readers by writers: shares of the behaviour lost when one edge carries what the
            corrupted run writes.
        taps: Layers by taps of the convolution, the same: tap k brings what stands k tokens before.
        agreement: Comparison of edges with true path patching.
        tap_agreement: Comparison of taps.
        strongest: Comparison of the strongest edges, the strongest first. They were chosen by what
            was attributed to them, so their correlation says nothing of the rest.
        cost: What it took.
    """

    map: SweepResult
    taps: SweepResult
    agreement: Agreement
    tap_agreement: Agreement
    strongest: Agreement
    cost: AttributionCost

    @property
    def out_of_embedding(self) -> float:
        """Sum over the edges out of the embedding: 1 for `eap-ig` with enough steps."""
        return float(np.nansum(self.map.mean()[:, 0]))

    @property
    def into_logits(self) -> float:
        """Sum over the edges into the logits: 1 where the last norm is a straight line."""
        rows = [label.partition("@")[0] == "logits" for label in self.map.rows]
        return float(np.nansum(self.map.mean()[rows]))

    def edges(self, count: int = 10) -> tuple[ScoredEdge, ...]:
        """Return the edges with the largest attributed effects in either direction."""
        n_layer = (len(self.map.columns) - 1) // 2
        wrote = {writer.name: writer for writer in writers(n_layer)}
        read = {reader.name: reader for reader in readers(n_layer)}
        found = []
        for place in self.map.top(count):
            name, _, position = place.row.partition("@")
            writer, reader = wrote[place.column], read[name]
            at = f"@{position}" if position else ""
            found.append(
                ScoredEdge(
                    writer.name,
                    reader.name,
                    position,
                    place.effect,
                    writer.site + at,
                    reader.site + at,
                )
            )
        return tuple(found)

    def scores(self) -> Mapping[str, float]:
        """Return how much each place matters: its strongest edge, out of it or into it.

        Keys are `hook_out_proj` of layers that write, and `hook_in_proj` and `hook_skip` of layers
        that read; the ends of the graph, embedding and logits, are no places.
        """
        found: dict[str, float] = {}
        for edge in self.edges(self.map.values.shape[0] * self.map.values.shape[1]):
            ends = [edge.write_site] * (edge.writer != "embed")
            ends += [edge.read_site] * (edge.reader != "logits")
            for site in ends:
                found[site] = max(found.get(site, 0.0), abs(edge.effect))
        return found

    def circuit(self, count: int, *, name: str | None = None) -> Circuit:
        """Return the layers' outputs and inputs that the strongest edges run between.

        A claim speaks of places, not of edges: of an edge, the output of the layer that writes it
        and the branch that reads it are taken.

        Args:
            count: How many edges.
            name: How reports call it.

        Raises:
            ShapeError: There are not that many edges, or they all run from embedding to logits.
        """
        edges = self.edges(count)
        if isinstance(count, bool) or not 0 < count == len(edges):
            raise ShapeError(
                "the graph has not that many edges that carry something",
                given=f"count={count}",
                expected=f"1 to {len(self.edges(self.map.values.size))}",
            )
        sites = [edge.write_site for edge in edges if edge.writer != "embed"]
        sites += [edge.read_site for edge in edges if edge.reader != "logits"]
        if not sites:
            raise ShapeError(
                "these edges pass no layer",
                given=", ".join(map(str, edges)),
                expected="a larger count",
            )
        return Circuit(*dict.fromkeys(sites), name=name, fitted_on=self.about.fitted_on)

    def lines(self) -> tuple[str, ...]:
        """Return the strongest edges, the comparisons with path patching, and the cost."""
        method, steps = self.about.settings["method"], self.about.settings["steps"]
        how = f"{method} of {steps} steps" if steps else str(method)
        sums = f"edges out of the embedding sum to {self.out_of_embedding:.3g}, "
        sums += f"into the logits to {self.into_logits:.3g} (of 1)"
        return (
            f"{how}, {self.map.which_prompts()}; strongest edges ({self.map.unit}): "
            + (self.strongest.side_by_side(SHOWN) or "none"),
            *([sums] if not any(self.about.settings["positions"]) else []),
            *(f"edges {line}" for line in self.agreement.lines()),
            *(f"taps {line}" for line in self.tap_agreement.lines()),
            self.cost.line(),
        )

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw readers by writers, layers by taps, and the comparison with path patching.

        Raises:
            MissingPackageError: Matplotlib is not installed.
            DiscoveryFileError: A suffix other than .png and .svg.
        """
        maps = [(self.map, "what one reader owes to one writer"), (self.taps, "taps")]
        heading = f"{self.about.settings['method']}, {self.map.which_prompts()}"
        return draw(maps, self.agreement, heading, path)
