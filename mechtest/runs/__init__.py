"""Where are the reports of earlier runs kept, and how are they called?

One directory a run under `.mechtest/runs`, whole or not there at all, with tags and a pointer to
the latest beside it. See docs/baselines.md.
"""

from mechtest.runs.collecting import Collected, collect_runs
from mechtest.runs.names import STORE, find_store, run_name
from mechtest.runs.resolving import Found, resolve
from mechtest.runs.store import RunStore, Saved, StoredRun

__all__ = [
    "STORE",
    "Collected",
    "Found",
    "RunStore",
    "Saved",
    "StoredRun",
    "collect_runs",
    "find_store",
    "resolve",
    "run_name",
]
