"""How often is an effect at another checkpoint called held, by the test and by three others?

Writes the table of docs/statistics.md: `python benchmarks/noninferiority.py` (some minutes).
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.calibration import checkpoints  # noqa: E402

PAGE = ROOT / "docs" / "statistics.md"
START, END = "<!-- table: benchmarks/noninferiority.py -->", "<!-- end of table -->"
TEMPLATES = (6, 10, 20)
KEPT = (
    (0.8, 'lost just the margin, .2: a false "held"'),
    (0.65, 'lost .35: a false "held"'),
    (0.9, "lost .1"),
    (1.0, "lost nothing"),
)
RULES = (
    ("paired, sign flips (used)", checkpoints.paired),
    ("unpaired, template means", checkpoints.unpaired),
    ("paired, t over prompts", checkpoints.per_prompt),
    ("no significant difference", checkpoints.no_difference),
)


def lines(runs: int) -> list[str]:
    """Return the table."""
    header = ["called held, 6 / 10 / 20 templates", *(name for name, _ in RULES)]
    rows = [header, ["---"] * len(header)]
    for kept, what in KEPT:
        cells = [what]
        for _, rule in RULES:
            rates = [checkpoints.rate(rule, clusters, kept, runs) for clusters in TEMPLATES]
            cells.append(" / ".join(f"{rate:.3f}".removeprefix("0") for rate in rates))
        rows.append(cells)
    gone = [checkpoints.rate(checkpoints.regressed, n, 0.65, runs) for n in TEMPLATES]
    called = " / ".join(f"{rate:.3f}".removeprefix("0") for rate in gone)
    table = ["| " + " | ".join(row) + " |" for row in rows]
    return [*table, "", f"A loss of .35 is called regressed in {called} ({runs} runs each)."]


def main() -> None:
    """Measure, and put the table into its page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    found = lines(parser.parse_args().runs)
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(START)
    _, _, tail = rest.partition(END)
    PAGE.write_text("\n".join([head + START, *found, END]) + tail, encoding="utf-8")
    print("\n".join(found))


if __name__ == "__main__":
    main()
