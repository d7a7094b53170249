"""How much of the behaviour do the best k nodes of a ranking keep, for every k?

A ranking that finds the circuit early has a curve that rises early. Beside it stand rankings by
chance: in a small model, any half of the nodes keeps something.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.circuits.measuring import (
    Bench,
    Looked,
    Share,
    bench_of,
    share_over_templates,
)
from mechtest.discovery.circuits.nodes import (
    Scored,
    circuit_of,
    node_named,
    rest_of_universe,
    scores_of,
)
from mechtest.discovery.circuits.pictures import GREY, KEPT, new_axes
from mechtest.discovery.figures import write_figure
from mechtest.discovery.record import DiscoveryRecord, about, read_only
from mechtest.errors import DiscoveryError
from mechtest.interventions import Circuit, Intervention
from mechtest.models import HookedMamba
from mechtest.stats import keyed_generator
from mechtest.tasks import Metric, logit_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MIB_SIZES", "FaithfulnessCurve", "faithfulness_curve"]

MIB_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Shares of the nodes that are kept (MIB, section 3.1)."""


@dataclass(frozen=True, eq=False, repr=False)
class FaithfulnessCurve(DiscoveryRecord):
    """Faithfulness of the best k nodes, for several k.

    Attributes:
        nodes: All nodes, the best first.
        ranked: How many of them the ranking spoke of; the others follow by name.
        sizes: k of each point, from 0 to all.
        shares: Faithfulness at each point.
        cpr: Area under the curve over the share of nodes kept (circuit performance ratio): more is
            better; it can be above 1.
        cmd: Area between the curve and 1 (circuit-model distance): less is better. Its place over
            templates is not known in closed form, so it has no interval.
        random: Faithfulness of rankings by chance, "ranking point".
        random_cpr: Their areas, one a ranking.
        random_cmd: Their distances.
    """

    nodes: tuple[str, ...]
    ranked: int
    sizes: tuple[int, ...]
    shares: tuple[Share, ...]
    cpr: Share
    cmd: float
    random: Float[np.ndarray, "ranking point"]
    random_cpr: tuple[float, ...]
    random_cmd: tuple[float, ...]

    @property
    def p(self) -> float | None:
        """Share of rankings, this one among them, whose area is at least as large."""
        if not self.random_cpr or self.cpr.estimate is None:
            return None
        at_least = sum(one >= self.cpr.estimate for one in self.random_cpr)
        return (1 + at_least) / (1 + len(self.random_cpr))

    def scores(self) -> Mapping[str, float]:
        """Return the ranking as scores from 1 down to 0."""
        last = max(1, len(self.nodes) - 1)
        return {name: 1.0 - place / last for place, name in enumerate(self.nodes)}

    def smallest(self, share: float = 0.9) -> int | None:
        """Return the smallest k of the curve from which on it stays at `share` or above."""
        good = [(one.estimate or 0.0) >= share for one in self.shares]
        stays = [k for at, k in enumerate(self.sizes) if all(good[at:])]
        return stays[0] if stays else None

    def circuit(self, count: int, name: str | None = None) -> Circuit:
        """Return the best `count` nodes, with the fingerprints of the prompts looked at.

        Raises:
            DiscoveryError: No node, or more than there are.
        """
        if not 0 < count <= len(self.nodes):
            raise DiscoveryError(
                "so many nodes were not ranked",
                given=f"count={count}",
                expected=f"1 to {len(self.nodes)}",
            )
        kept = [node_named(one) for one in self.nodes[:count]]
        called = name or f"best {count} nodes of a ranking"
        return circuit_of(kept, name=called, fitted_on=self.about.fitted_on)

    def lines(self) -> tuple[str, ...]:
        """Return the areas, those by chance, and the curve."""
        found = [f"area under the curve (CPR) {self.cpr}, distance from 1 (CMD) {self.cmd:.3g}"]
        if self.random_cpr:
            cpr, cmd = np.mean(self.random_cpr), np.mean(self.random_cmd)
            found.append(f"rankings by chance: CPR {cpr:.3g}, CMD {cmd:.3g}; p {self.p:.2g}")
        found += [f"  {k} nodes: {s}" for k, s in zip(self.sizes, self.shares, strict=True)]
        return tuple(found)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the curve over the share of nodes kept, and the band of rankings by chance."""
        figure, axes = new_axes(5.0, 3.4)
        x = np.array(self.sizes) / len(self.nodes)
        if len(self.random):
            low, high = np.quantile(self.random, [0.05, 0.95], axis=0)
            axes.fill_between(x, low, high, color=GREY, alpha=0.25, lw=0)
            middle = np.mean(self.random, axis=0)
            label = "by chance (mean, 5-95 %)"
            axes.plot(x, middle, color=GREY, lw=1, ls="--", label=label)
        shares = [one.estimate or 0.0 for one in self.shares]
        axes.plot(x, shares, color=KEPT, marker="o", ms=3.5, lw=1.5, label="best k of the ranking")
        ends = [(at, s.low, s.high) for at, s in zip(x, self.shares, strict=True)]
        for at, bottom, top in ends:
            if bottom is not None and top is not None:
                axes.plot([at, at], [bottom, top], color=KEPT, lw=1, alpha=0.6)
        axes.axhline(1.0, color="black", lw=0.8, ls=":")
        axes.set_xlabel(f"share of {len(self.nodes)} nodes kept", fontsize=8)
        axes.set_ylabel("faithfulness (share of behaviour)", fontsize=8)
        title = f"CPR {self.cpr}, CMD {self.cmd:.3g}"
        axes.set_title(title, fontsize=8, loc="left")
        axes.legend(fontsize=7, frameon=False, loc="lower right")
        return write_figure(figure, path, title)


@torch.no_grad()
def faithfulness_curve(
    model: HookedMamba,
    prompts: Looked,
    ranking: Mapping[str, float] | Scored | Sequence[str],
    *,
    sizes: Sequence[int | float] | None = None,
    rankings: int = 20,
    ablation: Intervention | None = None,
    metric: Metric | str = logit_difference,
    progress: bool = True,
    seed: int = 0,
) -> FaithfulnessCurve:
    """Measure faithfulness f(k) of the best k nodes of a ranking, all others being ablated.

    f(k) = (m(C_k) - m(empty)) / (m(clean) - m(empty)), means over templates. The nodes are all
    layers' sites of the ranked kinds at the ranked positions (channel by channel, where channels
    are ranked); those the ranking does not speak of come last, by name. By their score, not its
    size: negative scores come after zero.

    Args:
        model: The model.
        prompts: The discovery half is taken.
        ranking: Score by node, larger mattering more; a record with `scores()`; or names, the best
            first.
        sizes: Numbers of nodes (whole) or shares of them (from 0 to 1, no whole numbers); by
            default every k where there are at most 24 nodes, else those of MIB. 0 and all are
            added.
        rankings: Rankings by chance, of all nodes; sizes times these is what it costs.
        ablation: `ResampleAblation()` by default.
        metric: A metric, or its name.
        progress: Show a bar on stderr, where that is a terminal.
        seed: For the rankings by chance.

    Returns:
        The curve. On prompts that the ranking was made of it flatters the ranking: claims are
        tested on the other half.

    Raises:
        DiscoveryError: Sizes that do not fit, a score that is no number, nodes that overlap.
        ClaimInvalid: Nodes of the residual stream, which have no "all others".
        MetricError: Nothing is lost with every node out.

    Sources: Mueller et al. 2025 (MIB), section 3.1: CPR and CMD; Hanna et al. 2024.
    """
    scores = scores_of(model, ranking)
    first = sorted(scores, key=lambda node: (-scores[node], node))
    order = [*first, *sorted(rest_of_universe(model, first))]
    bench = bench_of(model, prompts, order, ablation=ablation, metric=metric, progress=progress)
    points = _points(sizes, len(order))
    orders = [order]
    for number in range(rankings):
        generator = keyed_generator(seed, "faithfulness_curve", "ranking", number)
        orders.append([order[index] for index in generator.permutation(len(order))])
    values = bench.kept([one[:k] for one in orders for k in points])
    tables = values.reshape(len(orders), len(points), -1)
    x = np.array(points) / len(order)
    weights = _trapezoid_weights(x)
    curves = np.array([bench.shares(table) for table in tables])
    shares = [
        bench.share(row, key=f"k={k}", seed=seed) for k, row in zip(points, tables[0], strict=True)
    ]
    core = about(
        "faithfulness_curve", model, bench.pairs, metric=bench.metric.name,
        intervention=bench.ablation.name, rankings=rankings, seed=seed, sizes=list(points),
    )  # fmt: skip
    distances = [float(np.abs(1.0 - curve) @ weights) for curve in curves]
    return FaithfulnessCurve(
        about=core,
        nodes=tuple(node.name for node in order),
        ranked=len(first),
        sizes=points,
        shares=tuple(shares),
        cpr=_area(bench, tables[0], weights, seed),
        cmd=distances[0],
        random=read_only(curves[1:].reshape(rankings, len(points))),
        random_cpr=tuple(float(curve @ weights) for curve in curves[1:]),
        random_cmd=tuple(distances[1:]),
    )


def _points(sizes: Sequence[int | float] | None, count: int) -> tuple[int, ...]:
    if sizes is None:
        sizes = tuple(range(count + 1)) if count <= 24 else MIB_SIZES
    found = {0, count}
    for size in sizes:
        if isinstance(size, bool) or not 0 <= size <= (1 if isinstance(size, float) else count):
            raise DiscoveryError(
                "a size is a number of nodes, or a share of them",
                given=f"{size!r} of {count} nodes",
                expected=f"whole numbers up to {count}, or shares such as 0.1",
            )
        found.add(max(1, round(size * count)) if isinstance(size, float) and size else int(size))
    return tuple(sorted(found))


def _trapezoid_weights(x: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    """Return what each point counts in the area under a curve through them."""
    steps = np.diff(x)
    return np.asarray(np.concatenate([steps, [0.0]]) / 2 + np.concatenate([[0.0], steps]) / 2)


def _area(
    bench: Bench,
    table: Float[np.ndarray, "point prompt"],
    weights: Float[np.ndarray, " point"],
    seed: int,
) -> Share:
    # An area is a sum of shares with one denominator, so it is such a share itself.
    moved = weights @ (table - bench.empty)
    gap = bench.clean - bench.empty
    return share_over_templates(moved, gap, bench.labels, key="cpr", seed=seed)
