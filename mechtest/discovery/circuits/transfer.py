"""What does the circuit of one task do on another?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from mechtest.discovery.circuits.measuring import (
    Bench,
    Looked,
    Share,
    restored,
    share_over_templates,
)
from mechtest.discovery.circuits.pictures import heat_map, new_axes
from mechtest.discovery.figures import write_figure
from mechtest.discovery.looking import SMALLEST_GAP, looking_runner
from mechtest.discovery.record import About, DiscoveryRecord, about
from mechtest.errors import DiscoveryError, MetricError, PositionError
from mechtest.interventions import Circuit, Intervention, ResampleAblation
from mechtest.interventions.complement import complement_of, universe_of
from mechtest.models import HookedMamba
from mechtest.tasks import Fingerprints, Metric, logit_difference, metric_by_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TransferMatrix", "transfer_matrix"]

Mode = Literal["ablate", "restore", "keep"]
MODES = ("ablate", "restore", "keep")


@dataclass(frozen=True, eq=False, repr=False)
class TransferMatrix(DiscoveryRecord):
    """Effect of each circuit on each task.

    Attributes:
        circuits: Names of the circuits, one a row.
        tasks: Names of the tasks, one a column.
        shares: Effect of each circuit on each task, a share of that task's behaviour.
        mode: What was done with the circuit.
    """

    circuits: tuple[str, ...]
    tasks: tuple[str, ...]
    shares: tuple[tuple[Share, ...], ...]
    mode: str

    def share(self, circuit: str, task: str) -> Share:
        """Return one cell.

        Raises:
            DiscoveryError: No such circuit or task.
        """
        if circuit not in self.circuits or task not in self.tasks:
            raise DiscoveryError(
                "there is no such cell",
                given=f"{circuit!r}, {task!r}",
                expected=f"circuits {', '.join(self.circuits)}; tasks {', '.join(self.tasks)}",
            )
        return self.shares[self.circuits.index(circuit)][self.tasks.index(task)]

    def lines(self) -> tuple[str, ...]:
        """Return the table, a circuit a line."""
        found = [f"{len(self.circuits)} circuits on {len(self.tasks)} tasks, mode {self.mode}"]
        for name, row in zip(self.circuits, self.shares, strict=True):
            cells = ", ".join(f"{t} {s}" for t, s in zip(self.tasks, row, strict=True))
            found.append(f"  {name}: {cells}")
        return tuple(found)

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the table; a cell without a number has a dash."""
        values = np.array(
            [[np.nan if s.estimate is None else s.estimate for s in row] for row in self.shares]
        )
        figure, axes = new_axes(2.6 + 0.75 * len(self.tasks), 1.6 + 0.36 * len(self.circuits))
        heat_map(axes, values, self.circuits, self.tasks, "share of the task's behaviour")
        axes.set_title(self.lines()[0], fontsize=8, loc="left")
        return write_figure(figure, path, self.lines()[0])


@torch.no_grad()
def transfer_matrix(
    model: HookedMamba,
    circuits: Mapping[str, Any],
    prompts: Mapping[str, Looked],
    *,
    mode: Mode = "ablate",
    intervention: Intervention | None = None,
    metric: Metric | str = logit_difference,
    progress: bool = True,
    seed: int = 0,
) -> TransferMatrix:
    """Measure what each circuit does on each task, on the discovery halves.

    Args:
        model: The model.
        circuits: Name -> a circuit, or a record with `circuit()`.
        prompts: Task -> its prompts; the discovery half is taken.
        mode: `ablate`: lost without it; `restore`: brought back by it alone; `keep`: kept when all
            else of its kinds is ablated, against everything being ablated.
        intervention: `ResampleAblation()` by default.
        metric: A metric, or its name.
        progress: Show a bar on stderr, where that is a terminal.
        seed: For the intervals.

    Returns:
        The table. A circuit that names a role which a task's prompts do not have has no number
        there, and the reason.

    Raises:
        DiscoveryError: No circuit or task, an unknown mode, or something that is no circuit.
        MetricError: A task whose clean and corrupted prompts score alike; names it.

    Sources: Wang et al. 2022 and Merullo et al. 2024 (circuits of one task on another).
    """
    if mode not in MODES:
        raise DiscoveryError(f"there is no mode {mode!r}", given=mode, expected=", ".join(MODES))
    if not circuits or not prompts:
        raise DiscoveryError("a table needs circuits and tasks", expected="one of each at least")
    chosen = {name: _circuit(name, one) for name, one in circuits.items()}
    read = metric_by_name(metric) if isinstance(metric, str) else metric
    columns: dict[str, list[Share]] = {}
    cores: list[About] = []
    for task, these in prompts.items():
        runner = looking_runner(model, these)
        bench = Bench(runner, (), (), intervention or ResampleAblation(), read, progress)
        gap = bench.mean(bench.clean - bench.corrupted)
        if not abs(gap) > SMALLEST_GAP:
            raise MetricError(
                f"clean and corrupted prompts of {task} score alike",
                given=f"{read.name} differs by {gap:.3g} {read.unit}",
                expected="a model that does every task of the table",
            )
        columns[task] = [_cell(bench, one, mode, f"{task}|{n}", seed) for n, one in chosen.items()]
        cores.append(about("transfer_matrix", model, bench.pairs, metric=read.name))
    everything = Fingerprints()
    for one in (*(core.fitted_on for core in cores), *_seen(chosen)):
        everything |= one
    core = About(
        "transfer_matrix", cores[0].model,
        tuple(name for core in cores for name in core.prompt_ids),
        tuple(name for core in cores for name in core.templates),
        everything, read.name, {"mode": mode, "seed": seed},
    )  # fmt: skip
    rows = tuple(tuple(columns[task][at] for task in prompts) for at in range(len(chosen)))
    return TransferMatrix(core, tuple(chosen), tuple(prompts), rows, mode)


def _circuit(name: str, one: Any) -> Circuit:
    found = one if isinstance(one, Circuit) else getattr(one, "circuit", lambda: None)()
    if not isinstance(found, Circuit):
        raise DiscoveryError(
            f"{name} is no circuit",
            given=type(one).__name__,
            expected="a Circuit, or a record with circuit()",
        )
    return found


def _seen(circuits: Mapping[str, Circuit]) -> list[Fingerprints]:
    return [one.fitted_on for one in circuits.values() if one.fitted_on is not None]


def _cell(bench: Bench, circuit: Circuit, mode: Mode, key: str, seed: int) -> Share:
    try:
        bench.runner.planner.plan(circuit)
    except PositionError as error:
        return Share(None, reason=error.what)
    there = bench.clean - bench.corrupted
    if mode == "ablate":
        moved = bench.clean - bench.edited([[circuit]], bench.ablation)[0]
    elif mode == "restore":
        moved = restored(bench, [[circuit]])[0] - bench.corrupted
    else:
        model = bench.runner.model
        rest, all_ = complement_of(circuit, [circuit], model), universe_of(circuit, model)
        kept, empty = bench.edited([rest, all_], bench.ablation)
        moved, there = kept - empty, bench.clean - empty
    return share_over_templates(moved, there, bench.labels, key=key, seed=seed)
