"""How large, how varied and how different between the twins are the activations of each site?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mechtest.discovery.lens import TunedLens, direct_logit_attribution, logit_lens, tuned_lens
from mechtest.discovery.record import about
from mechtest.errors import MechtestError
from mechtest.interventions import Circuit, read_activations
from mechtest.study.bench import Bench
from mechtest.study.step import Found, Record
from mechtest.study.table import StepTable

__all__ = ["collect_statistics"]

COLUMNS = ("site", "norm", "variance", "effective rank", "difference")


def collect_statistics(bench: Bench) -> Found:
    """Measure the activations of some sites, and read the stream and the logits off them.

    Per site: mean norm; variance, summed over features; effective rank, the participation ratio
    (sum of variances)^2 / sum of squared variances along principal axes; and the difference of the
    twins, its mean squared norm over twice the variance (1: the twins are as far apart as any two
    prompts are).

    One site is held at a time: [prompts, features] for one position. Norms and ranks come from the
    [prompts, prompts] matrix of inner products, never from one of features by features.
    """
    found = Found()
    _statistics(bench, found)
    told = bench.settings
    options: dict[str, Any] = {"progress": bench.progress}
    tools: dict[str, Callable[[], Record]] = {}
    if told["lens"]:
        tools["logit-lens"] = lambda: logit_lens(
            bench.model,
            bench.pairs,
            positions=bench.positions(told["positions"]),
            metric=bench.metric,
            **options,
        )
    if told["tuned_steps"]:
        tools["tuned-lens"] = lambda: _tuned(bench, found)
    if told["direct"]:
        tools["direct-logits"] = lambda: direct_logit_attribution(
            bench.model, bench.pairs, by=told["direct"], **options
        )
    for name, tool in tools.items():
        try:
            found.keep(name, tool(), count=2)
        except MechtestError as error:
            found.warnings.append(f"no {name}: {error.what}")
    return found


def _tuned(bench: Bench, found: Found) -> Record:
    lens = TunedLens.fit(
        bench.model, bench.pairs, steps=bench.settings["tuned_steps"], seed=bench.seed,
        progress=bench.progress,
    )  # fmt: skip
    found.files["lens"] = lens.save
    return tuned_lens(
        bench.model, bench.pairs, lens, positions=bench.positions(bench.settings["positions"]),
        metric=bench.metric, progress=bench.progress,
    )  # fmt: skip


@torch.no_grad()
def _statistics(bench: Bench, found: Found) -> None:
    """Keep the table of activations.

    Held at once: the activations of one site and position, "prompt feature".
    """
    rows = []
    for site in bench.sites(bench.settings["sites"]):
        for position in bench.positions(bench.settings["positions"]):
            circuit = Circuit(f"{site}@{position}")
            parts = [read_activations(bench.runner, circuit, run) for run in ("clean", "corrupted")]
            clean, corrupted = (
                torch.cat([rows.flatten(1).double().cpu() for rows in part.values()], 1)
                for part in parts
            )
            rows.append((str(circuit.sites[0]), *_numbers(clean, corrupted)))
    table = StepTable(
        about("activations", bench.model, bench.pairs, sites=list(bench.settings["sites"])),
        title=f"activations of {len(rows)} places, {len(bench.pairs)} clean prompts",
        columns=COLUMNS,
        rows=tuple(rows),
        bars=("difference",),
        unit="squared difference of the twins / 2 x variance",
    )
    found.keep("statistics", table, count=4)
    found.facts["difference"] = {str(row[0]): row[4] for row in rows}
    dead = [str(row[0]) for row in rows if row[2] == 0]
    if dead:
        found.warnings.append(f"activations that never vary: {', '.join(dead[:5])}")


def _numbers(
    clean: torch.Tensor, corrupted: torch.Tensor
) -> tuple[float, float, float | None, float | None]:
    centred = clean - clean.mean(0)
    inner = centred @ centred.T / max(len(clean) - 1, 1)
    variance = float(inner.trace())
    square = float((inner**2).sum())
    apart = float(((clean - corrupted) ** 2).sum(1).mean())
    rank = variance**2 / square if square > 0 else None
    difference = apart / (2 * variance) if variance > 0 else None
    return float(clean.norm(dim=1).mean()), variance, rank, difference
