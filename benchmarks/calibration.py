"""How often does each assertion say "supported" when it should not, and how often when it should?

The long run behind docs/calibration.md: thousands of claims under each null hypothesis of
`tests/calibration/catalogue.py`, at two levels, true claims with a planned power, and the tests one
might have used instead. It goes on from where it was stopped, runs in several processes, and shows
a bar. The same claims come out whatever the number of processes.

    PYTHONPATH=. python benchmarks/calibration.py              run, and write the page
    PYTHONPATH=. python benchmarks/calibration.py --page-only  write the page from what there is
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from calibration_page import write_page
from tqdm import tqdm

from tests.calibration.catalogue import CELLS, NAIVE, POWERS
from tests.calibration.cells import Cell, rates
from tests.calibration.naive import naive_rejections

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "calibration.jsonl"
CLUSTERS, CHUNK = 12, 250
LEVELS = (0.05, 0.0025)
CATALOGUE = {**CELLS, **POWERS}


@dataclass(frozen=True)
class Task:
    """Some claims of one cell.

    Attributes:
        kind: `null`, `power` or `naive`.
        cell: Name in the catalogue.
        level: Level of each claim.
        first: Number of the first claim.
        claims: How many.
    """

    kind: str
    cell: str
    level: float
    first: int
    claims: int

    @property
    def key(self) -> tuple[str, str, float, int, int]:
        """What finished tasks are known by."""
        return self.kind, self.cell, self.level, self.first, self.claims


_MADE: dict[str, Cell] = {}


def carried_out(task: Task) -> dict[str, object]:
    """Check the claims of a task, in a process that keeps the cells it has made."""
    torch.set_num_threads(1)
    if task.cell not in _MADE:
        _MADE.clear()
        _MADE[task.cell] = CATALOGUE[task.cell]()
    cell = _MADE[task.cell]
    found: dict[str, object] = {**asdict(task), "clusters": CLUSTERS, "null": cell.null}
    if task.kind == "naive":
        rejected = naive_rejections(cell, task.claims, task.level, CLUSTERS, first=task.first)
        return found | {"rejected": rejected}
    # At the strict level hardly anything passes, and only that is asked.
    strict = task.level < LEVELS[0]
    got = rates(cell, task.claims, task.level, CLUSTERS, first=task.first, support=strict)
    return found | {"verdicts": got.verdicts, "controls": got.controls}


def tasks(claims: int, only: str) -> Iterator[Task]:
    """Yield everything that is to be done, cell by cell so that a process can keep one.

    Powers and naive tests need no small rates: a quarter of the claims tells them apart.
    """
    usual, strict = LEVELS
    few = max(1, claims // 4)
    parts = (
        ("null", CELLS, usual, claims),
        ("power", POWERS, usual, few),
        ("naive", NAIVE, usual, few),
        ("null", CELLS, strict, claims),
    )
    for kind, names, level, count in parts:
        for name in names:
            if only in name:
                for first in range(0, count, CHUNK):
                    yield Task(kind, name, level, first, min(CHUNK, count - first))


def finished(path: Path) -> list[dict[str, object]]:
    """Return what earlier runs have written; a torn last line counts as none."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def run(todo: Iterable[Task], path: Path, jobs: int) -> None:
    """Carry out tasks, writing each down as it is done."""
    done = {(r["kind"], r["cell"], r["level"], r["first"], r["claims"]) for r in finished(path)}
    left = [task for task in todo if task.key not in done]
    counts = Counter(task.kind for task in left)
    print(f"{len(done)} parts are there, {dict(counts)} to do")
    path.parent.mkdir(exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with (
        path.open("a") as file,
        context.Pool(jobs) as pool,
        tqdm(total=sum(task.claims for task in left), unit="claim") as bar,
    ):
        for row in pool.imap_unordered(carried_out, left):
            file.write(json.dumps(row) + "\n")
            file.flush()
            bar.update(int(str(row["claims"])))


def main() -> None:
    """Run what is left to do, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--claims", type=int, default=2000, help="claims a cell")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file to go on from")
    parser.add_argument("--page-only", action="store_true", help="run nothing")
    asked = parser.parse_args()
    if not asked.page_only:
        run(tasks(asked.claims, asked.only), asked.results, asked.jobs)
    write_page(finished(asked.results))


if __name__ == "__main__":
    main()
