"""Which circuits are worth a claim, from everything that was tried, measured alike?

Sweeps, single channels, channels that go together, directions, and the rankings of other tools all
name places. Here every one is ablated and restored, overlapping ones are merged, and they stand in
one table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from mechtest.discovery.circuits.candidate_table import Candidate, CandidateTable
from mechtest.discovery.circuits.channel_groups import (
    channel_groups,
    memory_part,
    strongest_channels,
)
from mechtest.discovery.circuits.measuring import (
    Bench,
    Looked,
    restored,
    share_over_templates,
)
from mechtest.discovery.circuits.nodes import Scored, circuit_of, scores_of
from mechtest.discovery.looking import SMALLEST_GAP, looking_runner
from mechtest.discovery.record import about
from mechtest.discovery.subspaces import difference_subspace
from mechtest.errors import DiscoveryError, MechtestError, MetricError
from mechtest.interventions import Circuit, Intervention, ResampleAblation, SweepResult, sweep
from mechtest.interventions.circuit_file import circuit_text
from mechtest.interventions.complement import channel_count
from mechtest.models import HookedMamba
from mechtest.tasks import EncodedPairs, Metric, logit_difference, metric_by_name

__all__ = ["candidates"]

Given = Mapping[str, Any]


@torch.no_grad()
def candidates(
    model: HookedMamba,
    prompts: Looked,
    *,
    hooks: str | Sequence[str] = "blocks.*.state",
    positions: Sequence[str] | None = None,
    top: int = 4,
    channels: int = 8,
    groups: int = 4,
    rank: int = 2,
    deep: int = 2,
    given: Given | None = None,
    count: int = 8,
    overlap: float = 0.8,
    intervention: Intervention | None = None,
    metric: Metric | str = logit_difference,
    progress: bool = True,
    seed: int = 0,
) -> CandidateTable:
    """Collect candidate circuits, measure each by ablating and by restoring it, and sort them.

    Args:
        model: The model.
        prompts: The discovery half is taken.
        hooks: Sites without positions that are swept, or a pattern of them; empty for no sweep.
        positions: Where; by default every role that all prompts have, and the last token.
        top: Places of the sweep that become candidates, each alone and the first ones together.
        channels: So many of the strongest channels of a place become one; 0 for none. One run a
            channel of the place.
        groups: Groups of channels whose activations go together, of a place; 0 for none.
        rank: Directions in which clean and corrupted differ, of a place; 0 for none.
        deep: Of how many places channels, groups and directions are taken.
        given: Name -> what another tool found: a circuit, a score by place, or a record with
            `circuit()` or `scores()`.
        count: Places taken of a score that was given.
        overlap: Circuits that share this part of the channels of both are merged; the one of more
            worth stays.
        intervention: The ablation, `ResampleAblation()` by default.
        metric: A metric, or its name.
        progress: Show bars on stderr, where that is a terminal.
        seed: For the intervals.

    Returns:
        The table. Its first row was picked as the best of many on these prompts, and looks better
        than it is: test it on the other half.

    Raises:
        DiscoveryError: Nothing to try, or something given that names no place.
        MetricError: No difference between clean and corrupted prompts.

    Sources: Zhang & Nanda 2023 (ablating and restoring).
    """
    runner = looking_runner(model, prompts)
    read = metric_by_name(metric) if isinstance(metric, str) else metric
    bench = Bench(runner, (), (), intervention or ResampleAblation(), read, progress)
    gap = bench.mean(bench.clean - bench.corrupted)
    if not abs(gap) > SMALLEST_GAP:
        raise MetricError(
            "clean and corrupted prompts score alike, so there is no behaviour to take shares of",
            given=f"{read.name} differs by {gap:.3g} {read.unit}",
            next_step="look at prompts.explain(model.tokenizer)",
        )
    pool = _Pool(bench)
    found = _swept(pool, hooks, positions, top, progress) if hooks else None
    places = [] if found is None else [place.site for place in found.top(deep)]
    for site in places:
        pool.parts_of(site, channels, groups, rank)
    for name, one in (given or {}).items():
        pool.given(name, one, count)
    if not pool.circuits:
        raise DiscoveryError("there is nothing to try", expected="hooks=, or given=")
    rows = pool.measured(overlap, seed)
    core = about(
        "candidates", model, runner.pairs, metric=read.name, intervention=bench.ablation.name,
        hooks=[hooks] if isinstance(hooks, str) else list(hooks), top=top, channels=channels,
        groups=groups, rank=rank, deep=deep, given=sorted(given or {}), overlap=overlap, seed=seed,
    )  # fmt: skip
    return CandidateTable(core, rows, found, tuple(pool.notes))


def _swept(
    pool: _Pool, hooks: str | Sequence[str], positions: Sequence[str] | None, top: int,
    progress: bool,
) -> SweepResult:  # fmt: skip
    bench = pool.bench
    found = sweep(
        bench.runner.model, hooks, bench.pairs,
        positions=list(positions or everywhere_roles(bench.pairs)),
        intervention=bench.ablation, metric=bench.metric, progress=progress,
    )  # fmt: skip
    assert isinstance(found, SweepResult)
    best = found.top(top)
    for place in best:
        pool.add(Circuit(place.site), f"sweep {place.effect:.2f}")
    for size in range(2, len(best) + 1):
        sites = [place.site for place in best[:size]]
        pool.add(Circuit(*sites, name=" + ".join(sites)), f"best {size} of the sweep")
    return found


class _Pool:
    """Circuits that something pointed at."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.model = bench.runner.model
        self.circuits: list[tuple[Circuit, list[str]]] = []
        self.notes: list[str] = []
        self._seen: dict[str, int] = {}

    def add(self, circuit: Circuit, source: str) -> None:
        """Add a circuit; the same one twice is one of two sources."""
        marked = Circuit(
            *map(str, circuit.sites),
            subspace=circuit.subspace,
            channels=None
            if circuit.subspace is not None
            else dict(zip(map(str, circuit.sites), circuit.by_site, strict=True)),
            name=circuit.name,
            fitted_on=self.bench.pairs.fingerprints
            if circuit.fitted_on is None
            else circuit.fitted_on | self.bench.pairs.fingerprints,
        )
        parts = sorted(zip(map(str, marked.sites), map(repr, marked.by_site), strict=True))
        key = repr(parts) if marked.subspace is None else circuit_text(marked)
        if key in self._seen:
            sources = self.circuits[self._seen[key]][1]
            if source not in sources:
                sources.append(source)
            return
        self._seen[key] = len(self.circuits)
        self.circuits.append((marked, [source]))

    def parts_of(self, site: str, channels: int, groups: int, rank: int) -> None:
        """Add channels, groups of channels and directions of a site."""
        width = channel_count(self.model, Circuit(site).sites[0])
        if 0 < channels < width:
            best = strongest_channels(self.bench, site, channels)
            name = f"{channels} channels of {site}"
            self.add(Circuit(site, channels=best, name=name), "single channels")
        if groups > 1:
            for number, members in enumerate(channel_groups(self.bench.runner, site, groups), 1):
                name = f"group {number} of {site}"
                self.add(Circuit(site, channels=members, name=name), "channels that go together")
        if rank:
            part = memory_part(site)
            try:
                subspace = difference_subspace(self.bench.runner, str(part), rank)
            except MechtestError as error:
                self.notes.append(f"directions of {part}: {error.what}")
                return
            name = f"{rank} directions of {part}"
            self.add(Circuit(str(part), subspace=subspace, name=name), "directions of difference")

    def given(self, name: str, one: Any, count: int) -> None:
        """Add what another tool found.

        Raises:
            DiscoveryError: It names no place.
        """
        if isinstance(one, Circuit):
            self.add(one, name)
            return
        if not isinstance(one, Scored | Mapping):
            if not hasattr(one, "circuit"):
                raise DiscoveryError(
                    f"{name} names no place",
                    given=type(one).__name__,
                    expected="a Circuit, {site: score}, or a record with circuit() or scores()",
                )
            self.add(one.circuit(), name)
            return
        scores = scores_of(self.model, one)
        best = sorted(scores, key=lambda node: (-scores[node], node))[:count]
        for size in sorted({1, len(best)}):
            try:
                self.add(circuit_of(best[:size], name=f"best {size} of {name}"), name)
            except DiscoveryError as error:
                self.notes.append(f"best {size} of {name}: {error.what}")

    def measured(self, overlap: float, seed: int) -> tuple[Candidate, ...]:
        """Return the rows: measured, sorted, and merged where they overlap."""
        bench = self.bench
        each = [[circuit] for circuit, _ in self.circuits]
        ablated = bench.clean - bench.edited(each, bench.ablation)
        back = restored(bench, each) - bench.corrupted
        gap = bench.clean - bench.corrupted
        rows = []
        for (circuit, sources), lost, returned in zip(self.circuits, ablated, back, strict=True):
            shares = [
                share_over_templates(moved, gap, bench.labels, key=circuit.name, seed=seed)
                for moved in (lost, returned)
            ]
            rows.append(
                Candidate(
                    circuit.name,
                    tuple(sources),
                    (),
                    circuit_text(circuit),
                    self._size(circuit),
                    *shares,
                )
            )
        # Of equal worth in two digits, the smaller one comes first.
        order = sorted(range(len(rows)), key=lambda i: (-round(rows[i].worth, 2), rows[i].size, i))
        return self._merged([rows[i] for i in order], overlap)

    def _merged(self, rows: Sequence[Candidate], overlap: float) -> tuple[Candidate, ...]:
        kept: list[tuple[Candidate, frozenset[tuple[str, int]]]] = []
        for row in rows:
            parts = self._components(row.circuit)
            for place, (other, theirs) in enumerate(kept):
                if parts and len(parts & theirs) >= overlap * len(parts | theirs):
                    sources = tuple(dict.fromkeys((*other.sources, *row.sources)))
                    both = (*other.merged, row.name)
                    joined = Candidate(
                        other.name, sources, both, other.text, other.size, other.ablated,
                        other.restored,
                    )  # fmt: skip
                    kept[place] = joined, theirs
                    break
            else:
                kept.append((row, parts))
        return tuple(row for row, _ in kept)

    def _components(self, circuit: Circuit) -> frozenset[tuple[str, int]]:
        if circuit.subspace is not None:
            return frozenset()
        return frozenset(
            (str(site), channel)
            for site, channels in zip(circuit.sites, circuit.by_site, strict=True)
            for channel in channels or range(channel_count(self.model, site))
        )

    def _size(self, circuit: Circuit) -> int:
        if circuit.subspace is not None:
            return circuit.subspace.rank
        return len(self._components(circuit))


def everywhere_roles(pairs: EncodedPairs) -> list[str]:
    """Return the roles that every prompt has, in the order they stand in the first one.

    Of several roles at one place on every prompt, one is taken; `last` first.
    """
    columns: dict[tuple[int, ...], str] = {}
    for index, role in enumerate(pairs.roles):
        places = pairs.role_positions[:, index]
        if bool((places >= 0).all()) and (role == "last" or tuple(places.tolist()) not in columns):
            columns[tuple(places.tolist())] = role
    return [role for _, role in sorted(columns.items())]
