"""What does the model still do when some nodes are left out, and others are kept?

Everything is measured in the clean run, by ablation: what is left of the behaviour when nodes are
out, and when everything but some nodes is. All tools of circuits measure here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from tqdm import tqdm

from mechtest.discovery.circuits.nodes import Node, circuits_of, require_apart, rest_of_universe
from mechtest.discovery.looking import SMALLEST_GAP, looking_runner
from mechtest.discovery.record_values import part_of_records
from mechtest.errors import DiscoveryError, MetricError, NonFiniteError
from mechtest.interventions import Circuit, Intervention, Patch, ResampleAblation, Run, Runner
from mechtest.models import HookedMamba
from mechtest.stats import cluster_effect, inversion_interval, keyed_generator
from mechtest.tasks import (
    DiscoveryPairs,
    EncodedPairs,
    Metric,
    PromptPairs,
    logit_difference,
    metric_by_name,
)

__all__ = ["Bench", "Looked", "Share", "bench_of", "share_over_templates"]

CHUNK = 128
"""Sets of nodes measured in one call; the engine batches what fits its memory inside."""

REMEMBERED = 1024
"""With no more nodes than this, a set that was measured is not measured again."""

Looked = PromptPairs | DiscoveryPairs | EncodedPairs
Values = Float[np.ndarray, " prompt"]
Table = Float[np.ndarray, "set prompt"]


@part_of_records
@dataclass(frozen=True)
class Share:
    """A share of the behaviour, with the template as the unit.

    Attributes:
        estimate: Mean moved over mean there was to move, templates weighted equally; None where
            there was nothing to move.
        low: Lower end of the 95 % interval; None with a reason.
        high: Upper end.
        reason: Why an end is missing; else empty.
    """

    estimate: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.estimate is None:
            return f"- ({self.reason})"
        if self.low is None or self.high is None:
            return f"{self.estimate:.3g}"
        return f"{self.estimate:.3g} ({self.low:.3g} to {self.high:.3g})"


@dataclass(eq=False)
class Bench:
    """Measures sets of nodes on one set of prompts.

    Attributes:
        runner: Model and discovery prompts.
        nodes: What is kept or left out, one by one.
        outside: What is ablated whenever nodes are kept: the rest of the nodes' kinds.
        ablation: What is put in the place of what is out.
        metric: Reads logits; `kl_divergence` counts as its negative, so that larger is better.
        progress: Show a bar on stderr where that is a terminal.
    """

    runner: Runner
    nodes: tuple[Node, ...]
    outside: tuple[Node, ...]
    ablation: Intervention
    metric: Metric
    progress: bool = True
    _parts: dict[tuple[str, tuple[int, ...] | None], Circuit] = field(default_factory=dict)
    _known: dict[tuple[frozenset[Node], bool], Values] = field(default_factory=dict)

    @property
    def pairs(self) -> EncodedPairs:
        """The encoded prompts."""
        return self.runner.pairs

    @property
    def labels(self) -> list[str]:
        """Template of each prompt."""
        return [self.pairs.templates[index] for index in self.pairs.cluster]

    @cached_property
    def clean(self) -> Values:
        """The metric of the untouched clean run."""
        return self.read(self.runner.logits("clean"))

    @cached_property
    def corrupted(self) -> Values:
        """Of the corrupted run."""
        return self.read(self.runner.logits("corrupted"))

    @cached_property
    def empty(self) -> Values:
        """The metric with every node and everything outside ablated.

        Raises:
            MetricError: Nothing is lost then, so there is nothing to take shares of.
        """
        found = self.kept([()])[0]
        gap = self.mean(self.clean - found)
        if not abs(gap) > SMALLEST_GAP:
            raise MetricError(
                "ablating every node loses nothing, so there is no behaviour to take shares of",
                given=f"{self.metric.name} changes by {gap:.3g} {self.metric.unit}",
                expected="nodes that the behaviour flows through",
                next_step="add nodes, for example blocks.*.state@last",
            )
        return found

    def read(self, logits: torch.Tensor) -> Values:
        """Return the metric, one number a prompt, larger being better.

        Raises:
            NonFiniteError: NaN or infinity; names the prompts.
        """
        if getattr(self.metric, "needs_reference", False):
            found = -self.metric(logits, self.pairs, reference=self.runner.logits("clean"))
        else:
            found = self.metric(logits, self.pairs)
        values = np.asarray(found.detach().cpu().double().numpy())
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise NonFiniteError(
                f"{self.metric.name} is not finite for {len(bad)} of {len(values)} prompts",
                given=", ".join(self.pairs.ids[int(row)] for row in bad[:5]),
                expected="finite numbers",
            )
        return values

    def mean(self, values: Values) -> float:
        """Return the mean over templates of each template's mean."""
        cluster = self.pairs.cluster
        return float(np.mean([values[cluster == c].mean() for c in np.unique(cluster)]))

    def kept(self, sets: Sequence[Iterable[Node]]) -> Table:
        """Return the metric when only these nodes are left, and all others and outside are out."""
        everything = frozenset(self.nodes)
        return self._measured([everything - frozenset(one) for one in sets], outside=True)

    def without(self, sets: Sequence[Iterable[Node]]) -> Table:
        """Return the metric when these nodes are out and everything else, outside too, is left."""
        return self._measured([frozenset(one) for one in sets], outside=False)

    def share(self, values: Values, *, key: str = "", seed: int = 0) -> Share:
        """Return (value - empty) / (clean - empty), over templates."""
        return share_over_templates(
            values - self.empty, self.clean - self.empty, self.labels, key=key, seed=seed
        )

    def shares(self, table: Table) -> list[float]:
        """Return that share of each row, its estimate alone."""
        gap = self.mean(self.clean - self.empty)
        return [self.mean(row - self.empty) / gap for row in table]

    def edited(
        self, sets: Sequence[Sequence[Circuit]], intervention: Intervention, base: Run = "clean"
    ) -> Table:
        """Return the metric after each of some interventions."""
        if not sets:
            return np.empty((0, len(self.pairs)))
        columns, answers = None, None
        if getattr(self.metric, "answers_only", False) and not getattr(
            self.metric, "vocabulary", None
        ):
            columns, answers = self.pairs.answers.among_themselves()
        rows = []
        for chunk in self._chunks(sets):
            logits = self.runner.logits_after(chunk, intervention, base, columns=columns)
            if answers is None:
                rows += [self.read(one) for one in logits]
            else:  # one question for all of them
                read: Any = self.metric
                found = read(logits.flatten(0, 1), answers.repeated(len(logits)))
                rows += list(found.cpu().double().numpy().reshape(len(logits), -1))
        return np.stack(rows)

    def _measured(self, out: Sequence[frozenset[Node]], *, outside: bool) -> Table:
        known = self._known if len(self.nodes) <= REMEMBERED else {}
        wanted = dict.fromkeys(one for one in out if (one, outside) not in known)
        extra = self.outside if outside else ()
        asked = [one for one in wanted if one or extra]
        circuits = [self._circuits((*one, *extra)) for one in asked]
        for one, values in zip(asked, self.edited(circuits, self.ablation), strict=True):
            known[one, outside] = values
        for one in wanted:
            known.setdefault((one, outside), self.clean)
        return np.stack([known[one, outside] for one in out])

    def _circuits(self, nodes: Sequence[Node]) -> list[Circuit]:
        # One object for the same place in all sets, so that the engine edits them together.
        made = circuits_of(nodes)
        return [self._parts.setdefault((str(c.sites[0]), c.channels), c) for c in made]

    def _chunks(self, sets: Sequence[Sequence[Circuit]]) -> Iterator[Sequence[Sequence[Circuit]]]:
        # None: shown where stderr is a terminal.
        hidden = None if self.progress and len(sets) > 1 else True
        with tqdm(total=len(sets), desc="circuits", unit="set", disable=hidden) as bar:
            for start in range(0, len(sets), CHUNK):
                part = sets[start : start + CHUNK]
                yield part
                bar.update(len(part))


def bench_of(
    model: HookedMamba,
    prompts: Looked,
    nodes: Sequence[Node],
    *,
    ablation: Intervention | None = None,
    metric: Metric | str = logit_difference,
    outside: str = "ablate",
    progress: bool = True,
) -> Bench:
    """Return where sets of these nodes are measured, on the discovery half.

    Args:
        model: The model.
        prompts: The discovery half is taken.
        nodes: What is kept or left out.
        ablation: `ResampleAblation()` by default.
        metric: A metric, or its name.
        outside: `ablate`: while nodes are kept, all else of their kinds at their positions, in all
            layers, is out; `keep`: it is left alone, and the nodes are all there is.
        progress: Show a bar.

    Raises:
        ClaimInvalid: Prompts that are kept for testing, or nodes of the residual stream with
            `outside="ablate"`.
        DiscoveryError: Nodes that overlap; another word for `outside`.
    """
    if outside not in ("ablate", "keep"):
        raise DiscoveryError(
            "what is outside the nodes is ablated or kept",
            given=f"outside={outside!r}",
            expected="'ablate' or 'keep'",
        )
    runner = looking_runner(model, prompts)
    rest = rest_of_universe(model, nodes) if outside == "ablate" else ()
    require_apart(runner.planner, nodes)
    if rest:
        _require_outside_apart(runner, nodes, rest)
    chosen = metric_by_name(metric) if isinstance(metric, str) else metric
    return Bench(runner, tuple(nodes), rest, ablation or ResampleAblation(), chosen, progress)


def _require_outside_apart(runner: Runner, nodes: Sequence[Node], rest: Sequence[Node]) -> None:
    """Raise where something outside the nodes shares an activation with one of them."""
    named = {node.site for node in nodes}
    whole = [Node(site) for site in sorted({node.site for node in rest} - named)]
    require_apart(runner.planner, [*nodes, *whole])


def restored(bench: Bench, circuits: Sequence[Sequence[Circuit]]) -> Table:
    """Return the metric when circuits are patched from the clean into the corrupted run."""
    return bench.edited(circuits, Patch("clean"), "corrupted")


def share_over_templates(
    moved: Values, there: Values, labels: Sequence[str], *, key: str = "", seed: int = 0
) -> Share:
    """Return moved / there as a ratio of means over templates, with its 95 % interval.

    Args:
        moved: What was moved of each prompt, in the metric's unit.
        there: What there was to move.
        labels: Template of each prompt.
        key: What the share is of; beyond 14 templates its sign patterns are keyed by it.
        seed: Root seed.

    Sources: Canay, Romano & Shaikh 2017 (sign patterns of clusters).
    """
    sign = 1.0 if there.mean() >= 0 else -1.0
    if len(set(labels)) < 2:
        total = float(there.mean())
        if not abs(total) > SMALLEST_GAP:
            return Share(None, reason="there is nothing to move")
        return Share(float(moved.mean()) / total, reason="one template gives no interval")
    effect = cluster_effect(sign * moved, sign * there, labels)
    if effect.estimate is None or not abs(np.mean(effect.denominators)) > SMALLEST_GAP:
        return Share(None, reason="there is nothing to move")
    generator = keyed_generator(seed, key or "share", "interval")
    found = inversion_interval(effect, 0.95, generator=generator)
    return Share(effect.estimate, found.low, found.high, found.reason or "")
