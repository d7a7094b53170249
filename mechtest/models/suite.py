"""Which models belong together: the same architecture over training seeds and checkpoints?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mechtest.checkpoints import SuiteIndex
from mechtest.models.mamba import HookedMamba


class ModelSuite:
    """A tree of trained models, `suite/seed{k}/step-{n}/`, or the manifest of one.

    Args:
        path: Directory of the tree, or a `suite.toml`.

    Raises:
        CheckpointNotFoundError: No such place, or nothing in it.
        DuplicateWeightsError: Two seeds hold the same weights at one step.
    """

    def __init__(self, path: str | Path) -> None:
        self.index = SuiteIndex.scan(path)
        self.index.check_distinct()

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds, ascending."""
        return tuple(self.index.seeds)

    @property
    def steps(self) -> tuple[int, ...]:
        """Training steps, ascending."""
        return tuple(self.index.steps)

    def load(self, seed: int, step: int | str = "last", **kwargs: Any) -> HookedMamba:
        """Load one model.

        Args:
            seed: Training seed.
            step: Training step, or `last`.
            **kwargs: Passed to `HookedMamba.from_pretrained` (`dtype=`, `device=`, `tokenizer=`).

        Raises:
            CheckpointNotFoundError: The suite has no such member; what it has is listed.
        """
        source = self.index.source(seed, step)
        return HookedMamba.from_pretrained(
            source.path_or_repo, source.revision, source.subfolder, **kwargs
        )

    def load_all(
        self, step: int | str = "last", **kwargs: Any
    ) -> Iterator[tuple[int, HookedMamba]]:
        """Load the models of all seeds at one step, one after the other."""
        for seed in self.seeds:
            yield seed, self.load(seed, step, **kwargs)

    def __repr__(self) -> str:
        return f"ModelSuite({self.index}, seeds={self.seeds}, steps={self.steps})"
