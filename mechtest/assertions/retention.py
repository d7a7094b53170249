"""How much of a circuit's effect is left when its prompt is asked in another way?

Every prompt is measured once and remembered by what it reads. What is asked for together is run
together: prompts one by one cost the model as many passes as prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mechtest.assertions.question import Question
from mechtest.assertions.study import Study, Values
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit, runner_for_claim
from mechtest.tasks import EncodedPairs, PromptPair
from mechtest.tasks.perturbation import Perturbation, Renderer

__all__ = ["BATCH", "Oracle"]

BATCH = 256
"""Prompts measured at once."""

Read = tuple[object, ...]


class Oracle:
    """Measures what a circuit does on perturbed prompts, each of them once.

    Attributes:
        batches: Times the model was asked; each is an unedited run of both twins and an edited one.
        measured: Prompts it was asked with.

    Args:
        question: How effects are measured, and in which model.
        renderer: Renders prompts for its tokenizer.
        held_out: Whether the circuit must not have been found on these prompts; False on the
            discovery half.
    """

    def __init__(self, question: Question, renderer: Renderer, *, held_out: bool = True) -> None:
        self._question, self._renderer, self._held_out = question, renderer, held_out
        self._known: dict[Read, tuple[float, float]] = {}
        self.batches = 0
        self.measured = 0

    def moved(self, asked: Sequence[Perturbation]) -> Values:
        """Return a_i, what the circuit moves of each prompt, in the metric's unit.

        Raises:
            ClaimInvalid: A prompt reads like one the circuit was found on.
            NonFiniteError: NaN or infinity; names the prompts.
        """
        return self._values(asked, 0)

    def behaviour(self, asked: Sequence[Perturbation]) -> Values:
        """Return b_i, the behaviour there is to move on each prompt; see `moved`."""
        return self._values(asked, 1)

    def _values(self, asked: Sequence[Perturbation], which: int) -> Values:
        reads = [_read(self._renderer.pair(one)) for one in asked]
        missing = {
            read: one for read, one in zip(reads, asked, strict=True) if read not in self._known
        }
        for part in _parts(list(missing.items())):
            pairs = self._renderer.encode(
                [one for _, one in part], self._question.study.model.device
            )
            moved, there = self._measured(pairs)
            for (read, _), a, b in zip(part, moved, there, strict=True):
                self._known[read] = float(a), float(b)
        return np.array([self._known[read][which] for read in reads])

    def _measured(self, pairs: EncodedPairs) -> tuple[Values, Values]:
        old = self._question
        if self._held_out:
            _refuse_circular(old.circuit, pairs)
        asked = Question(_PerturbedStudy(old.study, pairs), old.mode, old.intervention, old.circuit)
        self.batches += 1
        self.measured += len(pairs)
        return asked.moved_parts([[old.circuit]])[0], asked.behaviour()


class _PerturbedStudy(Study):
    """The same model and metric, on perturbed prompts."""

    def __init__(self, study: Study, pairs: EncodedPairs) -> None:
        self.model, self.metric = study.model, study.metric
        self.looked_at, self.duplicates = None, 0
        self.runner = runner_for_claim(study.model, pairs)


def _read(pair: PromptPair) -> Read:
    """Return all of a pair that a measurement depends on."""
    return pair.clean, pair.corrupted, pair.answer, pair.foil, pair.positions


def _parts(
    missing: list[tuple[Read, Perturbation]],
) -> Iterator[list[tuple[Read, Perturbation]]]:
    for start in range(0, len(missing), BATCH):
        yield missing[start : start + BATCH]


def _refuse_circular(circuit: Circuit, pairs: EncodedPairs) -> None:
    if circuit.fitted_on is not None and circuit.fitted_on & pairs.fingerprints:
        raise ClaimInvalid(
            f"circular: {circuit.name} was found on prompts or templates that are perturbed here",
            given="a perturbed prompt of the discovery half, or one that reads like it",
            expected="prompts of the test half: prompts.test",
        )
