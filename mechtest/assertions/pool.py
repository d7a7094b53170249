"""Which controls have been measured already, by any claim of this run?

Claims on the same site, of the same size and make-up, draw the same controls. What a block of them
moved is kept under a digest of everything it depends on: weights, prompts, metric, question,
intervention, and the family the controls are drawn from. A file appears whole or not at all, and
whoever finds it has numbers equal to the last bit to those it would have computed.
"""

from __future__ import annotations

import os
import tempfile
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from mechtest.assertions.question import Question
from mechtest.interventions import digest_of

__all__ = ["POOL_VARIABLE", "ControlPool", "forget_controls", "pool_key", "pool_of_run"]

POOL_VARIABLE = "MECHTEST_CONTROL_POOL"
"""Environment variable with the directory that the workers of a run share."""

HELD, STORED = 64 * 2**20, 512 * 2**20
"""Bytes kept in memory, and on the disk; beyond that, controls are measured again."""


@dataclass(eq=False)
class ControlPool:
    """Blocks of control effects by digest.

    Args:
        directory: Shared by processes; None keeps blocks in this process only.
        held: Bytes to keep in memory.
        stored: Bytes to keep on the disk.
    """

    directory: Path | None
    held: int = HELD
    stored: int = STORED
    _blocks: OrderedDict[str, np.ndarray] = field(default_factory=OrderedDict, init=False)

    def get(self, key: str, shape: tuple[int, int]) -> np.ndarray | None:
        """Return a block "control prompt", or None where it has to be measured.

        A file that cannot be read as such a block counts as none.
        """
        found = self._blocks.get(key)
        if found is None and self.directory is not None:
            try:
                found = np.load(self.directory / f"{key}.npy", allow_pickle=False)
            except (OSError, ValueError, EOFError):
                return None
            if found.dtype != np.float64 or not np.isfinite(found).all():
                return None
        if found is None or found.shape != shape:
            return None
        self._hold(key, found)
        return found

    def put(self, key: str, block: np.ndarray) -> None:
        """Keep a block; a full disk or directory is no error."""
        self._hold(key, block)
        if self.directory is None or not np.isfinite(block).all():
            return
        try:
            if _size(self.directory) + block.nbytes > self.stored:
                return
            with tempfile.NamedTemporaryFile(dir=self.directory, suffix=".part", delete=False) as f:
                np.save(f, block, allow_pickle=False)
            Path(f.name).replace(self.directory / f"{key}.npy")
        except OSError:
            return

    def _hold(self, key: str, block: np.ndarray) -> None:
        self._blocks[key] = block
        self._blocks.move_to_end(key)
        while sum(one.nbytes for one in self._blocks.values()) > self.held:
            self._blocks.popitem(last=False)


def _size(directory: Path) -> int:
    return sum(entry.stat().st_size for entry in os.scandir(directory))


_POOLS: dict[str, ControlPool] = {}


def pool_of_run() -> ControlPool:
    """Return the pool of this process, shared with others where the run has a directory."""
    place = os.environ.get(POOL_VARIABLE, "")
    if place not in _POOLS:
        _POOLS[place] = ControlPool(Path(place) if place else None)
    return _POOLS[place]


def forget_controls() -> None:
    """Drop what this process keeps of measured controls, and of weights it has seen."""
    _POOLS.clear()
    _DIGESTS.clear()


def pool_key(question: Question, family: str, numbers: range) -> str | None:
    """Return what a block of controls is kept under; None where it must not be kept.

    Args:
        question: Model, prompts, metric, mode, intervention and circuit.
        family: Digest of the family controls are drawn from, their seed included.
        numbers: Which controls.
    """
    study = question.study
    if study.model.has_any_hooks:
        return None  # what a hook does is in no digest
    pairs = study.pairs
    try:
        asked = digest_of(question.intervention)
    except TypeError:
        return None  # an intervention of the user's own
    return digest_of(
        [
            _weights(study.model),
            [pairs.clean_tokens, pairs.corrupted_tokens, pairs.attention_mask],
            [pairs.answers.answer_ids, pairs.answers.foil_ids, pairs.role_positions],
            list(pairs.roles),
            pairs.order.tolist(),
            [study.metric.name, repr(study.metric)],
            # In mode `keep` all else of the claim's kind is ablated, so its sites matter too.
            [question.mode, *map(str, question.circuit.sites if question.mode == "keep" else ())],
            asked,
            [study.runner.engine, study.runner.batch_size, study.runner.memory],
            family,
            [numbers.start, numbers.stop],
        ]
    )


_DIGESTS: dict[int, tuple[tuple[tuple[int, int], ...], str]] = {}


def _weights(model: torch.nn.Module) -> str:
    """Return a digest of a model's weights as they are now."""
    parts = list(model.state_dict().values())
    # In-place changes raise a tensor's version; another tensor has another address.
    state = tuple((part.data_ptr(), part._version) for part in parts)
    known = _DIGESTS.get(id(model))
    if known is None or known[0] != state:
        known = (state, digest_of(parts))
        _DIGESTS[id(model)] = known
    return known[1]
