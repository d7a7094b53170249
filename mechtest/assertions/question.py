"""What does one kind of claim ask: which run is intervened in, and what counts as an effect?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from torch import Tensor

from mechtest.assertions.study import Study, Values
from mechtest.interventions import Circuit, Cost, Intervention, InterventionRun, Patch, Run
from mechtest.interventions.complement import complement_of, universe_of
from mechtest.stats import ClusterEffect, cluster_effect

__all__ = ["Direction", "Measured", "Mode", "Question"]

Mode = Literal["ablate", "restore", "keep"]
Direction = Literal["greater", "less"]


@dataclass(frozen=True, eq=False)
class Measured:
    """What an intervention did, prompt by prompt.

    Attributes:
        moved_part: a_i, the part of the behaviour the intervention moved, in the metric's unit.
        behaviour: b_i, the behaviour there was to move.
        run: The run itself.
    """

    moved_part: Values
    behaviour: Values
    run: InterventionRun

    def effect(self, study: Study) -> ClusterEffect:
        """Return the effect over clusters: a share of the behaviour."""
        return cluster_effect(self.moved_part, self.behaviour, study.labels)


@dataclass(eq=False)
class Question:
    """How effects are measured for one claim, for the claimed circuit and its controls alike.

    | mode | run | a | b |
    | --- | --- | --- | --- |
    | ablate | clean, circuit ablated | clean - ablated | clean - corrupted |
    | restore | corrupted, circuit patched from clean | patched - corrupted | clean - corrupted |
    | keep | clean, all else of its kind ablated | kept - empty | clean - empty |

    Attributes:
        study: What it is measured on.
        mode: See the table.
        intervention: The ablation.
        circuit: The claimed circuit; in mode `keep` it says what "all else" is.
    """

    study: Study
    mode: Mode
    intervention: Intervention
    circuit: Circuit

    def measure(self, circuits: Sequence[Circuit]) -> Measured:
        """Measure a circuit, which may be several sites edited at once.

        Raises:
            NothingChangedError: No activation changed.
            NonFiniteError: NaN or infinity; names the prompts.
        """
        run = self.study.runner.run(*self._asked(circuits))
        return Measured(self._moved_to(run.logits), self.behaviour(), run)

    def moved_parts(self, controls: Sequence[Sequence[Circuit]]) -> list[Values]:
        """Return a_i of some controls; one that changes nothing has moved nothing.

        Args:
            controls: What each of them edits at once.

        Raises:
            NonFiniteError: NaN or infinity; names the prompts.
        """
        asked = [self._asked(circuits) for circuits in controls]
        _, intervention, base = asked[0]
        circuits = [edited for edited, _, _ in asked]
        return [self._moved(v) for v in self.study.read_after(circuits, intervention, base)]

    def cost(self, controls: Sequence[Sequence[Circuit]]) -> Cost:
        """Return what `moved_parts` will cost, the unedited runs left out; nothing runs."""
        runner = self.study.runner
        variants = [
            runner.variant(edited, intervention, last_window=False)
            for edited, intervention, _ in map(self._asked, controls)
        ]
        return runner.cost(variants, read=self.study.columns_read)

    def _asked(self, circuits: Sequence[Circuit]) -> tuple[Sequence[Circuit], Intervention, Run]:
        """Return what is edited, how, and in which run."""
        if self.mode == "restore":
            return circuits, Patch("clean"), "corrupted"
        if self.mode == "keep":
            rest = complement_of(self.circuit, circuits, self.study.model)
            return rest, self.intervention, "clean"
        return circuits, self.intervention, "clean"

    def _moved_to(self, logits: Tensor) -> Values:
        return self._moved(self.study.read(logits))

    def _moved(self, value: Values) -> Values:
        if self.mode == "ablate":
            return np.asarray(self._clean - value)
        return np.asarray(value - (self._emptied if self.mode == "keep" else self._corrupted))

    def behaviour(self) -> Values:
        """Return b_i before anything was intervened in (in mode `keep`: against everything out)."""
        floor = self._emptied if self.mode == "keep" else self._corrupted
        return np.asarray(self._clean - floor)

    @cached_property
    def _clean(self) -> Values:
        return self.study.read(self.study.runner.logits("clean"))

    @cached_property
    def _corrupted(self) -> Values:
        return self.study.read(self.study.runner.logits("corrupted"))

    @cached_property
    def _emptied(self) -> Values:
        everything = universe_of(self.circuit, self.study.model)
        return self.study.read(self.study.runner.run(everything, self.intervention).logits)

    def shares(self, run: InterventionRun) -> tuple[float, float]:
        """Return (moved, broken): shares of prompts that answer as the edit says, or as neither.

        An ablation says the corrupted prompt's answer, a restoration the clean one's.
        """
        name = "moved" if self.mode == "ablate" else "accuracy"
        return self.study.share(run.logits, name), self.study.share(run.logits, "broken")
