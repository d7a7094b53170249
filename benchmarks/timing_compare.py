"""How long does `mechtest compare` take on two reports of 500 claims, and does it import torch?

`python benchmarks/timing_compare.py` prints the shortest of several runs of the whole command, with
the start of Python: the target is 2 s.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.report.example import evidence, report_of, row  # noqa: E402

PROMPTS, TEMPLATES = 128, 24


def write_report(path: Path, claims: int, kept: float) -> None:
    """Write a report of claims with one paired measurement each."""
    rng = random.Random(0)
    rows = []
    for number in range(claims):
        part = evidence(
            rng,
            prompts=PROMPTS,
            templates=tuple(f"template {index % TEMPLATES}" for index in range(PROMPTS)),
            prompt_digests=tuple(f"{index:016x}" for index in range(PROMPTS)),
        )
        part["effects"] = [kept * value for value in part["effects"]]
        rows.append(row(f"test_{number}", f"claim {number}", "supported", [part]))
    path.write_text(json.dumps(report_of(rows)), encoding="utf-8")


def main() -> None:
    """Write two reports and time the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--claims", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    code = (
        "import sys; from mechtest.cli import main; status = main(sys.argv[1:]); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("before.json", "after.json")]
        for path, kept in zip(paths, (1.0, 0.97), strict=True):
            write_report(path, args.claims, kept)
        words = [sys.executable, "-c", code, "compare", *map(str, paths)]
        times = []
        for _ in range(args.repeats):
            started = time.perf_counter()
            subprocess.run(words, cwd=ROOT, check=True, capture_output=True)
            times.append(time.perf_counter() - started)
    print(f"{args.claims} claims: {min(times):.2f} s (all: {sorted(times)})")


if __name__ == "__main__":
    main()
