"""Which models belong together: the same architecture over training seeds and checkpoints?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mechtest.checkpoints import SuiteIndex
from mechtest.errors import DuplicateWeightsError
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
        self._loaded: dict[tuple[int, int], str] = {}
        # Members on the hub are not fetched for this; they are compared as they are loaded.
        if all(Path(member.path_or_repo).exists() for member in self.index.members.values()):
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
            DuplicateWeightsError: Another seed loaded before held the same weights at this step.
        """
        source = self.index.source(seed, step)
        model = HookedMamba.from_pretrained(
            source.path_or_repo, source.revision, source.subfolder, **kwargs
        )
        number = self.steps[-1] if step == "last" else int(step)
        self._refuse_copy(seed, number, "" if not model.fingerprint else model.fingerprint.weights)
        return model

    def _refuse_copy(self, seed: int, step: int, digest: str) -> None:
        """Raise when another seed of this step had the same weights."""
        for (other, at), known in self._loaded.items():
            if at == step and other != seed and known == digest:
                raise DuplicateWeightsError(
                    f"seeds {other} and {seed} hold the same weights at step {step}",
                    given=f"weights {digest[:12]} in both",
                    expected="one independently trained model a seed",
                )
        self._loaded[seed, step] = digest

    def load_all(
        self, step: int | str = "last", **kwargs: Any
    ) -> Iterator[tuple[int, HookedMamba]]:
        """Load the models of all seeds at one step, one after the other."""
        for seed in self.seeds:
            yield seed, self.load(seed, step, **kwargs)

    def __repr__(self) -> str:
        return f"ModelSuite({self.index}, seeds={self.seeds}, steps={self.steps})"
