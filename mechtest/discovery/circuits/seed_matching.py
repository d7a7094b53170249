"""Which node of one training seed does in it what another node does in another seed?

Seeds put the same work into other layers and other channels, so that nodes are matched by what
they do, or by how they arrange the prompts, and never by their index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.circuits.measuring import Bench, Looked, restored
from mechtest.discovery.circuits.nodes import Node, circuits_of, nodes_of, scores_of
from mechtest.discovery.circuits.pictures import heat_map, new_axes
from mechtest.discovery.figures import write_figure
from mechtest.discovery.looking import SMALLEST_GAP, discovery_half, looking_runner
from mechtest.discovery.record import DiscoveryRecord, about
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import DiscoveryError, MetricError
from mechtest.interventions import (
    Circuit,
    Intervention,
    ResampleAblation,
    collect_activations,
)
from mechtest.interventions.plan import channel_mask
from mechtest.models import HookedMamba, ModelSuite
from mechtest.sites import Site
from mechtest.tasks import EncodedPairs, Metric, logit_difference, metric_by_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["MatchedNode", "SeedMatches", "match_across_seeds"]

Seeds = ModelSuite | Mapping[int, HookedMamba] | Iterable[tuple[int, HookedMamba]]
By = Literal["effect", "activations"]


@part_of_records
@dataclass(frozen=True)
class MatchedNode:
    """A node of the first seed and its match in another one.

    Attributes:
        node: Of the first seed.
        seed: The other seed.
        match: Its node there; empty where none is alike enough.
        similarity: From 0 to 1; of the best node there, where none matched.
        effect: Share of the behaviour the first seed loses without `node`.
        matched_effect: That the other loses without `match`; None without one.
    """

    node: str
    seed: int
    match: str
    similarity: float
    effect: float
    matched_effect: float | None

    @property
    def same_place(self) -> bool:
        """Whether the match has the same name."""
        return self.node == self.match


@dataclass(frozen=True, eq=False, repr=False)
class SeedMatches(DiscoveryRecord):
    """What a finder found in each seed, matched to the first one's.

    Attributes:
        seeds: In the order given.
        nodes: What was found in each.
        effects: Share of the behaviour that each node's ablation loses, a tuple a seed.
        matches: Every node of the first seed in every other seed.
        by: What nodes were matched by.
        at_least: The smallest similarity of a match.
        chance: Mean similarity of all pairs of nodes of different seeds.
    """

    seeds: tuple[int, ...]
    nodes: tuple[tuple[str, ...], ...]
    effects: tuple[tuple[float, ...], ...]
    matches: tuple[MatchedNode, ...]
    by: str
    at_least: float
    chance: float

    @property
    def in_every_seed(self) -> tuple[str, ...]:
        """Nodes of the first seed that have a match in all others."""
        return tuple(
            name
            for name in self.nodes[0]
            if all(one.match for one in self.matches if one.node == name)
        )

    @property
    def same_place_share(self) -> float | None:
        """Of the matches, the share that stands where it does in the first seed; None of none."""
        found = [one for one in self.matches if one.match]
        return sum(one.same_place for one in found) / len(found) if found else None

    def scores(self) -> Mapping[str, float]:
        """Return the smallest similarity of each of the first seed's nodes over the seeds."""
        return {
            name: min([one.similarity for one in self.matches if one.node == name], default=0.0)
            for name in self.nodes[0]
        }

    def lines(self) -> tuple[str, ...]:
        """Return every node's matches."""
        first = f"{len(self.in_every_seed)} of {len(self.nodes[0])} nodes of seed {self.seeds[0]}"
        same = self.same_place_share
        where = "" if same is None else f"; {same:.0%} of the matches are at the same place"
        found = [f"{first} have a match in every seed, by {self.by}{where}"]
        for one in self.matches:
            match = one.match or "no match"
            found.append(f"  {one.node} -> seed {one.seed}: {match} ({one.similarity:.2f})")
        found.append(f"  similarity of any two nodes: {self.chance:.2f} on average")
        return tuple(found)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the similarity of each match, with the name of the node matched."""
        others = self.seeds[1:]
        cells = {(one.node, one.seed): one for one in self.matches}
        values = np.array([[cells[n, s].similarity for s in others] for n in self.nodes[0]])
        figure, axes = new_axes(3.4 + 1.7 * len(others), 1.5 + 0.4 * len(self.nodes[0]))
        columns = [f"seed {seed}" for seed in others]
        heat_map(axes, values, self.nodes[0], columns, f"similarity by {self.by}", low=0, high=1)
        for text in list(axes.texts):
            text.remove()
        for row, name in enumerate(self.nodes[0]):
            for column, seed in enumerate(others):
                one = cells[name, seed]
                label = one.match.replace("blocks.", "L", 1) or "no match"
                axes.text(
                    column, row, f"{label}\n{one.similarity:.2f}", ha="center", va="center",
                    fontsize=6.5, color="white" if one.similarity > 0.75 else "#333333",
                )  # fmt: skip
        axes.set_ylabel(f"nodes of seed {self.seeds[0]}", fontsize=8)
        axes.set_title(self.lines()[0], fontsize=8, loc="left", wrap=True)
        return write_figure(figure, path, self.lines()[0])


@torch.no_grad()
def match_across_seeds(
    models: Seeds,
    finder: Callable[[HookedMamba, Any], Any],
    prompts: Looked,
    *,
    count: int = 6,
    by: By = "effect",
    at_least: float = 0.5,
    least_effect: float = 0.05,
    intervention: Intervention | None = None,
    metric: Metric | str = logit_difference,
    progress: bool = True,
) -> SeedMatches:
    """Run one finder in every seed, and match what it finds by what the nodes do.

    By effect: a node's profile is what ablating and what restoring it moves of each prompt, in
    shares of that seed's behaviour, and two profiles a and b are 1 - |a - b| / (|a| + |b|) alike.
    By activations: linear CKA of the nodes' activations on the same prompts. Matches are one to
    one, of the largest sum of similarities (Hungarian method).

    Args:
        models: A suite (its last checkpoints), or pairs of a seed and its model; one is held at a
            time where they come one at a time.
        finder: Called with a model and the discovery prompts; returns a ranking (`{site: score}` or
            a record with `scores()`), or a circuit whose sites are the nodes.
        prompts: The discovery half is taken, the same for all seeds.
        count: The best so many nodes of a ranking.
        by: `effect` or `activations`.
        at_least: The smallest similarity that is a match.
        least_effect: A node whose mean effect is below this does nothing, and matches nothing by
            effect.
        intervention: `ResampleAblation()` by default.
        metric: A metric, or its name.
        progress: Show bars on stderr, where that is a terminal.

    Returns:
        Matches to the first seed. Alike effects are a like role, not the same mechanism.

    Raises:
        DiscoveryError: Fewer than two seeds, a finder that finds nothing, or another `by`.
        MetricError: A seed without the behaviour; names it.

    Sources: Tigges et al. 2024 (roles and not indices over training); Kornblith et al. 2019 (CKA);
        Kuhn 1955 (assignment).
    """
    if by not in ("effect", "activations"):
        raise DiscoveryError(
            f"nodes are not matched by {by!r}", given=by, expected="'effect' or 'activations'"
        )
    read = metric_by_name(metric) if isinstance(metric, str) else metric
    found: list[_Found] = []
    core = None
    several = models.load_all() if isinstance(models, ModelSuite) else _items(models)
    for seed, model in several:
        runner = looking_runner(model, prompts)
        bench = Bench(runner, (), (), intervention or ResampleAblation(), read, progress)
        gap = bench.mean(bench.clean - bench.corrupted)
        if not abs(gap) > SMALLEST_GAP:
            raise MetricError(
                f"seed {seed} does not tell clean from corrupted prompts",
                given=f"{read.name} differs by {gap:.3g} {read.unit}",
                expected="seeds that do the task",
            )
        half = prompts if isinstance(prompts, EncodedPairs) else discovery_half(prompts)
        nodes = _nodes(model, finder(model, half), count, seed)
        found.append(_found(bench, seed, nodes, gap, by))
        if core is None:
            core = about(
                "match_across_seeds", model, bench.pairs, metric=read.name, by=by, count=count,
                finder=getattr(finder, "__name__", type(finder).__name__), at_least=at_least,
                least_effect=least_effect,
            )  # fmt: skip
    if core is None or len(found) < 2:
        raise DiscoveryError("a match needs two seeds", given=f"{len(found)} seeds")
    tables = {
        (i, j): _similarity(found[i], found[j], least_effect, by)
        for i in range(len(found))
        for j in range(i + 1, len(found))
    }
    matches: list[MatchedNode] = []
    for j, other in enumerate(found[1:], 1):
        matches += _matched(found[0], other, tables[0, j], at_least)
    return SeedMatches(
        about=core,
        seeds=tuple(one.seed for one in found),
        nodes=tuple(tuple(node.name for node in one.nodes) for one in found),
        effects=tuple(tuple(one.effects) for one in found),
        matches=tuple(matches),
        by=by,
        at_least=at_least,
        chance=float(np.mean(np.concatenate([table.ravel() for table in tables.values()]))),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """What one seed is matched by.

    Attributes:
        seed: Training seed.
        nodes: What was found.
        effects: Share lost without each.
        profiles: What they are compared by: effects "node prompt-twice", or the centred Gram
            matrix of each node's activations, "node prompt*prompt".
    """

    seed: int
    nodes: tuple[Node, ...]
    effects: list[float]
    profiles: Float[np.ndarray, "node entry"]


def _items(models: Any) -> Iterable[tuple[int, HookedMamba]]:
    return models.items() if isinstance(models, Mapping) else models


def _nodes(model: HookedMamba, found: Any, count: int, seed: int) -> tuple[Node, ...]:
    if isinstance(found, Circuit):
        return nodes_of(model, found)
    scores = scores_of(model, found)
    best = sorted(scores, key=lambda node: (-scores[node], node))[:count]
    if not best:
        raise DiscoveryError(f"the finder found nothing in seed {seed}", given="an empty ranking")
    return tuple(best)


def _found(bench: Bench, seed: int, nodes: tuple[Node, ...], gap: float, by: By) -> _Found:
    each = [circuits_of([node]) for node in nodes]
    ablated = (bench.clean - bench.edited(each, bench.ablation)) / gap
    effects = [bench.mean(row) for row in ablated]
    if by == "effect":
        back = (restored(bench, each) - bench.corrupted) / gap
        return _Found(seed, nodes, effects, np.concatenate([ablated, back], axis=1))
    return _Found(seed, nodes, effects, np.stack([_gram(bench, node) for node in nodes]))


def _gram(bench: Bench, node: Node) -> Float[np.ndarray, " entry"]:
    """Return the centred products of every two prompts' activations, hooks side by side."""
    total = np.zeros((len(bench.pairs), len(bench.pairs)))
    for edit in bench.runner.planner.plan(Circuit(node.site)):
        counts = set(edit.known_spots.mask.sum(1).tolist())
        if len(counts) > 1:
            raise DiscoveryError(
                f"{node.name} has more positions on some prompts than on others",
                given=f"{min(counts)} to {max(counts)} positions",
                expected="as many on every prompt, for activations to be compared",
                next_step="match by='effect', or name single positions",
            )
    for name, rows in collect_activations(bench.runner, Circuit(node.site)).items():
        if node.channels:
            rows = rows * channel_mask(Site.parse(name), node.channels, rows.shape).to(rows)
        flat = rows.reshape(len(bench.pairs), -1).double().cpu().numpy()
        flat = flat - flat.mean(axis=0)
        total += flat @ flat.T
    return total.ravel()


def _similarity(
    one: _Found, other: _Found, least: float, by: By
) -> Float[np.ndarray, "node other"]:
    if by == "activations":
        sizes = [np.linalg.norm(each.profiles, axis=1) for each in (one, other)]
        size = np.maximum(np.outer(*sizes), 1e-300)
        return np.asarray(np.clip(one.profiles @ other.profiles.T / size, 0.0, 1.0))
    apart = np.linalg.norm(one.profiles[:, None] - other.profiles[None], axis=2)
    sizes = [np.linalg.norm(each.profiles, axis=1) for each in (one, other)]
    size = np.maximum(sizes[0][:, None] + sizes[1][None], 1e-300)
    active = [np.abs(each.profiles).mean(axis=1) >= least for each in (one, other)]
    return np.where(np.outer(*active), 1.0 - apart / size, 0.0)


def _matched(
    one: _Found, other: _Found, table: Float[np.ndarray, "node other"], at_least: float
) -> list[MatchedNode]:
    from scipy.optimize import linear_sum_assignment

    rows, columns = linear_sum_assignment(-table)
    partner = dict(zip(rows.tolist(), columns.tolist(), strict=True))
    found = []
    for row, node in enumerate(one.nodes):
        column = partner.get(row)
        alike = 0.0 if column is None else float(table[row, column])
        if column is None or alike < at_least:
            nearest = float(table[row].max())
            found.append(MatchedNode(node.name, other.seed, "", nearest, one.effects[row], None))
            continue
        match, effect = other.nodes[column].name, other.effects[column]
        found.append(MatchedNode(node.name, other.seed, match, alike, one.effects[row], effect))
    return found
