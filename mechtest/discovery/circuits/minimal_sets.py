"""Which circuits are there, each of them minimal, where several would do?"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from mechtest.discovery.circuits.measuring import Bench, Looked, Share, bench_of
from mechtest.discovery.circuits.nodes import Node, Scored, circuit_of, node_named, nodes_of
from mechtest.discovery.circuits.pictures import KEPT, new_axes
from mechtest.discovery.figures import write_figure
from mechtest.discovery.record import DiscoveryRecord, about
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import DiscoveryError
from mechtest.interventions import Circuit, Intervention
from mechtest.models import HookedMamba
from mechtest.tasks import Metric, logit_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MinimalCircuit", "MinimalCircuits", "minimal_circuits"]


@part_of_records
@dataclass(frozen=True)
class MinimalCircuit:
    """Nodes of which none can go.

    Attributes:
        nodes: Their names.
        share: Share of the behaviour they keep alone.
    """

    nodes: tuple[str, ...]
    share: Share


@dataclass(frozen=True, eq=False, repr=False)
class MinimalCircuits(DiscoveryRecord):
    """Circuits that each keep what all nodes keep, and lose it with any node less.

    Attributes:
        nodes: Every node that was considered.
        outside: Nodes that were ablated throughout.
        found: The circuits, the smallest first.
        complete: Whether the search came to its end, rather than to its limit.
        share_of_all: What all nodes together keep.
    """

    nodes: tuple[str, ...]
    outside: int
    found: tuple[MinimalCircuit, ...]
    complete: bool
    share_of_all: Share

    @property
    def in_all(self) -> tuple[str, ...]:
        """Nodes that every circuit found has; where the search is complete, none replaces them."""
        sets = [set(one.nodes) for one in self.found]
        return tuple(name for name in self.nodes if sets and all(name in one for one in sets))

    def circuits(self) -> tuple[Circuit, ...]:
        """Return them as circuits, with the fingerprints of the prompts they were found on."""
        return tuple(
            circuit_of(
                [node_named(name) for name in one.nodes],
                name=f"minimal circuit {number} of {len(self.found)}",
                fitted_on=self.about.fitted_on,
            )
            for number, one in enumerate(self.found, 1)
        )

    def scores(self) -> dict[str, float]:
        """Return the share of the circuits found that a node is in."""
        count = max(1, len(self.found))
        return {n: sum(n in one.nodes for one in self.found) / count for n in self.nodes}

    def lines(self) -> tuple[str, ...]:
        """Return the circuits, and whether there may be more."""
        ending = "and no other" if self.complete else "and perhaps others: the search was cut off"
        first = f"{len(self.found)} minimal circuits, {ending}"
        return (first, *(f"  {', '.join(one.nodes)}: {one.share}" for one in self.found))

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw which node is in which circuit."""
        names = [name for name in self.nodes if any(name in one.nodes for one in self.found)]
        figure, axes = new_axes(2.6 + 0.45 * max(len(self.found), 3), 1.3 + 0.24 * len(names))
        inside = np.array([[name in one.nodes for one in self.found] for name in names])
        rows, columns = np.nonzero(inside.reshape(len(names), len(self.found)))
        axes.scatter(columns, rows, s=60, color=KEPT, marker="s")
        axes.set_yticks(range(len(names)), names, fontsize=7)
        shares = [one.share.estimate or 0.0 for one in self.found]
        axes.set_xticks(range(len(shares)), [f"{share:.2f}" for share in shares], fontsize=7)
        axes.set_xlim(-0.6, max(len(shares), 1) - 0.4)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel("share of behaviour each circuit keeps", fontsize=8)
        axes.set_title(self.lines()[0], fontsize=8, loc="left")
        return write_figure(figure, path, self.lines()[0])


@torch.no_grad()
def minimal_circuits(
    model: HookedMamba,
    prompts: Looked,
    nodes: str | Circuit | Iterable[str | Circuit] | Scored,
    *,
    tolerance: float = 0.05,
    count: int = 8,
    searches: int = 64,
    outside: Literal["ablate", "keep"] = "ablate",
    intervention: Intervention | None = None,
    metric: Metric | str = logit_difference,
    progress: bool = True,
    seed: int = 0,
) -> MinimalCircuits:
    """Find circuits of which no node can go, and others that avoid each of their nodes.

    One circuit is found by leaving out nodes one by one; then, for each of its nodes, another one
    is looked for without that node, and so on. Redundant parts, of which a single pruning keeps one
    and calls the others unneeded, come out as several circuits.

    Args:
        model: The model.
        prompts: The discovery half is taken.
        nodes: As for `greedy_prune`.
        tolerance: How far from the share of all nodes is still the same.
        count: Largest number of circuits.
        searches: Largest number of prunings; each costs up to n * n / 2 runs, those of sets that
            were met before being free.
        outside: As for `greedy_prune`.
        intervention: `ResampleAblation()` by default.
        metric: A metric, or its name.
        progress: Show a bar on stderr, where that is a terminal.
        seed: For the intervals.

    Returns:
        The circuits. Where more nodes never keep less, a complete search has all of them.

    Raises:
        DiscoveryError: Limits below 1, or nodes that overlap.
        MetricError: Nothing is lost with every node out.

    Sources: Reiter 1987 (trees of hitting sets); Wang et al. 2022, section 4 (backups).
    """
    if count < 1 or searches < 1:
        raise DiscoveryError(
            "a search finds at least one circuit", given=f"count={count}, searches={searches}"
        )
    bench = bench_of(
        model, prompts, nodes_of(model, nodes),
        ablation=intervention, metric=metric, outside=outside, progress=progress,
    )  # fmt: skip
    found, complete = _search(bench, tolerance, count, searches)
    values = bench.kept([*found, bench.nodes])
    shares = [bench.share(v, key=f"circuit {i}", seed=seed) for i, v in enumerate(values)]
    circuits = [
        MinimalCircuit(tuple(node.name for node in sorted(one)), share)
        for one, share in zip(found, shares, strict=False)
    ]
    core = about(
        "minimal_circuits", model, bench.pairs, metric=bench.metric.name,
        intervention=bench.ablation.name, tolerance=tolerance, count=count, searches=searches,
        outside=outside, seed=seed,
    )  # fmt: skip
    return MinimalCircuits(
        about=core,
        nodes=tuple(node.name for node in bench.nodes),
        outside=len(bench.outside),
        found=tuple(sorted(circuits, key=lambda one: (len(one.nodes), one.nodes))),
        complete=complete,
        share_of_all=shares[-1],
    )


def _search(
    bench: Bench, tolerance: float, count: int, searches: int
) -> tuple[list[frozenset[Node]], bool]:
    goal = bench.shares(bench.kept([bench.nodes]))[0]
    everything = frozenset(bench.nodes)
    found: list[frozenset[Node]] = []
    waiting: deque[frozenset[Node]] = deque([frozenset()])
    met = {frozenset[Node]()}
    while waiting and searches:
        avoided = waiting.popleft()
        known = [one for one in found if not one & avoided]
        if not known:
            searches -= 1
            circuit = _pruned(bench, everything - avoided, goal, tolerance)
            if circuit is None:
                continue
            found.append(circuit)
            if len(found) == count:
                break
            known = [circuit]
        for node in sorted(known[0]):
            further = avoided | {node}
            if further not in met:
                met.add(further)
                waiting.append(further)
    return found, not waiting and len(found) < count


def _pruned(
    bench: Bench, left: frozenset[Node], goal: float, tolerance: float
) -> frozenset[Node] | None:
    """Return a circuit among some nodes of which none can go; None where they do not suffice."""
    (share,) = bench.shares(bench.kept([left]))
    if abs(share - goal) > tolerance:
        return None
    while left:
        order = sorted(left)
        shares = bench.shares(bench.kept([left - {node} for node in order]))
        far = [round(abs(share - goal), 6) for share in shares]
        best = min(range(len(order)), key=far.__getitem__)
        if far[best] > tolerance:
            break
        left = left - {order[best]}
    return left
