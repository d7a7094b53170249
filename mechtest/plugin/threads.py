"""How many threads may one of several workers use?

Workers that each take all cores wait for one another at every barrier: two workers with two threads
each on two cores run tens of times slower than with one thread each. Libraries read these variables
when they are first imported, so they are set while the plugin loads, and in workers only: what a
controller sets, its workers would inherit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import MutableMapping

__all__ = ["effective_threads", "share_cores"]

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


def share_cores(environment: MutableMapping[str, str]) -> None:
    """Give an xdist worker its share of the cores; does nothing in any other process."""
    if "PYTEST_XDIST_WORKER" not in environment:
        return
    workers = int(environment.get("PYTEST_XDIST_WORKER_COUNT", "1") or 1)
    threads = max(1, _cpus() // max(1, workers))
    for variable in VARIABLES:
        environment.setdefault(variable, str(threads))
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def effective_threads() -> int:
    """Return how many threads this process computes with."""
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        return int(torch.get_num_threads())
    given = os.environ.get("OMP_NUM_THREADS", "")
    return int(given) if given.isdecimal() else _cpus()


def _cpus() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1
