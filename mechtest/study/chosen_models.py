"""Which model is studied, and which others are there beside it?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from mechtest.errors import CheckpointNotFoundError, StudyError
from mechtest.models import HookedMamba
from mechtest.models.suite import ModelSuite

__all__ = ["ChosenModel", "load_model"]


@dataclass(eq=False)
class ChosenModel:
    """The studied model, loaded when it is first asked for.

    Args:
        name: Suite, checkpoint or repository, as written.
        seed: Training seed of a suite.
        checkpoint: Training step of a suite.
        device: Where it runs.
    """

    name: str
    seed: int = 0
    checkpoint: str = "last"
    device: str = "cpu"

    @cached_property
    def suite(self) -> ModelSuite | None:
        """The suite it belongs to; None for a single checkpoint."""
        return suite_at(self.name)

    @cached_property
    def model(self) -> HookedMamba:
        """The model.

        Raises:
            StudyError: There is none.
        """
        return load_model(self.name, self.seed, self.checkpoint, self.device, suite=self.suite)

    def other_seeds(self) -> Iterator[tuple[int, HookedMamba]]:
        """Load the models of the suite's other seeds, one after the other."""
        for seed in () if self.suite is None else self.suite.seeds:
            if seed != self.seed:
                yield (
                    seed,
                    load_model(self.name, seed, self.checkpoint, self.device, suite=self.suite),
                )


def suite_at(name: str) -> ModelSuite | None:
    """Return the suite at a path; None for one checkpoint, or what reads as a repository.

    Raises:
        StudyError: Neither.
    """
    place = Path(name).expanduser()
    if (place / "config.json").is_file():
        return None
    owner, _, repository = name.partition("/")
    if not place.exists() and owner and repository and "/" not in repository:
        return None
    try:
        return ModelSuite(place)
    except CheckpointNotFoundError as error:
        raise StudyError(
            f"there is no model {name}",
            given=error.given or name,
            closest=error.closest,
            expected="a checkpoint, a suite (seed0/step-100/...), or a repository owner/name",
            next_step="paths are relative to where the command is run",
        ) from error


def load_model(
    name: str, seed: int, checkpoint: str, device: str, *, suite: ModelSuite | None = None
) -> HookedMamba:
    """Load one model.

    Raises:
        StudyError: There is none of that name, seed or checkpoint.
    """
    suite = suite or suite_at(name)
    try:
        if suite is None:
            repository, _, revision = name.partition("@")
            return HookedMamba.from_pretrained(repository, revision or None, device=device)
        digits = "".join(letter for letter in checkpoint if letter.isdigit())
        step = "last" if checkpoint == "last" else int(digits or -1)
        return suite.load(seed, step, device=device)
    except CheckpointNotFoundError as error:
        raise StudyError(
            f"there is no such model: {error.what}",
            given=error.given,
            closest=error.closest,
            expected=error.expected,
            next_step=error.next_step,
        ) from error
