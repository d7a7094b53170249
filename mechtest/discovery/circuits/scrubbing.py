"""Does a node matter only by what the hypothesis says it stands for?

Every node gets the activations of another prompt that the hypothesis takes for the same, and
everything outside those of any prompt at all. Where the hypothesis is right, the model does not
notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from mechtest.discovery.circuits.hypotheses import (
    ANY,
    Classes,
    Key,
    classes_of,
    donors_of,
    written_keys,
)
from mechtest.discovery.circuits.measuring import (
    Bench,
    Looked,
    Share,
    bench_of,
    share_over_templates,
)
from mechtest.discovery.circuits.nodes import Node, circuit_of, circuits_of, node_named, nodes_of
from mechtest.discovery.circuits.pictures import GREY, KEPT, new_axes
from mechtest.discovery.figures import write_figure
from mechtest.discovery.record import DiscoveryRecord, about
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import DiscoveryError
from mechtest.interventions import Circuit, GivenRows, PatchFrom, read_activations
from mechtest.interventions.plan import channel_mask
from mechtest.interventions.sweep_labels import shortened
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import Metric, logit_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ScrubRecord", "ScrubbedNode", "scrub"]

MEMORY = 2 * 2**30
"""Bytes of activations that are held at once, by default."""


@part_of_records
@dataclass(frozen=True)
class ScrubbedNode:
    """One node of a hypothesis.

    Attributes:
        node: Its name.
        key: What it is said to tell prompts apart by.
        classes: Number of classes.
        alone: Prompts that no other prompt of their class and shape can stand in for; they keep
            their own activations, which tests nothing.
        share: Share of the behaviour that is kept when this node alone is resampled in its classes,
            and all else is left as it was.
    """

    node: str
    key: str
    classes: int
    alone: int
    share: Share


@dataclass(frozen=True, eq=False, repr=False)
class ScrubRecord(DiscoveryRecord):
    """How much of the behaviour a hypothesis accounts for.

    Attributes:
        nodes: Of the hypothesis.
        outside: Nodes that got the activations of any prompt.
        share: Share of the behaviour that is kept, of what resampling everything from any prompt
            destroys.
        samples: How many times every prompt was resampled.
        random_gap: What resampling everything destroys, in the metric's unit.
    """

    nodes: tuple[ScrubbedNode, ...]
    outside: tuple[str, ...]
    share: Share
    samples: int
    random_gap: float

    def scores(self) -> Mapping[str, float]:
        """Return how much each node loses inside its own classes: where the hypothesis is wrong."""
        return {one.node: 1.0 - (one.share.estimate or 0.0) for one in self.nodes}

    def circuit(self, name: str | None = None) -> Circuit:
        """Return the nodes of the hypothesis as a circuit.

        Raises:
            DiscoveryError: As `circuit_of`.
        """
        nodes = [node_named(one.node) for one in self.nodes]
        return circuit_of(nodes, name=name, fitted_on=self.about.fitted_on)

    def lines(self) -> tuple[str, ...]:
        """Return what is kept, by all and node by node, and which classes test nothing."""
        count = len(self.about.prompt_ids)
        found = [f"scrubbed, the model keeps {self.share} of the behaviour"]
        for one in self.nodes:
            found.append(f"  {one.node} by {one.key}: {one.share} alone, {one.classes} classes")
            if one.alone:
                found.append(f"    {one.alone} of {count} prompts are alone in their class")
        found.append(f"{len(self.outside)} nodes outside; {self.samples} samples a prompt")
        return tuple(found)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the share that is kept, by all and node by node."""
        rows = [("all together", self.share)]
        rows += [(f"{shortened(one.node, 36)}\nby {one.key}", one.share) for one in self.nodes]
        figure, axes = new_axes(5.4, 1.0 + 0.4 * len(rows))
        for place, (_, share) in enumerate(rows):
            value = share.estimate or 0.0
            axes.barh(place, value, color=GREY if place else KEPT, height=0.6)
            if share.low is not None and share.high is not None:
                axes.plot([share.low, share.high], [place, place], color="black", lw=1.2)
            axes.text(max(value, 0) + 0.02, place, f"{value:.2f}", va="center", fontsize=7)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
        axes.invert_yaxis()
        axes.set_xlim(right=max(1.15, axes.get_xlim()[1] + 0.1))
        axes.axvline(1.0, color="black", lw=0.8, ls=":")
        axes.set_xlabel("share of behaviour kept when resampled within classes", fontsize=8)
        axes.set_title(self.lines()[0], fontsize=8, loc="left")
        return write_figure(figure, path, self.lines()[0])


@torch.no_grad()
def scrub(
    model: HookedMamba,
    prompts: Looked,
    hypothesis: Mapping[str, Key],
    *,
    samples: int = 8,
    outside: Literal["any", "keep"] = "any",
    metric: Metric | str = logit_difference,
    memory: int = MEMORY,
    progress: bool = True,
    seed: int = 0,
) -> ScrubRecord:
    """Resample every node from prompts that the hypothesis takes for the same (causal scrubbing).

    Activations come from clean runs of other prompts. For each prompt and sample, every node draws
    a prompt of its class, each node on its own, and what is outside draws one of all prompts. The
    floor is the same with all nodes drawing from any prompt.

    This is the flat form: what is put into a later node is a whole run's activation, in which the
    earlier nodes were not resampled in turn. Where one node of a hypothesis feeds another, the
    later one covers what the earlier one does through it.

    Args:
        model: The model.
        prompts: The discovery half is taken; classes are of these prompts.
        hypothesis: Node -> what it tells prompts apart by: `"any"` (nothing), `"answer"`, a role
            (the token that stands there), several roles, or a function of the `PromptPair`.
        samples: Times each prompt is resampled.
        outside: `any`: all else of the nodes' kinds at their positions, in all layers, comes from
            any prompt; `keep`: it is left alone.
        metric: A metric, or its name.
        memory: Largest number of bytes of activations that are held: of every node and prompt, and
            as much again for a sample.
        progress: Show a bar on stderr, where that is a terminal.
        seed: For the draws, which are keyed by node, class and sample.

    Returns:
        The share of the behaviour that is kept, and the same for each node alone.

    Raises:
        DiscoveryError: No sample, activations that do not fit the memory, nodes that overlap, or
            nodes for which no prompt can stand in for any other.
        PositionError: A role that some prompt lacks.
        MetricError: Resampling everything loses nothing.

    Sources: Chan et al. 2022 (causal scrubbing; share of loss recovered).
    """
    if samples < 1:
        raise DiscoveryError("each prompt is resampled at least once", given=f"samples={samples}")
    nodes = [nodes_of(model, name)[0] for name in hypothesis]
    rest = "ablate" if outside == "any" else outside
    bench = bench_of(model, prompts, nodes_of(model, [n.name for n in nodes]),
                     metric=metric, outside=rest, progress=progress)  # fmt: skip
    work = _Scrubber(bench, memory, seed, samples)
    classes = [classes_of(key, bench.pairs, prompts) for key in hypothesis.values()]
    anything = classes_of(ANY, bench.pairs, prompts)
    everywhere = dict.fromkeys(bench.nodes, anything)
    stated = dict(zip(nodes, classes, strict=True))
    alone = {node: work.alone(node, one) for node, one in stated.items()}
    if all(count == len(bench.pairs) for count in alone.values()):
        raise DiscoveryError(
            "no prompt can stand in for another, so nothing would be resampled",
            given=", ".join(f"{n.name}: {c.count} classes" for n, c in stated.items()),
            expected="classes of two prompts or more, with as many places of the node",
            next_step="give more prompts, or classes that are wider",
        )
    floor = work.resampled(everywhere, anything, "floor")
    gap = bench.mean(bench.clean - floor)
    kept = work.resampled(stated, anything, "hypothesis")

    def share(values: np.ndarray, key: str) -> Share:
        return share_over_templates(
            values - floor, bench.clean - floor, bench.labels, key=key, seed=seed
        )

    keys = written_keys(hypothesis)
    rows = tuple(
        ScrubbedNode(
            node.name, keys[name], one.count, alone[node],
            share(work.resampled({node: one}, None, node.name), node.name),
        )
        for name, (node, one) in zip(hypothesis, stated.items(), strict=True)
    )  # fmt: skip
    core = about(
        "scrub", model, bench.pairs, metric=bench.metric.name,
        hypothesis=keys, samples=samples, outside=outside, seed=seed,
    )  # fmt: skip
    names = tuple(node.name for node in bench.outside)
    return ScrubRecord(core, rows, names, share(kept, "hypothesis"), samples, gap)


class _Scrubber:
    """Puts activations of other prompts into nodes."""

    def __init__(self, bench: Bench, memory: int, seed: int, samples: int) -> None:
        self.bench, self.seed, self.samples = bench, seed, samples
        runner = bench.runner
        self._rows: dict[str, dict[str, torch.Tensor]] = {}
        self._edits = {}
        held = 0
        for site in sorted({node.site for node in (*bench.nodes, *bench.outside)}):
            self._edits[site] = runner.planner.plan(Circuit(site))
            if any(edit.spots is None for edit in self._edits[site]):
                raise DiscoveryError(
                    f"{site} is the same for all prompts, so nothing can be resampled",
                    given=site,
                    expected="activations of a prompt",
                )
            self._rows[site] = read_activations(runner, Circuit(site))
            held += sum(row.numel() * row.element_size() for row in self._rows[site].values())
            if held > memory:
                raise DiscoveryError(
                    "activations of these nodes do not fit the memory allowed",
                    given=f"over {held / 2**20:.0f} MiB of {memory / 2**20:.0f}",
                    next_step="give fewer prompts, positions or layers (outside='keep'), or more "
                    "memory=",
                )

    def alone(self, node: Node, classes: Classes) -> int:
        """Return how many prompts no other can stand in for."""
        _, alone = donors_of(classes, self._shape(node.site), seed=0, stream="", number=0)
        return int(alone.sum())

    def resampled(
        self, stated: Mapping[Node, Classes], outside: Classes | None, stream: str
    ) -> np.ndarray:
        """Return the metric of each prompt, the mean over samples."""
        bench = self.bench
        nodes = [*stated, *(bench.outside if outside is not None else ())]
        circuits = circuits_of(nodes)
        total = np.zeros(len(bench.pairs))
        for number in range(self.samples):
            patch = PatchFrom(self._given(stated, outside, stream, number))
            total += bench.edited([circuits], patch)[0]
        return total / self.samples

    def _given(
        self, stated: Mapping[Node, Classes], outside: Classes | None, stream: str, number: int
    ) -> dict[str, GivenRows]:
        found: dict[str, list[GivenRows]] = {}
        sites = sorted({node.site for node in stated})
        if outside is not None:
            sites = sorted({*sites, *(node.site for node in self.bench.outside)})
        for site in sites:
            shape = self._shape(site)
            here = [(node, one) for node, one in stated.items() if node.site == site]
            rows = self._rows[site]
            if outside is not None:  # one prompt for all that is outside
                donors, _ = donors_of(
                    outside, shape, seed=self.seed, stream=f"{stream}|outside", number=number
                )
                rows = self._from(site, donors)
            for node, one in here:
                donors, _ = donors_of(
                    one, shape, seed=self.seed, stream=f"{stream}|{node.name}", number=number
                )
                rows = _joined(rows, self._from(site, donors), node)
            for edit in self._edits[site]:
                tokens = edit.known_spots.tokens
                n_pos = edit.known_spots.mask.shape[1]
                order = torch.as_tensor(self.bench.pairs.order)[tokens.prompt]
                given = GivenRows(rows[edit.name], order, n_pos - tokens.column)
                found.setdefault(edit.name, []).append(given)
        return {name: _stacked(parts) for name, parts in found.items()}

    def _from(self, site: str, donors: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the site's rows, each prompt's taken from its donor, place by place."""
        counts = np.array(self._shape(site))
        starts = np.concatenate([[0], counts.cumsum()[:-1]])
        index = np.concatenate(
            [starts[donor] + np.arange(counts[prompt]) for prompt, donor in enumerate(donors)]
        )
        picked = torch.from_numpy(index)
        return {name: rows[picked.to(rows.device)] for name, rows in self._rows[site].items()}

    def _shape(self, site: str) -> list[int]:
        (first, *_) = self._edits[site]
        return list(first.known_spots.mask.sum(1).tolist())


def _joined(
    rows: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], node: Node
) -> dict[str, torch.Tensor]:
    """Return rows with a node's channels from other ones."""
    if not node.channels:
        return dict(new)
    joined = {}
    for name, value in new.items():
        mask = channel_mask(Site.parse(name), node.channels, value.shape).to(value.device)
        joined[name] = torch.where(mask, value, rows[name])
    return joined


def _stacked(parts: Sequence[GivenRows]) -> GivenRows:
    if len(parts) == 1:
        return parts[0]
    return GivenRows(
        torch.cat([one.values for one in parts]),
        torch.cat([one.prompt for one in parts]),
        torch.cat([one.from_end for one in parts]),
    )
