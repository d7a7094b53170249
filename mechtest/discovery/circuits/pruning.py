"""Which nodes can go, one after the other, until the behaviour would go too?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from mechtest.discovery.circuits.measuring import Bench, Looked, Share, bench_of
from mechtest.discovery.circuits.nodes import Node, Scored, circuit_of, node_named, nodes_of
from mechtest.discovery.circuits.pictures import GREY, KEPT, new_axes
from mechtest.discovery.figures import write_figure
from mechtest.discovery.record import DiscoveryRecord, about
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import DiscoveryError
from mechtest.interventions import Circuit, Intervention
from mechtest.models import HookedMamba
from mechtest.tasks import Metric, logit_difference, metric_by_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PruneRecord", "PruneStep", "acdc_prune", "greedy_prune", "pruned_from"]

Mode = Literal["ablate-one", "one-pass", "add-one"]
MODES = ("ablate-one", "one-pass", "add-one")


@part_of_records
@dataclass(frozen=True)
class PruneStep:
    """One node that was tried.

    Attributes:
        node: Its name.
        kept: Whether it stays in the circuit.
        loss: What the step moved: the change of the share of behaviour (greedy), or of the
            divergence in the metric's unit (threshold).
        share: Share of the behaviour with the nodes that were then left.
    """

    node: str
    kept: bool
    loss: float
    share: float


@dataclass(frozen=True, eq=False, repr=False)
class PruneRecord(DiscoveryRecord):
    """What a pruning kept, and in which order the rest went.

    Attributes:
        nodes: Every node that was considered.
        outside: Nodes that were ablated throughout: all else of their kinds.
        kept: The circuit.
        steps: Every decision, in the order it was taken.
        share: Share of the behaviour that the circuit alone keeps.
        share_of_all: That all nodes together keep.
    """

    nodes: tuple[str, ...]
    outside: int
    kept: tuple[str, ...]
    steps: tuple[PruneStep, ...]
    share: Share
    share_of_all: Share

    def scores(self) -> Mapping[str, float]:
        """Return a score by node: above 1 what is kept, below what went, later being more."""
        ranked: dict[str, float] = {}
        gone = [step for step in self.steps if not step.kept]
        for place, step in enumerate(gone):
            ranked[step.node] = (place + 1) / (len(gone) + 1)
        losses = {step.node: step.loss for step in self.steps if step.kept}
        far = max([abs(loss) for loss in losses.values()], default=1.0) or 1.0
        ranked |= {node: 1.0 + abs(losses.get(node, far)) / far for node in self.kept}
        return {node: ranked.get(node, 0.0) for node in self.nodes}

    def circuit(self, name: str | None = None) -> Circuit:
        """Return what was kept, with the fingerprints of the prompts it was found on.

        Raises:
            DiscoveryError: Nothing was kept.
        """
        kept = [node_named(one) for one in self.kept]
        called = name or f"{len(kept)} nodes by {self.about.tool}"
        return circuit_of(kept, name=called, fitted_on=self.about.fitted_on)

    def lines(self) -> tuple[str, ...]:
        """Return what was kept, and how much of the behaviour it is."""
        first = f"{len(self.kept)} of {len(self.nodes)} nodes keep {self.share} of the behaviour"
        rest = f"all nodes keep {self.share_of_all}; {self.outside} outside were ablated"
        return (first, *(f"  {name}" for name in self.kept), rest)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the share that is left after each decision."""
        shown = self.steps[-40:]
        figure, axes = new_axes(5.6, 1.2 + 0.19 * max(len(shown), 4))
        rows = np.arange(len(shown))
        colours = [KEPT if step.kept else GREY for step in shown]
        axes.barh(rows, [step.share for step in shown], color=colours, height=0.7)
        labels = [("kept  " if step.kept else "out  ") + step.node for step in shown]
        axes.set_yticks(rows, labels, fontsize=7)
        axes.invert_yaxis()
        axes.axvline(self.share_of_all.estimate or 0.0, color="black", lw=0.8, ls=":")
        axes.set_xlabel("share of behaviour with what is left after the step", fontsize=8)
        left_out = len(self.steps) - len(shown)
        more = f", the last {len(shown)} steps" if left_out else ""
        title = f"{self.about.tool}: {self.lines()[0]}{more}"
        axes.set_title(title, fontsize=8, loc="left")
        return write_figure(figure, path, title)


@torch.no_grad()
def greedy_prune(
    model: HookedMamba,
    prompts: Looked,
    nodes: str | Circuit | Iterable[str | Circuit] | Scored,
    *,
    mode: Mode = "ablate-one",
    keep: int | None = None,
    tolerance: float = 0.05,
    outside: Literal["ablate", "keep"] = "ablate",
    intervention: Intervention | None = None,
    metric: Metric | str = logit_difference,
    progress: bool = True,
    seed: int = 0,
) -> PruneRecord:
    """Leave out the node that is missed least, again and again.

    What is missed is how far the share of the behaviour goes from what all nodes keep, up or down:
    a circuit that overshoots is not what the model does.

    Args:
        model: The model.
        prompts: The discovery half is taken.
        nodes: Names (`blocks.*.state@last`, `blocks.0.state@last#3`), circuits, or a ranking.
        mode: `ablate-one` tries all that is left at every step (n * n / 2 runs); `one-pass` tries
            all once and removes in that order (2 n runs), and is misled by backups; `add-one`
            starts from nothing and puts in the node that brings back most.
        keep: Stop with so many nodes; None stops by `tolerance`.
        tolerance: How far from the share of all nodes is still the same, in shares of behaviour.
        outside: `ablate` all else of the nodes' kinds in all layers, or `keep` it.
        intervention: `ResampleAblation()` by default.
        metric: A metric, or its name.
        progress: Show a bar on stderr, where that is a terminal.
        seed: For the interval.

    Returns:
        What is kept. Where any of several nodes will do, one of them is kept, by order of names:
        see `minimal_circuits` for the others. No search that takes single steps is sure to find
        the smallest circuit.

    Raises:
        DiscoveryError: An unknown mode, a `keep` that is no number of these nodes, overlap.
        MetricError: Nothing is lost with every node out.

    Sources: Michel et al. 2019 (removing heads by score); Wang et al. 2022 (greedy sets).
    """
    chosen = nodes_of(model, nodes)
    if mode not in MODES:
        raise DiscoveryError(
            f"there is no mode {mode!r} of pruning", given=mode, expected=", ".join(MODES)
        )
    if keep is not None and not 0 < keep <= len(chosen):
        raise DiscoveryError(
            "so many nodes cannot be kept", given=f"keep={keep}", expected=f"1 to {len(chosen)}"
        )
    bench = bench_of(
        model, prompts, chosen,
        ablation=intervention, metric=metric, outside=outside, progress=progress,
    )  # fmt: skip
    search = {"ablate-one": _by_rounds, "one-pass": _in_one_pass, "add-one": _by_adding}[mode]
    kept, steps = search(bench, frozenset(chosen), keep, tolerance)
    settings = {"mode": mode, "keep": keep, "tolerance": tolerance, "outside": outside}
    return pruned_from(bench, "greedy_prune", kept, steps, seed, **settings)


def pruned_from(
    bench: Bench,
    tool: str,
    kept: Iterable[Node],
    steps: Iterable[PruneStep],
    seed: int,
    **settings: object,
) -> PruneRecord:
    """Return the record of a pruning."""
    left = frozenset(kept)
    kept = [node for node in bench.nodes if node in left]
    alone, everything = bench.kept([kept, bench.nodes])
    core = about(
        tool, bench.runner.model, bench.pairs,
        metric=bench.metric.name, intervention=bench.ablation.name, seed=seed, **settings,
    )  # fmt: skip
    return PruneRecord(
        about=core,
        nodes=tuple(node.name for node in bench.nodes),
        outside=len(bench.outside),
        kept=tuple(node.name for node in kept),
        steps=tuple(steps),
        share=bench.share(alone, key="circuit", seed=seed),
        share_of_all=bench.share(everything, key="all", seed=seed),
    )


def _far(bench: Bench, sets: list[frozenset[Node]], goal: float) -> list[tuple[float, float]]:
    """Return how far each set's share is from the goal, and the share; rounding is no distance."""
    return [(round(abs(share - goal), 6), share) for share in bench.shares(bench.kept(sets))]


def _by_rounds(
    bench: Bench, start: frozenset[Node], keep: int | None, tolerance: float
) -> tuple[frozenset[Node], list[PruneStep]]:
    goal = bench.shares(bench.kept([bench.nodes]))[0]
    left, steps = start, []
    while len(left) > (keep or 0):
        order = sorted(left)
        tried = _far(bench, [left - {node} for node in order], goal)
        best = min(range(len(order)), key=lambda index: tried[index][0])
        distance, share = tried[best]
        if keep is None and distance > tolerance:
            steps += _kept_steps(bench, left, order, [share for _, share in tried])
            return left, steps
        left = left - {order[best]}
        steps.append(PruneStep(order[best].name, kept=False, loss=distance, share=share))
    if left:
        order = sorted(left)
        tried = _far(bench, [left - {node} for node in order], goal)
        steps += _kept_steps(bench, left, order, [share for _, share in tried])
    return left, steps


def _kept_steps(
    bench: Bench, left: frozenset[Node], order: list[Node], without: list[float]
) -> list[PruneStep]:
    (now,) = bench.shares(bench.kept([left]))
    return [
        PruneStep(node.name, kept=True, loss=now - share, share=now)
        for node, share in zip(order, without, strict=True)
    ]


def _in_one_pass(
    bench: Bench, start: frozenset[Node], keep: int | None, tolerance: float
) -> tuple[frozenset[Node], list[PruneStep]]:
    goal = bench.shares(bench.kept([bench.nodes]))[0]
    names = sorted(start)
    single = _far(bench, [start - {node} for node in names], goal)
    order = [names[i] for i in sorted(range(len(names)), key=lambda i: single[i][0])]
    prefixes = [start - frozenset(order[: stop + 1]) for stop in range(len(order))]
    left, steps = start, []
    for node, (distance, share), after in zip(
        order, _far(bench, prefixes, goal), prefixes, strict=True
    ):
        if len(left) <= (keep or 0) or (keep is None and distance > tolerance):
            break
        left = after
        steps.append(PruneStep(node.name, kept=False, loss=distance, share=share))
    rest = sorted(left)
    if rest:
        tried = bench.shares(bench.kept([left - {node} for node in rest]))
        steps += _kept_steps(bench, left, rest, tried)
    return left, steps


def _by_adding(
    bench: Bench, start: frozenset[Node], keep: int | None, tolerance: float
) -> tuple[frozenset[Node], list[PruneStep]]:
    goal = bench.shares(bench.kept([bench.nodes]))[0]
    left: frozenset[Node] = frozenset()
    steps: list[PruneStep] = []
    now = 0.0
    while len(left) < (keep or len(start)):
        if keep is None and abs(now - goal) <= tolerance:
            break
        order = sorted(start - left)
        tried = _far(bench, [left | {node} for node in order], goal)
        best = min(range(len(order)), key=lambda index: tried[index][0])
        share = tried[best][1]
        left = left | {order[best]}
        steps.append(PruneStep(order[best].name, kept=True, loss=share - now, share=share))
        now = share
    return left, steps


@torch.no_grad()
def acdc_prune(
    model: HookedMamba,
    prompts: Looked,
    nodes: str | Circuit | Iterable[str | Circuit] | Scored,
    *,
    tau: float,
    metric: Metric | str = "kl_divergence",
    outside: Literal["ablate", "keep"] = "ablate",
    intervention: Intervention | None = None,
    progress: bool = True,
    seed: int = 0,
) -> PruneRecord:
    """Go from the last node to the first, and leave out each whose ablation costs less than tau.

    The nodes version of ACDC: layers from the last, positions from the last; what is once out stays
    out while the others are tried.

    Args:
        model: The model.
        prompts: The discovery half is taken.
        nodes: As for `greedy_prune`.
        tau: Largest cost of a node that goes, in the metric's unit: nats for `kl_divergence`.
        metric: What the cost is read by; the mean over templates of how far the run moves away from
            the clean one.
        outside: As for `greedy_prune`.
        intervention: `ResampleAblation()` by default.
        progress: Show a bar; one run a node, each after the other.
        seed: For the interval.

    Returns:
        What is kept. Greedy in one order: of two backups the later one goes first, and then the
        earlier one counts in full.

    Raises:
        DiscoveryError: A tau that is negative or no number; nodes that overlap.
        MetricError: Nothing is lost with every node out.

    Sources: Conmy et al. 2023, algorithm 1 (on edges there).
    """
    if not 0 <= tau < float("inf"):
        raise DiscoveryError("tau is a cost", given=f"tau={tau}", expected="a number from 0 on")
    read = metric_by_name(metric) if isinstance(metric, str) else metric
    bench = bench_of(
        model, prompts, nodes_of(model, nodes),
        ablation=intervention, metric=read, outside=outside, progress=progress,
    )  # fmt: skip
    left = frozenset(bench.nodes)
    steps: list[PruneStep] = []
    gap = bench.mean(bench.clean - bench.empty)
    cost = bench.mean(bench.clean - bench.kept([left])[0])
    for node in _from_the_last(bench):
        (after,) = bench.kept([left - {node}])
        then = bench.mean(bench.clean - after)
        stays = abs(then) - abs(cost) >= tau
        loss = abs(then) - abs(cost)
        if not stays:
            left, cost = left - {node}, then
        steps.append(PruneStep(node.name, kept=stays, loss=loss, share=1.0 - cost / gap))
    return pruned_from(
        bench, "acdc_prune", left, steps, seed,
        tau=tau, unit=getattr(read, "unit", ""), outside=outside,
    )  # fmt: skip


def _from_the_last(bench: Bench) -> list[Node]:
    """Return the nodes, later layers and positions first, as information flows backwards."""
    resolver = bench.runner.model.resolver
    hooks = {name: rank for rank, name in enumerate(resolver.static_names(fused=True))}

    def place(node: Node) -> tuple[float, ...]:
        edits = bench.runner.planner.plan(Circuit(node.site))
        columns = [float(np.mean(edit.positions())) for edit in edits if edit.spots is not None]
        rank = max(hooks.get(edit.name, 0) for edit in edits)
        layer = node.place.layer
        return (-1.0 if layer is None else layer, max(columns, default=0.0), rank)

    return sorted(sorted(bench.nodes), key=place, reverse=True)
