"""Where do the workers of a run share what they have measured?

A directory of the run's own, made when the first worker is, and gone with the controller. A process
alone keeps what it measured in memory.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import Any

import pytest

__all__ = ["close_pool", "join_pool", "share_pool"]

VARIABLE = "MECHTEST_RUN_POOL"
INPUT = "mechtest_run_pool"
_DIRECTORY = pytest.StashKey[str]()


def share_pool(node: Any) -> None:
    """Tell a worker where the run's pool is; in the controller, before the worker starts."""
    stash = node.config.stash
    if _DIRECTORY not in stash:
        stash[_DIRECTORY] = tempfile.mkdtemp(prefix="mechtest-run-")
    node.workerinput[INPUT] = stash[_DIRECTORY]


def join_pool(config: pytest.Config) -> None:
    """Use the pool the controller named; does nothing in other processes."""
    directory = getattr(config, "workerinput", {}).get(INPUT)
    if directory:
        os.environ[VARIABLE] = directory


def close_pool(config: pytest.Config) -> None:
    """Delete the pool; does nothing where none was made."""
    directory = config.stash.get(_DIRECTORY, "")
    if directory:
        shutil.rmtree(directory, ignore_errors=True)
