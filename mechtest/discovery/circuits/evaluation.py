"""Is a circuit faithful, is it complete, and is every node of it needed?

Faithful: alone it does what the model does. Complete: with any part K out, circuit and model do
alike; a circuit without a backup does not. Minimal: for every node there is a K without which the
node is what makes the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from mechtest.discovery.circuits.measuring import Bench, Looked, Share, bench_of
from mechtest.discovery.circuits.nodes import Node, Scored, nodes_of
from mechtest.discovery.circuits.pictures import ABLATED, KEPT, new_axes
from mechtest.discovery.figures import write_figure
from mechtest.discovery.record import DiscoveryRecord, about
from mechtest.discovery.record_values import part_of_records
from mechtest.interventions import Circuit, Intervention
from mechtest.models import HookedMamba
from mechtest.stats import keyed_generator
from mechtest.tasks import Metric, logit_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CircuitEvaluation", "KnockedOut", "NodeWorth", "evaluate_circuit"]


@part_of_records
@dataclass(frozen=True)
class KnockedOut:
    """What circuit and model do without the same part.

    Attributes:
        nodes: K, which is out of both.
        found_by: `one node`, `random` or `greedy`.
        circuit: Share of the behaviour that the circuit without K keeps.
        model: Share that the whole model without K keeps.
    """

    nodes: tuple[str, ...]
    found_by: str
    circuit: float
    model: float

    @property
    def difference(self) -> float:
        """Model minus circuit: above 0 where the model has something that the circuit lacks."""
        return self.model - self.circuit


@part_of_records
@dataclass(frozen=True)
class NodeWorth:
    """How much one node makes at most.

    Attributes:
        node: Its name.
        share: Share of the behaviour the circuit loses with it, where it loses most.
        without: K, the other nodes that are out then.
    """

    node: str
    share: float
    without: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class CircuitEvaluation(DiscoveryRecord):
    """Faithfulness, completeness and minimality of one circuit.

    Attributes:
        nodes: Of the circuit.
        outside: Nodes that are no part of it: all else of their kinds.
        faithfulness: Share of the behaviour that it keeps alone.
        knocked_out: Every K that was tried, the largest difference first.
        worth: Every node, the least needed first.
    """

    nodes: tuple[str, ...]
    outside: int
    faithfulness: Share
    knocked_out: tuple[KnockedOut, ...]
    worth: tuple[NodeWorth, ...]

    @property
    def incompleteness(self) -> float:
        """Largest difference of circuit and model that any K tried has; 0 is complete."""
        return max((abs(one.difference) for one in self.knocked_out), default=0.0)

    @property
    def least_worth(self) -> float:
        """What the least needed node makes at most."""
        return self.worth[0].share if self.worth else 0.0

    def scores(self) -> Mapping[str, float]:
        """Return what each node makes at most."""
        return {one.node: one.share for one in self.worth}

    def lines(self) -> tuple[str, ...]:
        """Return the three criteria, and what speaks most against each."""
        worst = self.knocked_out[0] if self.knocked_out else None
        found = [
            f"faithfulness {self.faithfulness}",
            f"incompleteness {self.incompleteness:.3g}, over {len(self.knocked_out)} sets",
        ]
        if worst is not None:
            out = ", ".join(worst.nodes)
            found.append(f"  without {out}: circuit {worst.circuit:.3g}, model {worst.model:.3g}")
        for one in self.worth:
            beside = f" (with {', '.join(one.without)} out too)" if one.without else ""
            found.append(f"  {one.node} makes {one.share:.3g}{beside}")
        return tuple(found)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw circuit against model for every K: a complete circuit lies on the diagonal."""
        figure, axes = new_axes(4.2, 3.9)
        x = [one.model for one in self.knocked_out]
        y = [one.circuit for one in self.knocked_out]
        low = min([0.0, *x, *y]) - 0.05
        high = max([1.0, *x, *y]) + 0.05
        axes.plot([low, high], [low, high], color="black", lw=0.8, ls=":")
        styles = {"one node": ("o", KEPT), "random": ("x", "#555555"), "greedy": ("s", ABLATED)}
        for kind, (marker, colour) in styles.items():
            these = [i for i, one in enumerate(self.knocked_out) if one.found_by == kind]
            if these:
                axes.scatter(
                    [x[i] for i in these], [y[i] for i in these],
                    marker=marker, s=26, color=colour, label=f"K: {kind}", alpha=0.8,
                )  # fmt: skip
        axes.set_xlabel("share kept by the model without K", fontsize=8)
        axes.set_ylabel("share kept by the circuit without K", fontsize=8)
        title = "; ".join(self.lines()[:2])
        axes.set_title(title, fontsize=8, loc="left")
        axes.legend(fontsize=7, frameon=False, loc="upper left")
        return write_figure(figure, path, title)


@torch.no_grad()
def evaluate_circuit(
    model: HookedMamba,
    prompts: Looked,
    nodes: str | Circuit | Iterable[str | Circuit] | Scored,
    *,
    samples: int = 16,
    greedy: int = 5,
    outside: Literal["ablate", "keep"] = "ablate",
    intervention: Intervention | None = None,
    metric: Metric | str = logit_difference,
    progress: bool = True,
    seed: int = 0,
) -> CircuitEvaluation:
    """Measure the three criteria of a circuit: faithfulness, completeness and minimality.

    Args:
        model: The model.
        prompts: The discovery half is taken.
        nodes: The circuit: names, circuits or a ranking whose keys are its nodes.
        samples: Random K, each node in it with probability 1/2.
        greedy: Steps of a search for the K of the largest difference, a node a step.
        outside: As for `greedy_prune`; with `keep` no circuit can be incomplete.
        intervention: `ResampleAblation()` by default.
        metric: A metric, or its name.
        progress: Show a bar on stderr, where that is a terminal.
        seed: For the random K.

    Returns:
        All are shares of the behaviour. A small incompleteness over the K that were tried is no
        proof that no other K tells the two apart.

    Raises:
        DiscoveryError: Nodes that overlap.
        MetricError: Nothing is lost with every node out.

    Sources: Wang et al. 2022, section 4 (the criteria, and greedy and random K).
    """
    bench = bench_of(
        model, prompts, nodes_of(model, nodes),
        ablation=intervention, metric=metric, outside=outside, progress=progress,
    )  # fmt: skip
    everything = frozenset(bench.nodes)
    tried = {frozenset({node}): "one node" for node in bench.nodes}
    for number in range(samples):
        generator = keyed_generator(seed, "evaluate_circuit", "random K", number)
        drawn = frozenset(n for n in bench.nodes if generator.random() < 0.5)
        if drawn:
            tried.setdefault(drawn, "random")
    for chosen in _greedy_sets(bench, greedy):
        tried.setdefault(chosen, "greedy")
    sets = list(tried)
    both = _both(bench, sets)
    rows = [
        KnockedOut(tuple(n.name for n in sorted(one)), tried[one], circuit, whole)
        for one, (circuit, whole) in zip(sets, both, strict=True)
    ]
    settings = {"samples": samples, "greedy": greedy, "outside": outside, "seed": seed}
    core = about(
        "evaluate_circuit", model, bench.pairs,
        metric=bench.metric.name, intervention=bench.ablation.name, **settings,
    )  # fmt: skip
    return CircuitEvaluation(
        about=core,
        nodes=tuple(node.name for node in bench.nodes),
        outside=len(bench.outside),
        faithfulness=bench.share(bench.kept([everything])[0], key="circuit", seed=seed),
        knocked_out=tuple(sorted(rows, key=lambda one: -abs(one.difference))),
        worth=_worths(bench, sets),
    )


def _both(bench: Bench, sets: Sequence[frozenset[Node]]) -> list[tuple[float, float]]:
    """Return what circuit and model keep without each K."""
    everything = frozenset(bench.nodes)
    circuit = bench.shares(bench.kept([everything - one for one in sets]))
    return list(zip(circuit, bench.shares(bench.without(sets)), strict=True))


def _greedy_sets(bench: Bench, steps: int) -> list[frozenset[Node]]:
    """Return sets that grow by the node after which circuit and model differ most."""
    found: list[frozenset[Node]] = []
    now = frozenset[Node]()
    for _ in range(min(steps, len(bench.nodes))):
        further = [now | {node} for node in sorted(frozenset(bench.nodes) - now)]
        apart = [round(abs(circuit - whole), 6) for circuit, whole in _both(bench, further)]
        now = further[int(np.argmax(apart))]
        found.append(now)
    return found


def _worths(bench: Bench, sets: Sequence[frozenset[Node]]) -> tuple[NodeWorth, ...]:
    everything = frozenset(bench.nodes)
    rows = []
    for node in bench.nodes:
        beside = {frozenset[Node](), everything - {node}, *(one - {node} for one in sets)}
        options = sorted(beside, key=lambda one: (len(one), sorted(one)))
        kept = bench.shares(bench.kept([everything - one for one in options]))
        less = bench.shares(bench.kept([everything - one - {node} for one in options]))
        apart = [round(abs(a - b), 6) for a, b in zip(kept, less, strict=True)]
        best = int(np.argmax(apart))
        names = tuple(other.name for other in sorted(options[best]))
        rows.append(NodeWorth(node.name, apart[best], names))
    return tuple(sorted(rows, key=lambda one: one.share))
