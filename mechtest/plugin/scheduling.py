"""Which worker checks which claim?

xdist's work stealing gives every worker a contiguous part of the collection, so that a model is
loaded by as few workers as possible, and runs a test that killed its worker only once. Whether a
session holds claims is known when the first worker has collected, so the choice waits until then;
sessions without claims keep xdist's default.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import pytest

from mechtest.plugin.session import ClaimSession

__all__ = ["ClaimScheduling", "longest_first", "make_scheduler"]


class ClaimScheduling:
    """xdist's default scheduler, until there are claims.

    Args:
        session: Knows whether there are.
        config: pytest's.
        log: xdist's.
    """

    def __init__(self, session: ClaimSession, config: pytest.Config, log: Any) -> None:
        self._session = session
        self._config = config
        self._log = log
        self.inner: Any = _schedulers().LoadScheduling(config, log)
        self._decided = False

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """Take what a worker collected; the first one decides."""
        if not self._decided:
            self._decided = True
            if self._session.read_journals().events("plan"):
                nodes = self.inner.nodes
                self.inner = _schedulers().WorkStealingScheduling(self._config, self._log)
                for known in nodes:
                    self.inner.add_node(known)
        self.inner.add_node_collection(node, collection)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)  # whatever else xdist asks of a scheduler


def _schedulers() -> Any:
    return importlib.import_module("xdist.scheduler")  # which is there when this is called


def make_scheduler(session: ClaimSession, config: pytest.Config, log: Any) -> Any:
    """Return a scheduler where the user left the choice open, else None."""
    return ClaimScheduling(session, config, log) if config.getoption("dist") == "load" else None


def longest_first(items: list[pytest.Item]) -> None:
    """Put tests over all seeds of a suite first: they take longest, and none should start last."""
    items.sort(key=lambda item: "mamba_seeds" not in getattr(item, "fixturenames", ()))
