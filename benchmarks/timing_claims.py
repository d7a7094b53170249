"""How long do the claims take with more workers, and how long does one worker take to start?

Ratios are paired: the runs of one round follow each other, in an order that changes every round.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
MODEL = "fixtures/zoo/prose/seed0/step-02500"
STARTS = {
    "import torch": "import torch",
    "load the plugin": "import mechtest.plugin",
    "load a model and read a prompt": (
        "import mechtest as mt\n"
        f"model = mt.HookedMamba.from_pretrained({MODEL!r})\n"
        "model.to_tokens('The')\nmt.assert_necessary"
    ),
}


def seconds(command):
    """Return how long a command takes."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - start


def claims(workers):
    """Return how long all claims take."""
    with tempfile.TemporaryDirectory() as place:
        options = ["-q", "-p", "no:cacheprovider", f"--mechtest-report={place}"]
        return seconds([sys.executable, "-m", "pytest", "claims", "-n", str(workers), *options])


def rounds(measure, names, count):
    """Return {name: [seconds, one a round]}; each round runs all of them, in its own order."""
    found = {name: [] for name in names}
    for index in range(count):
        order = list(names)
        random.Random(index).shuffle(order)
        for name in order:
            found[name].append(measure(name))
    return found


def table(found, base):
    """Print ratios to `base`, paired by round, and medians."""
    for name, values in found.items():
        ratios = [value / other for value, other in zip(values, found[base], strict=True)]
        spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
        middle = statistics.median(ratios)
        print(f"| {name} | {middle:.2f} | {spread} | {statistics.median(values):.1f} s |")


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="rounds of start-up times")
    parser.add_argument("--claims", type=int, default=1, help="rounds of whole claim runs")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    print(f"{os.cpu_count()} cores\n\n| what | ratio (median) | range | median |")
    print("| --- | --- | --- | --- |")
    start = rounds(lambda name: seconds([sys.executable, "-c", STARTS[name]]), STARTS, args.rounds)
    table(start, "import torch")
    if args.claims:
        table(rounds(claims, [0, 2, 4], args.claims), 0)


if __name__ == "__main__":
    main()
