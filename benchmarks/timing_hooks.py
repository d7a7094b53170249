"""How long do a forward pass, a full cache and the README's sweep take, compared with the peers?

Run as a script: prints ratios, writes results/timing_hooks.json. All contenders of a row run in one
process on one thread, in rounds, in an order that turns from round to round; what is compared is
CPU time. A ratio below 1 means that mechtest is faster.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from edits import taken_from
from peers import Pair, hf_model, random_pair, zoo_pair
from results import table, write

N_POS = 17
TINY: dict[str, Any] = {"d_model": 128, "n_layer": 4, "vocab_size": 1024, "d_state": 16}
Run = Callable[[], object]
OURS = "mechtest"
PEERS = ("mamba-lens", "transformers")


def cpu_seconds(run: Run) -> float:
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
                times[name].append(cpu_seconds(runs[name]))
            gc.collect()
    finally:
        gc.enable()
    return times


def ratios(times: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return our time over each peer's: of the minima, and the median over rounds."""
    ours = times[OURS]
    return {
        name: {
            "minimum": round(min(ours) / min(theirs), 3),
            "median": round(statistics.median(a / b for a, b in zip(ours, theirs, strict=True)), 3),
        }
        for name, theirs in times.items()
        if name != OURS
    }


def sweep(model: Any, tokens: torch.Tensor, cache: Any, n_layers: int) -> None:
    """Patch hook_h at every layer and position, one run each, as the README does."""
    for layer in range(n_layers):
        for position in range(N_POS):
            name = f"blocks.{layer}.hook_h.{position}"
            model.run_with_hooks(tokens, fwd_hooks=[(name, taken_from(cache))])


def contests(pair: Pair, batch: int) -> dict[str, dict[str, Run]]:
    """Return what is timed for one model and batch size, ours first."""
    ours, theirs, hf = pair.ours, pair.theirs, hf_model(pair.ours)
    tokens = pair.tokens(batch, N_POS)
    # All of ours also holds the convolution windows and what is written into the state.
    shared = list(theirs.run_with_cache(tokens)[1])
    found: dict[str, dict[str, Run]] = {
        "forward": {
            OURS: lambda: ours(tokens),
            "mamba-lens": lambda: theirs(tokens),
            "transformers": lambda: hf(tokens, use_cache=False),
        },
        "run_with_cache, all": {
            OURS: lambda: ours.run_with_cache(tokens),
            "mamba-lens": lambda: theirs.run_with_cache(tokens),
        },
        "run_with_cache, same hooks": {
            OURS: lambda: ours.run_with_cache(tokens, names_filter=shared),
            "mamba-lens": lambda: theirs.run_with_cache(tokens),
        },
    }
    if batch == 1:
        n_layers = ours.cfg.n_layer
        ours_cache, theirs_cache = (m.run_with_cache(tokens)[1] for m in (ours, theirs))
        found["README's hook_h sweep"] = {
            OURS: lambda: sweep(ours, tokens, ours_cache, n_layers),
            "mamba-lens": lambda: sweep(theirs, tokens, theirs_cache, n_layers),
        }
    return found


def main() -> None:
    """Run every contest and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="rounds of each contest")
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for pair in (random_pair("tiny", 0, **TINY), zoo_pair()):
            for batch in (1, 32):
                for what, runs in contests(pair, batch).items():
                    n = max(3, rounds // 5) if "sweep" in what else rounds
                    about = {"model": pair.name, "batch": batch, "what": what, "rounds": n}
                    rows.append({**about, "ours_over": ratios(compete(runs, n))})
                    print(pair.name, f"B={batch}", what, rows[-1]["ours_over"], flush=True)
    print("\nCPU time of mechtest over the peer's (minimum, median over rounds)\n")
    header = ["model", "B", "what", *(f"over {peer}" for peer in PEERS)]
    print(table(header, [
        [r["model"], r["batch"], r["what"], *(cell(r, peer) for peer in PEERS)]
        for r in rows
    ]))  # fmt: skip
    write("timing_hooks", {"positions": N_POS, "threads": 1, "rows": rows})


def cell(row: dict[str, Any], peer: str) -> str:
    """Return one ratio as text."""
    ratio = row["ours_over"].get(peer)
    return f"{ratio['minimum']:.2f}, {ratio['median']:.2f}" if ratio else ""


if __name__ == "__main__":
    main()
