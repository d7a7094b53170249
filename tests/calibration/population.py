"""How often does a claim err, asked of thousands of samples of templates from one population?

Every intervention is measured once, on all prompts of a population. A claim then draws templates
from it, with replacement, and goes through the assertion's own code: tests, guards, controls,
verdict. What it reads are the rows of its prompts; that is what the engine would give it, because
no prompt's result depends on the others. The population's own effect is the truth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from mechtest.assertions import conduct
from mechtest.assertions.conduct import Answer, begin, finish
from mechtest.assertions.control_sets import Control
from mechtest.assertions.question import Question
from mechtest.assertions.study import Study
from mechtest.assertions.terms import Terms
from mechtest.interventions import Circuit, Intervention, InterventionRun, Run, Runner
from mechtest.running_claim import RunningClaim
from mechtest.stats import ClusterEffect, cluster_effect, reaches
from mechtest.tasks import PromptPairs, logit_difference

__all__ = ["PooledSets", "Population", "SampledStudy", "check", "measured_once"]


@dataclass(eq=False)
class Population:
    """All prompts of one behaviour, and what interventions did to them.

    Args:
        model: The model.
        prompts: All of it; both halves, since nothing is fitted on one of them.
    """

    model: Any
    prompts: PromptPairs
    _runs: dict[tuple[Any, ...], InterventionRun] = field(default_factory=dict, init=False)
    _moved: dict[tuple[Any, ...], dict[tuple[int, ...], np.ndarray]] = field(
        default_factory=dict, init=False
    )

    def __post_init__(self) -> None:
        self.runner = Runner(self.model, self.prompts.encode(self.model.tokenizer))
        self.pairs = self.runner.pairs
        self.templates = np.unique(self.pairs.cluster)
        self.rows = [np.flatnonzero(self.pairs.cluster == one) for one in self.templates]

    @cached_property
    def whole(self) -> SampledStudy:
        """The study of every template once."""
        return self.sample(np.arange(len(self.templates)))

    def draw(self, clusters: int, generator: np.random.Generator) -> SampledStudy:
        """Return a study of some templates, drawn with replacement."""
        return self.sample(generator.integers(len(self.templates), size=clusters))

    def sample(self, chosen: np.ndarray) -> SampledStudy:
        """Return a study of these templates, each a cluster of its own."""
        return SampledStudy(self, chosen)

    def effect(self, terms: Terms) -> ClusterEffect:
        """Return the population's effect of a claim: a share of the behaviour."""
        question = Question(self.whole, terms.mode, terms.intervention, terms.circuit)
        found = question.measure([terms.circuit])
        return cluster_effect(found.moved_part, found.behaviour, self.whole.labels)

    def run(
        self, circuits: Sequence[Circuit], intervention: Intervention, base: Run
    ) -> InterventionRun:
        """Return what an intervention did to every prompt; measured once for a circuit."""
        key = (tuple(map(id, circuits)), intervention.name, base)
        if key not in self._runs:
            self._runs[key] = self.runner.run(circuits, intervention, base)
            self._kept.append(circuits)
        return self._runs[key]

    @cached_property
    def _kept(self) -> list[Sequence[Circuit]]:
        return []  # so that ids stay their own

    def moved(self, asked: Question, edits: Sequence[Sequence[Circuit]]) -> np.ndarray:
        """Return what each of some edits moves of every prompt, "edit prompt"; measured once."""
        keep = id(asked.circuit) if asked.mode == "keep" else 0
        known = self._moved.setdefault((asked.mode, asked.intervention.name, keep), {})
        keys = [tuple(map(id, edited)) for edited in edits]
        new = {key: edited for key, edited in zip(keys, edits, strict=True) if key not in known}
        if new:
            question = Question(self.whole, asked.mode, asked.intervention, asked.circuit)
            for (key, edited), values in zip(
                new.items(), question.moved_parts(list(new.values())), strict=True
            ):
                row = np.empty(len(values))
                row[self.whole.picked] = values
                known[key] = row
                self._kept += [edited, [asked.circuit]]
        return np.array([known[key] for key in keys])


class _SampledRunner:
    """Answers for some prompts of a population, some of them several times."""

    def __init__(self, population: Population, picked: np.ndarray, pairs: Any) -> None:
        self.population, self.pairs = population, pairs
        self.picked = torch.as_tensor(picked)
        self.model = population.model
        self.batch_size, self.engine, self.memory = 512, "auto", 0

    def logits(self, run: Run) -> torch.Tensor:
        return self.population.runner.logits(run)[self.picked]

    def run(
        self,
        circuit: Circuit | Sequence[Circuit],
        intervention: Intervention,
        base: Run = "clean",
    ) -> InterventionRun:
        circuits = [circuit] if isinstance(circuit, Circuit) else list(circuit)
        whole = self.population.run(circuits, intervention, base)
        picked = self.picked
        return InterventionRun(
            whole.logits[picked], whole.base[picked], whole.changed[picked], whole.moved[picked], 0
        )

    def logits_after(self, *args: Any, columns: torch.Tensor | None = None) -> torch.Tensor:
        found = self.population.runner.logits_after(*args, columns=columns)
        return found[:, self.picked]


class SampledStudy(Study):
    """Some templates of a population, each a cluster."""

    def __init__(self, population: Population, chosen: np.ndarray) -> None:
        rows = [population.rows[index] for index in chosen]
        picked = np.concatenate(rows)
        names = tuple(f"t{number}" for number in range(len(rows)))
        cluster = np.repeat(np.arange(len(rows)), [len(one) for one in rows])
        pairs = replace(population.pairs[picked], cluster=cluster, templates=names)
        self.population, self.picked = population, picked
        self.model, self.metric, self.duplicates = population.model, logit_difference, 0
        self.tested: Any = population.prompts
        self.looked_at = population.prompts.discovery
        self.runner: Any = _SampledRunner(population, picked, pairs)


@dataclass(frozen=True, eq=False)
class PooledSets:
    """A claim and controls of which all were drawn from one family.

    Attributes:
        kind: Of the family.
        pool: The family's draws.
        order: Which of them is control 0, 1, ...
        claimed: The claim's circuits.
        statistic: What is ranked, given an effect and a draw's number; by default the effect.
    """

    kind: str
    pool: Sequence[Control]
    order: np.ndarray
    claimed: Sequence[Circuit]
    statistic: Callable[[float, int], float] | None = None
    weak: bool = False
    digest: str = ""

    def draw(self, number: int) -> Control:
        """Return control `number`."""
        index = int(self.order[number])
        drawn = self.pool[index]
        if self.statistic is None:
            return drawn
        statistic = self.statistic
        return Control(drawn.circuits, lambda effect: statistic(effect, index))


def measured_once(monkeypatch: Any) -> None:
    """Let claims read what their edits and controls move from the population."""
    measured = Question.moved_parts

    def moved_parts(question: Question, edits: Sequence[Sequence[Circuit]]) -> list[np.ndarray]:
        study = question.study
        if not isinstance(study, SampledStudy) or study is study.population.whole:
            return measured(question, edits)
        return list(study.population.moved(question, edits)[:, study.picked])

    def parts(question: Any, sets: Any, controls: Sequence[Control], numbers: range) -> np.ndarray:
        del sets, numbers  # nothing is kept between processes
        return np.asarray(question.moved_parts([one.circuits for one in controls]))

    monkeypatch.setattr(Question, "moved_parts", moved_parts)
    monkeypatch.setattr(conduct, "_moved_parts", parts)


def check(
    study: SampledStudy, terms: Terms, level: float, number: int, *, support: bool = False
) -> Answer | None:
    """Check a claim on a study: the assertion's own steps.

    With `support`, None where the effect alone leaves it unsupported.
    """
    claim = RunningClaim(key=f"null {number}", level=level, seed=number)
    begun = begin(study, terms, claim)
    if support and begun.effect is not None and not reaches(begun.effect.p, level):
        return None
    return finish(begun, claim)
