"""What does a state update cost in each implementation of the scan, and what its gradient?

Run as a script: prints ratios, writes results/timing_kernels.json. All contenders of a row run in
one process on one thread, in rounds, in an order that turns from round to round. A ratio above 1
means that the kernel is faster than the loop over A_bar and B_bar x that it replaces.
"""

from __future__ import annotations

import argparse
import gc
import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from results import table, write

from mechtest.errors import MechtestError
from mechtest.kernels import discretize, selective_scan
from mechtest.kernels.backends import VARIABLE, backend_for
from mechtest.kernels.segments import prepare_decay

SHAPES = ((1, 17, 1536), (32, 17, 1536), (256, 17, 1536), (1, 256, 1536), (32, 256, 256))
D_STATE = 16
LOOP = "materialised loop"
Run = Callable[[], object]


def backends() -> dict[str, Any]:
    """Return every implementation this machine has."""
    found = {}
    for name in ("native", "numba", "torch"):
        os.environ[VARIABLE] = name
        try:
            found[name] = backend_for("cpu", torch.float32)
        except MechtestError as error:
            print(f"left out: {error}")
    del os.environ[VARIABLE]
    return found


def inputs(batch: int, length: int, width: int) -> dict[str, torch.Tensor]:
    """Return a batch of prompts: B and C are slices of one projection, as in the model."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    small = draw(batch, length, 48 + 2 * D_STATE)
    return {
        "x": draw(batch, length, width),
        "delta": torch.nn.functional.softplus(draw(batch, length, width) - 3),
        "A": -torch.arange(1.0, D_STATE + 1).repeat(width, 1),
        "B": small[..., 48 : 48 + D_STATE],
        "C": small[..., 48 + D_STATE :],
        "h_start": torch.zeros(batch, width, D_STATE),
    }


def loop(given: dict[str, torch.Tensor]) -> torch.Tensor:
    """Scan as published torch code does: A_bar and B_bar x of all positions first."""
    x, delta, A, B, C, h_start = given.values()
    decays, B_bar = discretize(delta, A, B)
    writes = B_bar * x.unsqueeze(-1)
    return selective_scan(x, delta, A, B, C, h_start, decays=decays, writes=writes)[0]


def packed(given: dict[str, torch.Tensor]) -> list[Any]:
    """Return the arguments of a backend's scan for the same batch."""
    batch, length, _ = given["x"].shape
    rows = [given[name].flatten(0, 1) for name in ("x", "delta", "B", "C")]
    states = given["h_start"].transpose(1, 2).contiguous()
    starts = torch.arange(batch + 1) * length
    first = [rows[0], rows[1], prepare_decay(given["A"]), rows[2], rows[3], states, starts]
    return [*first, None, None, None, None, False]


def seconds(run: Run) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    run()
    return time.process_time() - start


def compete(runs: dict[str, Run], rounds: int) -> dict[str, list[float]]:
    """Time all contenders, interleaved; one untimed round comes first."""
    names = list(runs)
    times: dict[str, list[float]] = {name: [] for name in names}
    for run in runs.values():
        run()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                times[name].append(seconds(runs[name]))
    finally:
        gc.enable()
    return times


def repeated(run: Run, times: int) -> Run:
    """Return a run of several calls: one alone is too short for the clock."""

    def run_all() -> None:
        for _ in range(times):
            run()

    return run_all


def backward_run(backend: Any, arguments: list[Any]) -> Run:
    """Return the backward pass alone, over a forward pass that is kept."""
    leaves = [each.detach().clone().requires_grad_() for each in arguments[:6]]
    out = backend.scan_with_gradient(*leaves, *arguments[6:])[0]
    above = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, leaves, above, retain_graph=True)


def ratio(over: list[float], under: list[float]) -> dict[str, float]:
    """Return the ratio of the fastest rounds, and the median of the ratios within rounds."""
    within = [a / b for a, b in zip(over, under, strict=True)]
    return {
        "minimum": round(min(over) / min(under), 2),
        "median": round(statistics.median(within), 2),
    }


def measured(shape: tuple[int, int, int], found: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Return one row of figures."""
    given = inputs(*shape)
    arguments = packed(given)
    states = math.prod(shape) * D_STATE
    calls = max(1, 2_000_000 // states)
    runs: dict[str, Run] = {LOOP: repeated(lambda: loop(given), calls)}
    for name, backend in found.items():
        runs[name] = repeated(lambda b=backend: b.scan(*arguments), calls)
    with torch.no_grad():
        times = compete(runs, rounds)
    compiled = {name: each for name, each in found.items() if name != "torch"}
    both: dict[str, Run] = {}
    for name, backend in compiled.items():
        both[f"{name} forward"] = repeated(lambda b=backend: b.scan(*arguments), calls)
        both[f"{name} backward"] = repeated(backward_run(backend, arguments), calls)
    spent = compete(both, rounds)
    back = {name: ratio(spent[f"{name} backward"], spent[f"{name} forward"]) for name in compiled}
    per_state = {name: round(min(each) / calls / states * 1e9, 3) for name, each in times.items()}
    print(shape, "ns per state", per_state, "backward over forward", back, flush=True)
    return {
        "batch_length_width": shape,
        "loop_over": {name: ratio(times[LOOP], times[name]) for name in found},
        "backward_over_forward": back,
    }


def main() -> None:
    """Measure every shape, print the ratios and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each shape")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    found = backends()
    rows = [measured(shape, found, rounds) for shape in SHAPES]
    print("\nCPU time of the loop over ours; of backward over forward (minimum, median)\n")
    header = ["B, L, E", *found, *(f"{name} backward" for name in found if name != "torch")]
    lines = []
    for row in rows:
        each = (*row["loop_over"].values(), *row["backward_over_forward"].values())
        shape = ", ".join(map(str, row["batch_length_width"]))
        lines.append([shape, *(f"{pair['minimum']}, {pair['median']}" for pair in each)])
    print(table(header, lines))
    data = {"d_state": D_STATE, "threads": 1, "rounds": rounds, "rows": rows}
    write("timing_kernels", data, ("mechtest", "torch", "numba"))


if __name__ == "__main__":
    main()
