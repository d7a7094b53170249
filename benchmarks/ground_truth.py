"""What do assertions answer to claims whose truth is known by construction?

Every row of truth of every compiled family, with noise on all weights, at level .05. Writes
docs/ground_truth.md; tests/compiled/test_claims.py asks the same claims.

    PYTHONPATH=. python benchmarks/ground_truth.py
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import jaxtyping
from results import table
from tqdm import tqdm

from tests.compiled.builds import MIXED, NAMES
from tests.compiled.claims_of_rows import NOISE, build, verdicts

PAGE = Path(__file__).parents[1] / "docs" / "ground_truth.md"
START, END = "<!-- tables: benchmarks/ground_truth.py -->", "<!-- end of tables -->"
COLUMNS = {
    "check_necessary above": "necessary, above effect - .15",
    "check_sufficient above": "sufficient, above effect - .15",
    "check_necessary beyond": "necessary, above effect + .15",
    "check_not_necessary": "not necessary, below .2",
    "check_minimal": "minimal",
    "check_minimal, one too many": "minimal, an idle channel added",
}


def asked() -> tuple[dict[str, list[list[str]]], Counter[str]]:
    """Return a table a family, and how often an answer was right, open or wrong."""
    tables: dict[str, list[list[str]]] = {}
    counts: Counter[str] = Counter()
    for name in tqdm(NAMES, unit="family"):
        compiled = build(name)
        tables[name] = []
        for row in compiled.truth:
            cells = dict.fromkeys(COLUMNS, "")
            for claim, found, right in verdicts(compiled, row):
                outcome = "wrong" if found not in right else "right"
                if outcome == "right" and found == "inconclusive":
                    outcome = "open"
                counts[outcome] += 1
                cells[claim] = found if outcome != "wrong" else f"**{found}** (wrong)"
            shares = f"{row.ablated:.2f}, {row.restored:.2f}"
            tables[name].append([row.name, ", ".join(row.roles), shares, *cells.values()])
    return tables, counts


def main() -> None:
    """Ask all claims, and write the page."""
    jaxtyping.config.update("jaxtyping_disable", True)  # noqa: FBT003
    tables, counts = asked()
    header = ["row", "roles", "ablated, restored", *COLUMNS.values()]
    total = sum(counts.values())
    summary = (
        f"{total} claims, share {MIXED:g} in the first path, noise {NOISE:g} on every weight: "
        f"**{counts['wrong']} wrong**, {counts['right']} decided rightly, {counts['open']} left "
        "open (inconclusive)."
    )
    parts = [summary]
    for name, rows in tables.items():
        parts.append(f"### {name}\n\n{table(header, rows)}")
    before, rest = PAGE.read_text(encoding="utf-8").split(START)
    _, after = rest.split(END)
    body = "\n\n".join(parts)
    PAGE.write_text(f"{before}{START}\n\n{body}\n\n{END}{after}", encoding="utf-8")
    print(dict(counts))


if __name__ == "__main__":
    main()
