"""What is a step given to look with: the model, the discovery half, and what was found before?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from mechtest.discovery.looking import Behaviour, behaviour_of, looking_runner
from mechtest.interventions import Circuit, Runner
from mechtest.models import HookedMamba
from mechtest.study.chosen_models import ChosenModel
from mechtest.study.settings import StudySettings
from mechtest.study.step import Found
from mechtest.tasks import EncodedPairs, Metric, PromptPairs, metric_by_name

__all__ = ["Bench", "encodable", "shared_roles"]


@dataclass(eq=False)
class Bench:
    """Everything a step may look at.

    Attributes:
        settings: Of the step.
        study: Of the whole study.
        chosen: Which model is studied, and which others there are.
        prompts: The whole collection.
        before: What the steps it builds on found, by name of the step.
        folders: Where these are, by name of the step: for what they wrote beside records.
        scratch: Directory for journals, from which a killed step goes on.
        progress: Show bars on stderr.
    """

    settings: Mapping[str, Any]
    study: StudySettings
    chosen: ChosenModel
    prompts: PromptPairs
    before: Mapping[str, Found] = field(default_factory=dict)
    folders: Mapping[str, Path] = field(default_factory=dict)
    scratch: Path | None = None
    progress: bool = False

    @property
    def model(self) -> HookedMamba:
        """The studied model."""
        return self.chosen.model

    @property
    def seed(self) -> int:
        """Seed of everything that is drawn."""
        return int(self.study.study["random_seed"])

    @cached_property
    def metric(self) -> Metric:
        """What effects are read with."""
        return metric_by_name(self.study.study["metric"])

    @cached_property
    def runner(self) -> Runner:
        """A runner of the studied model on the discovery half."""
        return looking_runner(self.model, self.prompts.discovery)

    @property
    def pairs(self) -> EncodedPairs:
        """The discovery half, as the model reads it."""
        return self.runner.pairs

    @cached_property
    def behaviour(self) -> Behaviour:
        """What the untouched model does on the discovery half."""
        return behaviour_of(self.runner, self.metric)

    def journal(self, name: str) -> Path | None:
        """Return where a sweep of this step writes down what is finished."""
        return None if self.scratch is None else self.scratch / f"{name}.journal"

    def sites(self, patterns: Iterable[str], model: HookedMamba | None = None) -> list[str]:
        """Return sites with `*` replaced by every layer."""
        layers = range((model or self.model).cfg.n_layer)
        return [
            pattern.replace("*", str(layer), 1)
            for pattern in patterns
            for layer in (layers if "*" in pattern else layers[:1])
        ]

    def positions(self, asked: Iterable[str]) -> list[str]:
        """Return the positions asked for, `roles` standing for every role that all prompts have."""
        found: list[str] = []
        for one in asked:
            found += shared_roles(self.pairs) if one == "roles" else [one]
        return list(dict.fromkeys(found))

    def circuits(self) -> dict[str, Circuit]:
        """Return the circuits that patching judged, the best first, or else the candidates."""
        for step in ("patching", "selection"):
            if step in self.before and self.before[step].circuits:
                return dict(self.before[step].circuits)
        return {}

    def best(self, count: int = 1) -> dict[str, Circuit]:
        """Return the first of `circuits`."""
        return dict(list(self.circuits().items())[:count])


def shared_roles(pairs: EncodedPairs) -> list[str]:
    """Return the roles that every prompt has, in the order they stand in the first one."""
    everywhere = [
        (int(pairs.role_positions[0, index]), role)
        for index, role in enumerate(pairs.roles)
        if bool((pairs.role_positions[:, index] >= 0).all())
    ]
    return [role for _, role in sorted(everywhere)]


def encodable(prompts: PromptPairs, per_template: int) -> PromptPairs:
    """Return the first so many prompts of each template, in order; all for 0."""
    if not per_template:
        return prompts
    kept = [pair for part in prompts.by_template().values() for pair in part.rows[:per_template]]
    return PromptPairs(tuple(kept), source=prompts.source)
