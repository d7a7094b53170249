"""How much memory does a cache take, with and without rebuilding, and in the peers?

Run as a script: prints megabytes, writes results/memory_cache.json. Every contender runs in a
process of its own; what counts is the peak of its resident memory over what it held just before,
weights loaded and one short prompt run. Weights are random, of the shape of the 130m model.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peers import hf_model, lens_model
from results import table, write

from mechtest import HookedMamba, MambaCfg

SHAPE: dict[str, Any] = {"d_model": 768, "n_layer": 24, "vocab_size": 50280, "d_state": 16}
CASES = {
    "every hook, B=32 L=17": (32, 17),
    "resid_post of all layers + hook_h at the last position, B=1 L=2048": (1, 2048),
}
CONTENDERS = ("forward only", "mechtest", "mechtest, rebuild=False", "mamba-lens", "transformers")
Run = Callable[[torch.Tensor], Any]


def names(n_pos: int, n_layers: int, *, every: bool) -> list[str] | None:
    """Return what the filter asks for."""
    if every:
        return None
    return [
        f"blocks.{layer}.{hook}"
        for layer in range(n_layers)
        for hook in ("hook_resid_post", f"hook_h.{n_pos - 1}")
    ]


def contender(what: str, case: str) -> tuple[Run, Run]:
    """Return what one contender does to warm up, and what is measured."""
    _, n_pos = CASES[case]
    cfg = MambaCfg(**SHAPE)
    wanted = names(n_pos, cfg.n_layer, every=case.startswith("every"))
    if what == "mamba-lens":
        theirs = lens_model(cfg)
        return theirs, lambda tokens: theirs.run_with_cache(tokens, names_filter=wanted)
    ours = HookedMamba(cfg)
    if what == "transformers":
        hf = hf_model(ours)
        return hf, lambda tokens: hf(tokens, use_cache=False, output_hidden_states=True)
    if what == "forward only":
        return ours, ours
    rebuild = what == "mechtest"
    return ours, lambda tokens: ours.run_with_cache(tokens, names_filter=wanted, rebuild=rebuild)


def resident() -> float:
    """Return the memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def measure(what: str, case: str) -> dict[str, float]:
    """Run once, and return the peak over the start and what is held afterwards, in MB."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=FutureWarning)
    tokens = torch.randint(0, SHAPE["vocab_size"], CASES[case])
    with torch.no_grad():
        warm_up, run = contender(what, case)
        gc.collect()
        warm_up(tokens[:1, :3])
        before = resident()
        # Drawing the weights took more than holding them: start the high-water mark anew.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        kept = run(tokens)
        found = {"peak": peak() - before, "held": resident() - before}
        del kept
    return {name: round(value) for name, value in found.items()}


def peak() -> float:
    """Return the high-water mark of the memory of this process in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024 / 1e6


def main() -> None:
    """Measure every contender in every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "CASE"), help="for this script")
    one = parser.parse_args().one
    if one:
        print(json.dumps(measure(*one)))
        return
    rows = []
    for case in CASES:
        for what in CONTENDERS:
            command = [sys.executable, __file__, "--one", what, case]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            rows.append({"case": case, "what": what, **json.loads(done.stdout.splitlines()[-1])})
            print(rows[-1], flush=True)
    print("\nMB over the process with its weights: peak, and held afterwards\n")
    header = ["case", "contender", "peak", "held"]
    print(table(header, [[row["case"], row["what"], row["peak"], row["held"]] for row in rows]))
    write("memory_cache", {"shape": SHAPE, "unit": "MB", "rows": rows})


if __name__ == "__main__":
    main()
