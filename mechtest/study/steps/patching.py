"""Is the behaviour lost without a candidate, and does it come back with it alone?"""

from __future__ import annotations

from typing import Any

import torch

from mechtest.discovery.circuits.faithfulness import faithfulness_curve
from mechtest.discovery.circuits.pruning import greedy_prune
from mechtest.discovery.record import about
from mechtest.errors import MechtestError
from mechtest.interventions import SweepResult, sweep
from mechtest.study.bench import Bench
from mechtest.study.measured import channel_total, measure_share, part_name
from mechtest.study.step import Found
from mechtest.study.steps.selection import settled
from mechtest.study.table import StepTable

__all__ = ["COLUMNS", "patch_circuits"]

COLUMNS = (
    "circuit", "part", "lost", "lost low", "lost high", "restored", "restored low",
    "restored high",
)  # fmt: skip
NEAR = 0.9
"""Share of the largest effect from which on a circuit does as much: the smallest goes first."""


@torch.no_grad()
def patch_circuits(bench: Bench) -> Found:
    """Ablate each candidate in the clean run, and restore it in the corrupted one.

    Necessity and sufficiency, as claims ask them, on the prompts that candidates were found on. The
    map is the counterpart of selection's: what comes back when one place is restored.
    """
    told, found = bench.settings, Found()
    candidates = bench.before["selection"].circuits
    rows: list[tuple[Any, ...]] = []
    for name, circuit in list(candidates.items())[: told["count"]]:
        lost = measure_share(bench.runner, bench.metric, circuit)
        back = measure_share(bench.runner, bench.metric, circuit, "restore")
        rows.append(
            (name, part_name(circuit), lost.value, lost.low, lost.high, back.value, back.low,
             back.high)
        )  # fmt: skip
        found.circuits[name] = circuit
    most = NEAR * max((row[2] or 0.0 for row in rows), default=0.0)
    rows.sort(
        key=lambda row: (
            (row[2] or 0.0) < most,
            channel_total(found.circuits[row[0]]) if (row[2] or 0.0) >= most else 0.0,
            -(row[2] or 0.0),
        )
    )
    found.circuits = {row[0]: found.circuits[row[0]] for row in rows}
    found.keep(
        "effects",
        StepTable(
            about("patching", bench.model, bench.pairs, metric=bench.metric.name),
            title=f"{len(rows)} candidates, ablated and restored",
            columns=COLUMNS,
            rows=tuple(rows),
            bars=("lost", "restored"),
            unit="share of behaviour",
        ),
        count=4,
    )
    if told["map"]:
        selection = bench.study.steps["selection"]
        effects = sweep(
            bench.model, bench.sites(selection["sites"]), bench.pairs, base="corrupted",
            positions=bench.positions(selection["positions"]), metric=bench.metric,
            journal=bench.journal("restored"), progress=bench.progress,
        )  # fmt: skip
        assert isinstance(effects, SweepResult)
        found.keep("restored", settled(effects))
    _as_sets(bench, found)
    return found


def _as_sets(bench: Bench, found: Found) -> None:
    """Keep the best k places alone, for every k; and prune them one by one."""
    effects = bench.before["selection"].records["map"]
    assert isinstance(effects, SweepResult)
    scores = {one.site: one.effect for one in effects.top(effects.values[..., 0].size)}
    options: dict[str, Any] = {
        "metric": bench.metric, "progress": bench.progress, "seed": bench.seed
    }  # fmt: skip
    if bench.settings["curve"]:
        try:
            curve = faithfulness_curve(
                bench.model, bench.pairs, scores, rankings=bench.settings["rankings"], **options
            )
            found.keep("faithfulness", curve)
        except MechtestError as error:
            found.warnings.append(f"no faithfulness: {error.what}")
    if bench.settings["prune"]:
        best = sorted(scores, key=lambda site: -scores[site])[: bench.settings["prune"]]
        try:
            pruned = greedy_prune(
                bench.model, bench.pairs, best, tolerance=bench.settings["tolerance"], **options
            )
            found.keep("pruned", pruned)
        except MechtestError as error:
            found.warnings.append(f"nothing pruned: {error.what}")
