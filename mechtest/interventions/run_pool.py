"""What has been measured already, by any claim of this run?

Arrays are kept under a digest of everything they depend on, in this process and in a directory that
the workers of a run share. A file appears whole or not at all, and whoever finds it has numbers
equal to the last bit to those it would have computed.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["POOL_VARIABLE", "RunPool", "forget_pools", "pool_of_run"]

POOL_VARIABLE = "MECHTEST_RUN_POOL"
"""Environment variable with the directory that the workers of a run share."""

HELD, STORED = 64 * 2**20, 512 * 2**20
"""Bytes kept in memory, and on the disk; beyond that, things are measured again."""


@dataclass(eq=False)
class RunPool:
    """Arrays by digest.

    Args:
        directory: Shared by processes; None keeps arrays in this process only.
        held: Bytes to keep in memory.
        stored: Bytes to keep on the disk.
    """

    directory: Path | None
    held: int = HELD
    stored: int = STORED
    _arrays: OrderedDict[str, np.ndarray] = field(default_factory=OrderedDict, init=False)

    def get(
        self, key: str, shape: tuple[int, ...], dtype: type[np.floating] = np.float64
    ) -> np.ndarray | None:
        """Return an array, or None where it has to be measured.

        A file that cannot be read as such an array counts as none.
        """
        found = self._arrays.get(key)
        if found is None and self.directory is not None:
            try:
                found = np.load(self.directory / f"{key}.npy", allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return None
            if found.dtype != dtype or not np.isfinite(found).all():
                return None
        if found is None or found.shape != shape:
            return None
        self._hold(key, found)
        return found

    def put(self, key: str, array: np.ndarray) -> None:
        """Keep an array; a full disk or directory is no error."""
        self._hold(key, array)
        if self.directory is None or not np.isfinite(array).all():
            return
        try:
            if _size(self.directory) + array.nbytes > self.stored:
                return
            with tempfile.NamedTemporaryFile(dir=self.directory, suffix=".part", delete=False) as f:
                np.save(f, array, allow_pickle=False)
            Path(f.name).replace(self.directory / f"{key}.npy")
        except OSError:
            return

    def _hold(self, key: str, array: np.ndarray) -> None:
        self._arrays[key] = array
        self._arrays.move_to_end(key)
        while sum(one.nbytes for one in self._arrays.values()) > self.held:
            self._arrays.popitem(last=False)


def _size(directory: Path) -> int:
    """Return the bytes in a directory; files that others move away meanwhile count as none."""
    total = 0
    with os.scandir(directory) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                total += entry.stat().st_size
    return total


_POOLS: dict[str, RunPool] = {}


def pool_of_run() -> RunPool:
    """Return the pool of this process, shared with others where the run has a directory."""
    place = os.environ.get(POOL_VARIABLE, "")
    if place not in _POOLS:
        _POOLS[place] = RunPool(Path(place) if place else None)
    return _POOLS[place]


def forget_pools() -> None:
    """Drop what this process keeps; what other workers find on the disk stays."""
    _POOLS.clear()
