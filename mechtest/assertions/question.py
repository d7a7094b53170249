"""What does one kind of claim ask: which run is intervened in, and what counts as an effect?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from mechtest.assertions.complement import complement_of, universe_of
from mechtest.assertions.study import Study, Values
from mechtest.interventions import Circuit, Intervention, InterventionRun, Patch
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
        """Measure a circuit, or a control given as several circuits edited at once.

        Raises:
            NothingChangedError: No activation changed.
            NonFiniteError: NaN or infinity; names the prompts.
        """
        runner = self.study.runner
        if self.mode == "restore":
            run = runner.run(circuits, Patch("clean"), base="corrupted")
            value, floor = self.study.read(run.logits), self._corrupted
            moved, there = value - floor, self._clean - floor
        elif self.mode == "keep":
            run = runner.run(
                complement_of(self.circuit, circuits, self.study.model), self.intervention
            )
            value, floor = self.study.read(run.logits), self._emptied
            moved, there = value - floor, self._clean - floor
        else:
            run = runner.run(circuits, self.intervention)
            value = self.study.read(run.logits)
            moved, there = self._clean - value, self._clean - self._corrupted
        return Measured(moved, there, run)

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
