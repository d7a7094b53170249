"""What can be read off a model's activations, and does the model read it, too?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.discovery.probes.directions import (
    ProbeDirections,
    effects_of,
    probe_directions,
)
from mechtest.discovery.probes.fitting import (
    KINDS,
    ProbeKind,
    ProbeModel,
    Samples,
    require_sklearn,
)
from mechtest.discovery.probes.labels import Label, Labels, control_labels, labels_of
from mechtest.discovery.probes.reading import Place, read_places, single_hook
from mechtest.discovery.probes.record import ProbeRecord, digest_of_directions
from mechtest.discovery.record import about, identity_of
from mechtest.errors import FitError, closest_names
from mechtest.interventions import Circuit, Runner, SweepResult
from mechtest.interventions.sweep_places import SweepTable, lay_out_table
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Metric, PromptPairs, logit_difference

__all__ = ["probe"]

DECODABLE = 0.5
USED = 0.15


@torch.no_grad()
def probe(
    model: HookedMamba,
    sites: str | Sequence[str],
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    *,
    label: Label = "answer",
    kind: ProbeKind = "logistic",
    positions: str | int | Sequence[str | int] = "last",
    penalty: float = 1.0,
    folds: int = 5,
    control_task: bool | int = True,
    rank: int | None = None,
    decodable: float = DECODABLE,
    used: float = USED,
    metric: Metric = logit_difference,
    progress: bool = True,
    seed: int = 0,
) -> ProbeRecord:
    """Read a label off activations with linear probes, and ablate what they read.

    One probe a site and position, fitted to the clean prompts of the discovery half and judged on
    templates that were held out. Beside its accuracy stands the effect: the share of the behaviour
    that is lost when the directions the probe reads are resampled from the prompt's twin.

    Args:
        model: The model.
        sites: Hooks without positions, or patterns: `blocks.*.hook_h`. Each is a row. A `state`
            is two hooks; probe `hook_h` and `hook_conv_state`.
        prompts: A collection (its discovery half is taken), or encoded prompts.
        label: `answer`, a role (the word there), a function of a row, or one label a prompt.
        kind: `logistic` for names; `ridge`, `lasso`, `elasticnet` for numbers.
        positions: `"*"`, or some in the notation of sites. Each is a column.
        penalty: Of the probe, in standardised coordinates: 1 / C, or alpha.
        folds: Parts the templates are dealt into.
        control_task: Also fit random labels of word types; a number for the mean of so many draws.
            The word type is the word at the role, or the words in which the twins differ.
        rank: Directions to keep at most; None for all, one less than there are classes.
        decodable: A place is decodable where accuracy makes up this share of what guessing lacks.
        used: Its directions are used where resampling them loses this share of the behaviour.
        metric: Reads logits.
        progress: Show a bar on stderr, where that is a terminal.
        seed: Of the control task.

    Returns:
        A record with one place for each site and position; see `ProbeRecord`.

    Raises:
        ClaimInvalid: Prompts that are kept for testing claims.
        FitError: One label, one template, texts where numbers are needed, or no convergence.
        MetricError: The model does not do the task.
        ShapeError: A site of several hooks, or positions that are ranges.
        MissingPackageError: scikit-learn is not installed.

    Memory: 256 MB of activations, or one place's where that is more: 8 bytes x prompts x width.
    Sources: Alain & Bengio 2016 (probes); Hewitt & Liang 2019 (control tasks); Elazar et al. 2021
        (what is decodable need not be used).
    """
    require_sklearn()
    _known("kind", kind, KINDS)
    if not penalty > 0 or folds < 2:
        raise FitError(
            "a probe needs a positive penalty and two folds",
            given=f"penalty={penalty}, folds={folds}",
        )
    runner = looking_runner(model, prompts)
    behaviour = behaviour_of(runner, metric)
    table = lay_out_table(model, sites, runner.planner, positions, None)
    for circuit in table.circuits.values():
        single_hook(runner, circuit)
    machine = ProbeModel(kind, float(penalty), int(folds), int(seed))
    labels = labels_of(model, prompts, runner.pairs, label, numeric=machine.numeric)
    draws = [control_labels(labels, seed, draw) for draw in range(int(control_task))]
    clusters = np.asarray(runner.pairs.cluster)
    found = _Found(machine, labels, draws, clusters)
    bar = tqdm(total=len(table.circuits), unit="probe", disable=None if progress else True)
    with bar:
        for place, samples in read_places(runner, table.circuits):
            found.add(place, samples, rank)
            bar.update()
    circuits = {
        place: one.circuit(_site(table, place)) for place, one in found.directions.items() if one
    }
    effects, reasons = effects_of(runner, behaviour, circuits)
    wholes, untouched = effects_of(runner, behaviour, table.circuits)
    nothing = {p: "the probe reads nothing here" for p, one in found.directions.items() if not one}
    core = about(
        "probe", model, runner.pairs, metric=metric.name, kind=kind, penalty=float(penalty),
        folds=int(folds), control_tasks=len(draws), rank=rank,
        decodable=float(decodable), used=float(used), seed=int(seed), label=labels.name,
    )  # fmt: skip
    made = {_site(table, place): one for place, one in found.directions.items() if one}
    share = "share of behaviour"
    map_of = _Maps(model, runner, table, f"{kind} probe", metric.name)
    return ProbeRecord(
        about=core,
        label=labels.name,
        classes=labels.classes,
        measure="R2" if machine.numeric else "accuracy",
        baseline=found.guessing(),
        accuracy=map_of(found.right, {}, found.title, found.unit),
        control=map_of(found.control, {}, f"{found.title}, control task", found.unit)
        if draws
        else None,
        effect=map_of(effects, reasons | nothing, "effect of what is read", share, "resample"),
        whole_effect=map_of(wholes, untouched, "effect of the site", share, "resample"),
        ranks={
            _site(table, place): one.rank if one else 0 for place, one in found.directions.items()
        },
        digests={site: digest_of_directions(one) for site, one in made.items()},
    ).with_directions(made)


class _Found:
    """Fits probes place by place, and keeps what they came to."""

    def __init__(
        self, machine: ProbeModel, labels: Labels, draws: Sequence[Labels], clusters: np.ndarray
    ) -> None:
        self.machine, self.labels, self.draws, self.clusters = machine, labels, draws, clusters
        self.right: dict[Place, np.ndarray] = {}
        self.control: dict[Place, np.ndarray] = {}
        self.directions: dict[Place, ProbeDirections | None] = {}
        self.unit = "R2" if machine.numeric else "share of prompts"
        self.title = f"{'R2' if machine.numeric else 'accuracy'} for {labels.name}"

    def add(self, place: Place, samples: Samples, rank: int | None) -> None:
        self.right[place] = self._scored(samples, self.labels)
        if self.draws:
            each = [self._scored(samples, draw) for draw in self.draws]
            self.control[place] = np.mean(each, axis=0)
        fitted = self.machine.fitted(samples, self.labels)
        self.directions[place] = probe_directions(fitted, rank)

    def guessing(self) -> float:
        guesses = self.machine.baseline(self.labels, self.clusters)
        return self._mean(self._values(guesses, self.labels))

    def _scored(self, samples: Samples, labels: Labels) -> np.ndarray:
        return self._values(self.machine.held_out(samples, labels, self.clusters), labels)

    def _values(self, predicted: np.ndarray, labels: Labels) -> np.ndarray:
        if not self.machine.numeric:
            return (predicted == labels.values).astype(np.float64)
        true = labels.values
        about_mean = self._mean((true - self._mean(true)) ** 2)
        return np.asarray(1 - (predicted - true) ** 2 / about_mean)

    def _mean(self, values: np.ndarray) -> float:
        """Return the mean over templates of each template's mean."""
        names = np.unique(self.clusters)
        return float(np.mean([values[self.clusters == name].mean() for name in names]))


class _Maps:
    """Puts numbers by place into tables."""

    def __init__(
        self, model: HookedMamba, runner: Runner, table: SweepTable, how: str, metric: str
    ) -> None:
        self.model, self.runner, self.table = model, runner, table
        self.how, self.metric = how, metric

    def __call__(
        self, values: dict[Place, np.ndarray], reasons: dict[Place, str], name: str, unit: str,
        how: str = "",
    ) -> SweepResult:  # fmt: skip
        pairs, table = self.runner.pairs, self.table
        numbers = np.full((len(table.rows), len(table.columns), len(pairs)), np.nan)
        for place, one in values.items():
            numbers[place] = one
        return SweepResult(
            rows=table.rows,
            columns=table.columns,
            row_name=table.row_name,
            column_name=table.column_name,
            sites=table.sites,
            values=numbers,
            reasons=table.reasons | reasons,
            prompt_ids=pairs.ids,
            templates=tuple(pairs.templates[index] for index in pairs.cluster),
            effect_name=name,
            unit=unit,
            intervention=how or self.how,
            base="clean",
            metric=self.metric,
            model=identity_of(self.model),
            prompt_columns=table.prompt_columns,
        )


def _site(table: SweepTable, place: Place) -> str:
    return str(Circuit(table.sites[place[0]][place[1]]).sites[0])


def _known(what: str, given: Any, known: Any) -> None:
    if given not in known:
        raise FitError(
            f"there is no such {what}",
            given=repr(given),
            closest=closest_names(str(given), list(known)),
            expected=", ".join(known),
        )
