"""What does the long calibration run come to, as a page with tables and a picture?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from results import table
from scipy.stats import binomtest

__all__ = ["write_page"]

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = DOCS / "calibration.md", DOCS / "calibration.svg"
START, END = "<!-- tables: benchmarks/calibration.py -->", "<!-- end of tables -->"

Row = Mapping[str, object]


@dataclass
class Total:
    """All parts of one cell at one level.

    Attributes:
        null: What is not true, or what is.
        claims: Number of claims.
        verdicts: How often each.
        controls: Drawn in all.
        rejected: By a naive test.
    """

    null: str = ""
    claims: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    controls: int = 0
    rejected: int = 0

    def add(self, row: Row) -> None:
        """Count one part."""
        self.null = str(row["null"])
        self.claims += int(str(row["claims"]))
        self.controls += int(str(row.get("controls", 0)))
        self.rejected += int(str(row.get("rejected", 0)))
        verdicts = row.get("verdicts", {})
        assert isinstance(verdicts, dict)
        self.verdicts.update(verdicts)

    def rate(self, verdict: str = "supported") -> float:
        """Share of claims with a verdict."""
        return self.verdicts[verdict] / self.claims

    def interval(self, count: int) -> tuple[float, float]:
        """Exact 95 % interval of a count's rate."""
        found = binomtest(count, self.claims).proportion_ci(0.95)
        return float(found.low), float(found.high)


Totals = dict[tuple[str, str, float], Total]


def totals(rows: Sequence[Row]) -> Totals:
    """Add up the parts by kind, cell and level."""
    found: Totals = defaultdict(Total)
    for row in rows:
        found[str(row["kind"]), str(row["cell"]), float(str(row["level"]))].add(row)
    return found


def write_page(rows: Sequence[Row]) -> None:
    """Put the tables into docs/calibration.md, and draw its picture."""
    found = totals(rows)
    parts = [_nulls(found), _powers(found), _naive(found)]
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    _, after = rest.split(END)
    body = "\n\n".join(part for part in parts if part)
    PAGE.write_text(f"{before}{START}\n\n{body}\n\n{END}{after}", encoding="utf-8")
    _draw(found)


def _nulls(found: Totals) -> str:
    cells = sorted({cell for kind, cell, _ in found if kind == "null"})
    levels = sorted({level for kind, _, level in found if kind == "null"}, reverse=True)
    rows = []
    for cell in cells:
        model, assertion, _ = cell.split(" | ")
        first = next(t for (k, c, _), t in found.items() if k == "null" and c == cell)
        row: list[object] = [model, assertion, first.null]
        for level in levels:
            total = found.get(("null", cell, level))
            row.append("" if total is None else _rate(total, total.verdicts["supported"]))
        total = found.get(("null", cell, levels[0]))
        row.append("" if total is None else f"{total.controls / total.claims:.1f}")
        row.append("" if total is None else f"{total.claims}")
        rows.append(row)
    header = ["model", "assertion", "not true because", *(f"at {level:g}" for level in levels)]
    lines = [
        "### Called supported although it is not true",
        table([*header, "controls", "claims"], rows),
    ]
    return "\n\n".join(lines)


def _rate(total: Total, count: int) -> str:
    low, high = total.interval(count)
    return f"{count / total.claims:.4f} [{low:.4f}, {high:.4f}]"


def _powers(found: Totals) -> str:
    rows = []
    for (kind, cell, level), total in sorted(found.items()):
        if kind != "power":
            continue
        model, assertion, planned = cell.split(" | ")
        count = total.verdicts["supported"]
        rows.append(
            [
                model, assertion, total.null, planned.removeprefix("planned "),
                _rate(total, count), f"{total.controls / total.claims:.1f}", f"{level:g}",
            ]
        )  # fmt: skip
    header = ["model", "assertion", "truth", "planned power", "found", "controls", "level"]
    return "" if not rows else "### Found when it is true\n\n" + table(header, rows)


def _naive(found: Totals) -> str:
    rows = []
    for (kind, cell, level), total in sorted(found.items()):
        if kind != "naive":
            continue
        model, assertion, way = cell.split(" | ")
        test = "t test over prompts" if way == "boundary" else "t test of an effect above zero"
        ours = found.get(("null", cell, level))
        rows.append(
            [
                model, assertion, total.null, test, _rate(total, total.rejected),
                "" if ours is None else f"{ours.rate():.4f}",
            ]
        )  # fmt: skip
    header = ["model", "assertion", "not true because", "test", "calls it true", "mechtest"]
    return (
        "" if not rows else "### What other tests do with the same claims\n\n" + table(header, rows)
    )


def _draw(found: Totals) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "mechtest"
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 5.5), layout="constrained", width_ratios=(2, 1)
    )
    nulls = sorted((c, t) for (k, c, level), t in found.items() if k == "null" and level == 0.05)
    for place, (cell, total) in enumerate(nulls):
        count = total.verdicts["supported"]
        low, high = total.interval(count)
        left.plot([low, high], [place, place], color="#4477aa")
        left.plot([count / total.claims], [place], "o", color="#4477aa")
        del cell
    left.axvline(0.05, color="#cc3311", linestyle="--")
    left.set_yticks(range(len(nulls)), [cell for cell, _ in nulls], fontsize=7)
    left.set_xlim(0, 0.1)
    left.set_xlabel("called supported at level .05, with a 95 % interval")
    for (kind, cell, _), total in sorted(found.items()):
        if kind == "power":
            planned = float(cell.rpartition(" ")[2])
            count = total.verdicts["supported"]
            low, high = total.interval(count)
            right.plot([planned, planned], [low, high], color="#228833")
            right.plot([planned], [count / total.claims], "o", color="#228833")
    right.plot([0, 1], [0, 1], color="#bbbbbb")
    right.set_xlabel("power the plan promised")
    right.set_ylabel("share found")
    figure.savefig(PICTURE, metadata={"Date": None})
    plt.close(figure)
