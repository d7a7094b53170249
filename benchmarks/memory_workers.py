"""How much memory do four workers take that hold the same model?

Run as a script: writes a random model of the size of mamba-130m into a temporary folder, starts
four processes that load it and run one prompt, and four that import the same and load nothing.
Memory is the proportional set size: a page that several processes map counts in parts, so the sum
is what the machine has to have. Prints ratios to the model's file; writes
results/memory_workers.json. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import results

ROOT = Path(__file__).parents[1]
SHAPE = {"hidden_size": 768, "num_hidden_layers": 24, "vocab_size": 50280}
TARGET = 1.1  # cached activations are nobody's but the worker's, so that row has no target
HELD_TO_IT = ("loaded", "one forward pass")
WRITE = """
import sys, torch
from mechtest.checkpoints import config_from_hf, save_hf
from mechtest.models import HookedMamba
shape = {shape}
config = dict(model_type="mamba", state_size=16, conv_kernel=4, expand=2, time_step_rank=48,
              use_bias=False, use_conv_bias=True, tie_word_embeddings=True,
              layer_norm_epsilon=1e-5, intermediate_size=2 * shape["hidden_size"], **shape)
model = HookedMamba(config_from_hf(config))
save_hf(sys.argv[1], model.cfg, model.native_state_dict())
"""
# Both kinds import the same; a process says that it is ready, and ends with its input.
HOLD = """
import sys, torch
import mechtest as mt, mechtest.models, mechtest.assertions, mechtest.checkpoints.load
import safetensors.torch, tokenizers
from mechtest.models.mamba import HookedMamba
small = HookedMamba.from_pretrained({small!r})
with torch.inference_mode():
    small(torch.arange(4, 20)[None])
model = {load}
{use}
print("ready", flush=True)
sys.stdin.read()
"""
LOAD = "HookedMamba.from_pretrained({place!r})"
USES = {
    "loaded": "",
    "one forward pass": "with torch.inference_mode():\n    model(torch.arange(1, 17)[None])",
    "all activations cached": (
        "with torch.inference_mode():\n    model.run_with_cache(torch.arange(1, 17)[None])"
    ),
}


def held(code: str, count: int) -> dict[str, int]:
    """Return bytes over all of `count` processes: proportional, private, and shared with files."""
    command = [sys.executable, "-c", code]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = [subprocess.Popen(command, cwd=ROOT, text=True, **pipes) for _ in range(count)]
    try:
        for process in processes:
            assert process.stdout is not None
            if process.stdout.readline() != "ready\n":
                raise RuntimeError("a process ended before it was ready")
        found = [rollup(process.pid) for process in processes]
    finally:
        for process in processes:
            process.communicate("")
    return {name: sum(one[name] for one in found) for name in found[0]}


def rollup(pid: int) -> dict[str, int]:
    """Return what the kernel says about one process, in bytes."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return {
        "pss": sizes["Pss"],
        "anonymous": sizes["Pss_Anon"],
        "file": sizes["Pss_File"],
        "rss": sizes["Rss"],
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=4)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    small = str(ROOT / "fixtures/zoo/prose/seed0/step-02500")
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/model"
        code = WRITE.format(shape=json.dumps(SHAPE))
        subprocess.run([sys.executable, "-c", code, place], cwd=ROOT, check=True)
        size = sum(path.stat().st_size for path in Path(place).glob("*.safetensors"))
        base = held(HOLD.format(small=small, load="None", use=""), args.workers)
        load = LOAD.format(place=place)
        found = {
            what: held(HOLD.format(small=small, load=load, use=use), args.workers)
            for what, use in USES.items()
        }
    table = {
        what: {kind: round((one[kind] - base[kind]) / size, 3) for kind in base}
        for what, one in found.items()
    }
    rows = [[what, *(f"{row[k]:.2f}" for k in base)] for what, row in table.items()]
    header = ["over the processes without a model", *(f"{kind} / model file" for kind in base)]
    print(results.table(header, rows))
    reached = all(table[what]["pss"] <= TARGET for what in HELD_TO_IT)
    print(f"target {TARGET} for {' and '.join(HELD_TO_IT)}: {'reached' if reached else 'missed'}")
    data = {
        "workers": args.workers,
        "shape": SHAPE,
        "base_over_model_file": round(base["pss"] / size, 3),
        "over_model_file": table,
        "target": TARGET,
    }
    results.write("memory_workers", data, compared=("mechtest", "torch", "safetensors"))


if __name__ == "__main__":
    main()
