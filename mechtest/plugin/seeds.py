"""What does a claim about all training seeds get?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mechtest.models import HookedMamba, ModelSuite

__all__ = ["SuiteAtStep"]


class SuiteAtStep:
    """All training seeds of a suite at one checkpoint, loaded one at a time.

    Args:
        suite: The suite.
        name: What reports call it.
        step: Training step.
        keywords: For `HookedMamba.from_pretrained`.

    Iterating gives (seed, model), by ascending seed; a model is let go when the next one is asked
    for.
    """

    def __init__(
        self, suite: ModelSuite, name: str, step: int, keywords: Mapping[str, Any]
    ) -> None:
        self._suite = suite
        self._keywords = dict(keywords)
        self.name = name
        self.step = step

    @property
    def seeds(self) -> tuple[int, ...]:
        """Training seeds that have this checkpoint, ascending."""
        return tuple(s for s in self._suite.seeds if (s, self.step) in self._suite.index.members)

    def load(self, seed: int) -> HookedMamba:
        """Load the model of one seed."""
        model = self._suite.load(seed, self.step, **self._keywords)
        model.source = f"{self.name}, seed {seed}, step {self.step}"
        return model

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[tuple[int, HookedMamba]]:
        for seed in self.seeds:
            yield seed, self.load(seed)

    def __repr__(self) -> str:
        return f"SuiteAtStep({self.name!r}, step={self.step}, seeds={self.seeds})"
