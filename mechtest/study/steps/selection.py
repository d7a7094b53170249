"""Which circuits are worth a closer look?

Whatever points somewhere is tried: an effect map, slopes, traces, probes, features, and parts of
the best places. Candidates are many, and their numbers are those they were chosen by: what remains
of them is tested as a claim.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mechtest.discovery.attribution import attribution_patching, edge_attribution
from mechtest.discovery.circuits.candidates import candidates
from mechtest.discovery.tracing import causal_trace
from mechtest.errors import MechtestError
from mechtest.interventions import Circuit, SweepResult, sweep
from mechtest.interventions.complement import channel_count
from mechtest.study.bench import Bench
from mechtest.study.measured import measure_share
from mechtest.study.step import Found

__all__ = ["select_circuits", "settled"]

GROUPS = 128
"""A site of more channels than this is searched in groups of them."""


def select_circuits(bench: Bench) -> Found:
    """Collect what points at circuits, and measure each by ablating and by restoring it."""
    told, found = bench.settings, Found()
    positions = bench.positions(told["positions"])
    given = _pointers(bench, found, positions)
    table = candidates(
        bench.model, bench.pairs, hooks=bench.sites(told["sites"]), positions=positions,
        top=told["count"], channels=0, groups=told["groups"], rank=told["rank"],
        deep=told["parts_of"], given=given, count=told["count"], overlap=told["overlap"],
        metric=bench.metric, progress=bench.progress, seed=bench.seed,
    )  # fmt: skip
    assert table.map is not None
    found.keep("map", settled(table.map))
    found.keep("candidates", table, count=5)
    found.circuits = {circuit.name: circuit for circuit in table.circuits()}
    found.warnings.append(
        f"the numbers flatter what was chosen by them: the best of {len(table.rows)} candidates, "
        f"from {table.map.values[..., 0].size} places and {len(given)} other sources, on the "
        "prompts they were chosen on"
    )
    return found


def settled(result: SweepResult) -> SweepResult:
    """Return a sweep without the counts of its run, which differ when a killed one goes on."""
    kept = {key: result.engine[key] for key in ("executor", "kernels") if key in result.engine}
    return replace(result, engine=kept)


def _pointers(bench: Bench, found: Found, positions: list[str]) -> dict[str, Any]:
    """Return circuits and scores by what gave them; what fails is told and left out."""
    given: dict[str, Any] = {}
    told, sites = bench.settings, bench.sites(bench.settings["sites"])
    tools: dict[str, Callable[[], Any]] = {}
    if told["attribution"]:
        tools["attribution"] = lambda: attribution_patching(
            bench.model, bench.pairs, sites, positions=positions, metric=bench.metric,
            sample=told["sample"], progress=bench.progress, seed=bench.seed,
        )  # fmt: skip
    if told["edges"]:
        tools["edges"] = lambda: edge_attribution(
            bench.model, bench.pairs, method=told["edges"], metric=bench.metric,
            sample=told["sample"], progress=bench.progress, seed=bench.seed,
        )  # fmt: skip
    if told["tracing"]:
        tools["tracing"] = lambda: causal_trace(
            bench.model, bench.pairs, subject=told["subject"] or None, sites=list(told["sites"]),
            positions=positions, samples=told["samples"], metric=bench.metric,
            progress=bench.progress, seed=bench.seed,
        )  # fmt: skip
    for name, tool in tools.items():
        try:
            given[name] = found.keep(name, tool())
        except MechtestError as error:
            found.warnings.append(f"no {name}: {error.what}")
    for step in ("sae", "probes"):
        if step in bench.before:
            given |= {f"{step}: {name}": one for name, one in bench.before[step].circuits.items()}
    for site in _best_places(bench, sites, positions):
        circuit = _fewest_channels(bench, found, site)
        if circuit is not None:
            given[circuit.name] = circuit
    return given


@torch.no_grad()
def _best_places(bench: Bench, sites: list[str], positions: list[str]) -> list[str]:
    effects = sweep(
        bench.model, sites, bench.pairs, positions=positions, metric=bench.metric, progress=False
    )
    assert isinstance(effects, SweepResult)
    return [one.site for one in effects.top(bench.settings["parts_of"]) if one.effect > 0]


@torch.no_grad()
def _fewest_channels(bench: Bench, found: Found, site: str) -> Circuit | None:
    """Return the fewest channels, ranked one by one, that together do most of what a place does."""
    count = channel_count(bench.model, Circuit(site).sites[0])
    group = max(1, count // GROUPS)
    hook, _, position = site.partition("@")
    table = sweep(
        bench.model, [hook], bench.pairs, positions=position or "last", channels=group,
        metric=bench.metric, journal=bench.journal(f"channels-{hook}"), progress=bench.progress,
    )  # fmt: skip
    assert isinstance(table, SweepResult)
    name = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in site)
    found.records[f"channels-of-{name}"] = settled(table)
    order = np.argsort(-np.nan_to_num(table.mean()[0]), kind="stable")
    whole = measure_share(bench.runner, bench.metric, Circuit(site)).value or 0.0
    size = 1
    while size * group < count:
        chosen = [c for g in order[:size] for c in range(g * group, min((g + 1) * group, count))]
        circuit = Circuit(
            site, channels=map(int, chosen), name=f"{len(chosen)} channels of {site}",
            fitted_on=bench.pairs.fingerprints,
        )  # fmt: skip
        share = measure_share(bench.runner, bench.metric, circuit)
        if (share.value or 0.0) >= bench.settings["share"] * whole > 0:
            return circuit
        size *= 2
    return None
