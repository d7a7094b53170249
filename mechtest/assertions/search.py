"""Which perturbed prompt breaks a claim about all of them, and with how few edits?

Hypothesis looks for it. A first pass only draws: what these settings would try is known without the
model, and is measured in batches. The second pass draws the same and finds the answers there, so
that the model is asked one prompt at a time by the shrinker alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mechtest.tasks.perturbation import Menu, Perturbation, strategy_of

__all__ = ["Found", "drawn", "look_for"]

Share = Callable[[Sequence[Perturbation]], Sequence[float] | np.ndarray]


@dataclass
class Found:
    """What a search came to.

    Attributes:
        tried: Share kept by every distinct prompt tried, in the order of the first try.
        counterexample: The smallest prompt found that falls below the floor, None if none did.
    """

    tried: dict[Perturbation, float] = field(default_factory=dict)
    counterexample: Perturbation | None = None

    @property
    def worst(self) -> Perturbation:
        """The counter-example, else the prompt that kept least."""
        return self.counterexample or min(self.tried, key=lambda one: self.tried[one])


class _Broken(Exception):
    """A prompt falls below the floor: what Hypothesis shrinks."""


def look_for(
    menu: Menu,
    share: Share,
    floor: float,
    *,
    tries: int,
    seed: int,
    examples: Sequence[Perturbation] = (),
    prefetch: bool = True,
) -> Found:
    """Look for a prompt that keeps less than `floor`, and make it small.

    Args:
        menu: Prompts and their edits.
        share: Returns the share of the effect that each of some prompts keeps.
        floor: The smallest share allowed.
        tries: Draws; distinct prompts are fewer, since draws repeat and end with what there is.
        seed: Of all draws.
        examples: Tried first.
        prefetch: Measure what will be tried in batches beforehand; the answer is the same.
    """
    found = Found()

    def falls(asked: Perturbation) -> bool:
        (kept,) = share([asked])
        found.tried.setdefault(asked, float(kept))
        if kept < floor:
            found.counterexample = asked
            return True
        return False

    for one in examples:
        if falls(one):
            return found
    if prefetch:
        share(drawn(menu, tries=tries, seed=seed))

    def one_try(asked: Perturbation) -> None:
        if falls(asked):
            raise _Broken

    with contextlib.suppress(_Broken):
        _given(one_try, menu, tries, seed, shrink=True)()
    return found


def drawn(menu: Menu, *, tries: int, seed: int) -> list[Perturbation]:
    """Return the distinct prompts that a search would try, without asking any model."""
    seen: dict[Perturbation, None] = {}
    _given(lambda asked: seen.setdefault(asked), menu, tries, seed, shrink=False)()
    return list(seen)


def _given(
    body: Callable[[Perturbation], Any], menu: Menu, tries: int, seed: int, *, shrink: bool
) -> Callable[[], None]:
    """Return a Hypothesis test of these settings, which do not depend on where it runs."""
    import hypothesis

    phases = [hypothesis.Phase.generate] + ([hypothesis.Phase.shrink] if shrink else [])
    settings = hypothesis.settings(
        max_examples=tries,
        phases=phases,
        deadline=None,
        database=None,
        derandomize=False,
        print_blob=False,
        report_multiple_bugs=False,
        verbosity=hypothesis.Verbosity.quiet,
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    def perturbed(asked: Perturbation) -> None:
        if menu.refusal(asked) is not None:  # edits that do not go together
            hypothesis.reject()
        body(asked)

    test: Callable[[], None] = hypothesis.given(strategy_of(menu))(perturbed)
    return hypothesis.seed(seed)(settings(test))
