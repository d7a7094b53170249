"""How long until a worker can check a claim, compared with importing torch alone?

Run as a script: prints ratios, writes results/timing_startup.json. Every figure is the wall time of
a process of its own, from its start until it is ready (it ends there and then, without tidying up).
A round runs all of them one after the other, in an order that changes from round to round; ratios
are taken within a round. Compiled modules are kept, as everywhere but in some containers: in a
folder of the benchmark's own, which a first round that is not counted fills.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import results

ROOT = Path(__file__).parents[1]
MODEL = "fixtures/zoo/prose/seed0/step-02500"
PROMPTS = "fixtures/prompts/gender.jsonl"
BASE = "import torch"
LOADED = f"import mechtest as mt\nmodel = mt.HookedMamba.from_pretrained({MODEL!r})\n"
READY = (
    "import mechtest.plugin\n"
    f"{LOADED}"
    f"mt.PromptPairs.from_jsonl({PROMPTS!r}).encode(model.tokenizer)\n"
    "mt.assert_necessary\n"
)
END = "import os; os._exit(0)"
CLAIM = f"""
import mechtest as mt

pytestmark = mt.family("start", model="fixtures/zoo/prose", prompts={PROMPTS!r})


@mt.claim("A worker is ready")
def test_start(mamba, prompts):
    mt.assert_necessary
    prompts.encode(mamba.tokenizer)
    {END}
"""
STEPS = {
    BASE: "import torch",
    "load the plugin": "import mechtest.plugin",
    "load a model": LOADED,
    "worker ready": READY,
    "the same through transformers": "import transformers.tokenization_utils_tokenizers\n" + READY,
}
PYTEST = "pytest up to the body of a claim"
RUN = ["-q", "-n", "0", "-p", "no:cacheprovider", f"--rootdir={ROOT}", "-c", "pyproject.toml"]
RUN += ["--mechtest-report="]


def seconds(what: str, claim: Path) -> dict[str, float]:
    """Return the seconds that one process takes; what it compiles is kept beside the claim."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(claim.parent / "compiled")}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    command = (
        ["-c", f"{STEPS[what]}\n{END}"] if what in STEPS else ["-m", "pytest", str(claim), *RUN]
    )
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{what!r} ended with {process.returncode}")
    return {"cpu": usage.ru_utime + usage.ru_stime, "wall": wall}


def rounds(names: list[str], count: int, claim: Path) -> list[dict[str, dict[str, float]]]:
    """Return seconds by name, one record a round, without the round that fills the caches."""
    found = []
    for index in range(count + 1):
        order = list(names)
        random.Random(index).shuffle(order)
        found.append({name: seconds(name, claim) for name in order})
    return found[1:]


def ratios(found: list[dict[str, dict[str, float]]], name: str, clock: str) -> dict[str, float]:
    """Return a name's ratio to the bare import: paired by round, and of the fastest runs."""
    paired = sorted(one[name][clock] / one[BASE][clock] for one in found)
    fastest = [min(one[which][clock] for one in found) for which in (name, BASE)]
    quartiles = statistics.quantiles(paired, n=4, method="inclusive")
    return {
        "median": round(quartiles[1], 3),
        "lower_quartile": round(quartiles[0], 3),
        "upper_quartile": round(quartiles[2], 3),
        "fastest": round(fastest[0] / fastest[1], 3),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=11)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    names = [*STEPS, PYTEST]
    with tempfile.TemporaryDirectory() as place:
        claim = Path(place) / "test_start.py"
        claim.write_text(CLAIM, encoding="utf-8")
        found = rounds(names, args.rounds, claim)
    table = {name: {c: ratios(found, name, c) for c in ("cpu", "wall")} for name in names}
    rows = [[name, *(shown(table[name][clock]) for clock in ("cpu", "wall"))] for name in names]
    print(results.table([f"over `{BASE}`", "CPU time (quartiles)", "wall time (quartiles)"], rows))
    data = {"rounds": args.rounds, "over_import_torch": table}
    results.write("timing_startup", data, compared=("mechtest", "torch", "transformers", "pytest"))


def shown(ratio: dict[str, float]) -> str:
    """Return a ratio as people read it."""
    low, high = ratio["lower_quartile"], ratio["upper_quartile"]
    return f"{ratio['median']:.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
