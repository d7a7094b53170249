"""Which edges are there, in rows and columns, and what was attributed to each?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float

from mechtest.discovery.attribution.agreement import STRONGEST, strongest_places
from mechtest.discovery.attribution.path_patching import Edge, Tap
from mechtest.discovery.attribution.residual_graph import edges_exist, readers, writers
from mechtest.discovery.record import identity_of
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, Runner, SweepResult
from mechtest.tasks import Metric

__all__ = ["EdgePlaces", "EdgeTable", "edge_places", "table_of_edges", "table_of_taps"]

NO_EDGE = "nothing is read before it is written"
UNCHANGED = "what is carried here is the same in both runs"


@dataclass(frozen=True, eq=False)
class EdgePlaces:
    """Where edges are told apart.

    Attributes:
        names: Positions in the notation of sites; one empty name stands for all at once.
        masks: Where each is.
    """

    names: tuple[str, ...]
    masks: tuple[Bool[torch.Tensor, "prompt pos"], ...]


def edge_places(runner: Runner, positions: str | int | Sequence[str | int] | None) -> EdgePlaces:
    """Work out the positions asked for.

    Raises:
        ShapeError: An empty list of them.
        PositionError: A position some prompt does not have.
    """
    if positions is None:
        return EdgePlaces(("",), (runner.pairs.attention_mask,))
    one = isinstance(positions, str | int)
    asked = [positions] if one else list(positions)  # type: ignore[arg-type]
    names = tuple(str(position) for position in asked)
    if not names:
        raise ShapeError("edges need at least one position", given="positions=[]")
    plans = [runner.planner.plan(Circuit(f"blocks.0.hook_resid_pre@{name}")) for name in names]
    return EdgePlaces(names, tuple(plan[0].known_spots.mask for plan in plans))


@dataclass(eq=False)
class EdgeTable:
    """Edges in rows and columns, being filled.

    Attributes:
        rows: Labels.
        columns: Labels.
        row_name: What rows are.
        column_name: What columns are.
        edges: What stands where, by (row, column).
        values: First-order effects, "row column prompt".
        changed: Places where what is carried differs between the runs.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_name: str
    column_name: str
    edges: dict[tuple[int, int], Edge | Tap]
    values: Float[np.ndarray, "row column prompt"]
    changed: set[tuple[int, int]] = field(default_factory=set)

    def strata(self) -> list[list[tuple[int, int]]]:
        """Return the places with something to carry, a list for each layer that reads."""
        layers: dict[int, list[tuple[int, int]]] = {}
        for at in sorted(self.changed):
            edge = self.edges[at]
            layer = edge.layer if isinstance(edge, Tap) else edge.reader.layer
            layers.setdefault(layer, []).append(at)
        return list(layers.values())

    def strongest(self, templates: Sequence[str]) -> list[tuple[int, int]]:
        """Return the places with the largest effects, the largest first."""
        values = self.values.copy()
        for at in np.ndindex(values.shape[:2]):
            if at not in self.changed:
                values[at] = np.nan
        return strongest_places(values, templates, STRONGEST)

    def result(self, runner: Runner, metric: Metric, method: str) -> SweepResult:
        """Return it as a table that can be drawn and saved."""
        reasons, sites = {}, []
        for row in range(len(self.rows)):
            names = []
            for column in range(len(self.columns)):
                edge = self.edges.get((row, column))
                names.append("" if edge is None else edge.site)
                if edge is None:
                    reasons[row, column] = NO_EDGE
                elif (row, column) not in self.changed:
                    reasons[row, column] = UNCHANGED
            sites.append(tuple(names))
        values = self.values.copy()
        for at in reasons:
            values[at] = np.nan
        pairs = runner.pairs
        return SweepResult(
            rows=self.rows,
            columns=self.columns,
            row_name=self.row_name,
            column_name=self.column_name,
            sites=tuple(sites),
            values=values,
            reasons=reasons,
            prompt_ids=pairs.ids,
            templates=tuple(pairs.templates[index] for index in pairs.cluster),
            effect_name=f"{metric.name.replace('_', ' ')} lost, to first order",
            unit="share of behaviour",
            intervention=method,
            base="clean",
            metric=metric.name,
            model=identity_of(runner.model),
            engine={"executor": "gradient"},
        )


def table_of_edges(n_layer: int, places: EdgePlaces, prompts: int) -> EdgeTable:
    """Return the empty table of readers by writers."""
    wrote, rows = writers(n_layer), list[str]()
    edges: dict[tuple[int, int], Edge | Tap] = {}
    for reader in readers(n_layer):
        for position in places.names:
            for column in range(edges_exist(reader)):
                edges[len(rows), column] = Edge(wrote[column], reader, position)
            rows.append(reader.name + (f"@{position}" if position else ""))
    shape = (len(rows), len(wrote), prompts)
    columns = tuple(writer.name for writer in wrote)
    return EdgeTable(tuple(rows), columns, "reader", "writer", edges, np.zeros(shape))


def table_of_taps(n_layer: int, d_conv: int, places: EdgePlaces, prompts: int) -> EdgeTable:
    """Return the empty table of layers by taps."""
    rows: list[str] = []
    edges: dict[tuple[int, int], Edge | Tap] = {}
    for layer in range(n_layer):
        for position in places.names:
            for distance in range(d_conv):
                edges[len(rows), distance] = Tap(layer, distance, position)
            rows.append(f"layer {layer}" + (f"@{position}" if position else ""))
    shape = (len(rows), d_conv, prompts)
    columns = tuple(f"tap {distance}" for distance in range(d_conv))
    return EdgeTable(tuple(rows), columns, "layer", "tap", edges, np.zeros(shape))
