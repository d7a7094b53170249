"""Which stored runs can go?"""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from mechtest.errors import RunError
from mechtest.runs.store import RunStore, StoredRun

__all__ = ["Collected", "collect_runs"]

_ABANDONED = 3600.0
"""Seconds after which half a run is taken to be left over from a crash."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection removed, or would.

    Attributes:
        removed: Runs, the newest first.
        kept: Runs that stay.
        leftovers: Directories that a crash left half written.
        dry: Whether nothing was removed in fact.
    """

    removed: tuple[StoredRun, ...]
    kept: tuple[StoredRun, ...]
    leftovers: tuple[Path, ...]
    dry: bool


def collect_runs(store: RunStore, *, keep: int, dry: bool = False) -> Collected:
    """Remove all runs but the newest, the latest, and those with a tag.

    Args:
        store: The store.
        keep: Runs without a tag that stay.
        dry: Only say what would go.

    Raises:
        RunError: `keep` is negative.
    """
    if keep < 0:
        raise RunError("a number of runs to keep is at least 0", given=f"--keep {keep}")
    runs = store.runs()
    loose = [run for run in runs if not run.tags and not run.latest]
    removed = loose[keep:]
    leftovers = _leftovers(store)
    if not dry:
        for run in removed:
            hidden = run.path.with_name(f".{run.name}.gone")
            run.path.rename(hidden)  # from here on nobody sees half a run
            shutil.rmtree(hidden)
        for path in leftovers:
            shutil.rmtree(path)
    gone = {run.name for run in removed}
    kept = tuple(run for run in runs if run.name not in gone)
    return Collected(tuple(removed), kept, leftovers, dry)


def _leftovers(store: RunStore) -> tuple[Path, ...]:
    if not store.runs_folder.is_dir():
        return ()
    now = time.time()
    return tuple(
        path
        for path in sorted(store.runs_folder.glob(".*"))
        if path.is_dir() and now - path.stat().st_mtime > _ABANDONED
    )
