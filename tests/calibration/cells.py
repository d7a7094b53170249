"""Which null hypotheses are claims calibrated under, and how often are they called supported?

A cell is one assertion, one way in which it is just not true, and one population. Two ways:

boundary      the threshold is the population's own effect
exchangeable  the claim was drawn from the family of its controls
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import jaxtyping
import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binomtest

from mechtest.assertions import comparisons, conduct, flip_rate
from mechtest.assertions.absence import absence_terms
from mechtest.assertions.asking import Asked
from mechtest.assertions.control_sets import COMPONENTS, Control, channel_sets, choose_controls
from mechtest.assertions.guards import require_no_cut
from mechtest.assertions.necessity import necessity_terms
from mechtest.assertions.specificity import specificity_terms
from mechtest.assertions.sufficiency import sufficiency_terms
from mechtest.assertions.terms import Terms
from mechtest.interventions import Circuit, Subspace, fit_spectrum
from mechtest.records import Verdict
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    ClusterEffect,
    Interval,
    SubspaceControls,
    effect_test_power,
    inversion_interval,
    keyed_generator,
    standardised_distance,
)
from mechtest.stats.effects import skewness
from tests.calibration.population import (
    PooledSets,
    Population,
    SampledStudy,
    check,
    measured_once,
)

__all__ = [
    "OUT_OF_THE_WAY",
    "Cell",
    "Claim",
    "Rates",
    "as_measured",
    "boundary",
    "exchangeable",
    "planned_power",
    "rates",
    "subspace_family",
]

OUT_OF_THE_WAY = -10.0
"""A threshold that every effect passes, where only the rank is asked about."""

EFFECT_TEST = import_module("mechtest.stats.effect_test")
"""The module, not the function of the same name that its package offers."""

POOL = 1600
"""Draws of a family: more than the controls a claim at .0025 can ask for."""


@dataclass(frozen=True, eq=False)
class Claim:
    """One claim of a cell.

    Attributes:
        terms: What is claimed.
        sets: Controls in the place of those that would be drawn.
    """

    terms: Terms
    sets: PooledSets | None = None


Judge = Callable[[SampledStudy, RunningClaim, np.random.Generator], Verdict]


def no_claim() -> Claim:
    """Stand in for the claim of a cell that judges for itself."""
    raise NotImplementedError("this cell has a judge")


@dataclass(frozen=True, eq=False)
class Cell:
    """One assertion under one null hypothesis.

    Attributes:
        name: For tables.
        null: What is not true.
        population: Where prompts come from.
        claim: Claim number i, given a generator of its own.
        judge: Instead, for assertions of other shapes: returns the verdict, given a sample of
            templates, the claim, and the generator.
    """

    name: str
    null: str
    population: Population
    claim: Callable[[np.random.Generator], Claim] = lambda _: no_claim()
    judge: Judge | None = None


@dataclass(frozen=True)
class Rates:
    """What came of many claims.

    Attributes:
        verdicts: How often each verdict.
        controls: Controls drawn, summed over claims.
        level: Level of each claim.
        clusters: Templates of each claim.
    """

    verdicts: dict[str, int]
    controls: int
    level: float
    clusters: int

    @property
    def claims(self) -> int:
        """Number of claims."""
        return sum(self.verdicts.values())

    @property
    def supported(self) -> float:
        """Share of claims called supported."""
        return self.verdicts.get("supported", 0) / self.claims

    @property
    def interval(self) -> tuple[float, float]:
        """Exact 95 % interval of that share."""
        found = binomtest(self.verdicts.get("supported", 0), self.claims).proportion_ci(0.95)
        return float(found.low), float(found.high)

    @property
    def holds(self) -> bool:
        """Whether the share is at most the level, as far as these claims can tell."""
        return self.interval[0] <= self.level


def rates(
    cell: Cell, claims: int, level: float, clusters: int, *, first: int = 0, support: bool = False
) -> Rates:
    """Return how often claims of a cell come to which verdict.

    Args:
        cell: The null hypothesis.
        claims: How many claims.
        level: Level of each.
        clusters: Templates each of them draws.
        first: Number of the first one; claim i is the same whoever asks.
        support: Whether only support is asked for: a claim whose effect is not shown is left at
            that, without the controls and intervals that could refute it.
    """
    verdicts: Counter[str] = Counter()
    drawn = 0
    with as_measured(support=support) as current:
        for number in range(first, first + claims):
            generator = np.random.default_rng([number, clusters])
            study = cell.population.draw(clusters, generator)
            if cell.judge is not None:
                claim = RunningClaim(key=f"null {number}", level=level, seed=number)
                verdicts[str(cell.judge(study, claim, generator))] += 1
                continue
            made = cell.claim(generator)
            current.sets = made.sets
            found = check(study, made.terms, level, number, support=support)
            if found is None:
                verdicts["not supported"] += 1
                continue
            verdicts[str(found.decision.verdict)] += 1
            if found.evidence.controls is not None:
                drawn += found.evidence.controls.drawn
    return Rates(dict(sorted(verdicts.items())), drawn, level, clusters)


# --- kinds of null hypothesis --------------------------------------------------------------------


def terms_of(kind: str, circuit: Circuit, threshold: float) -> Terms:
    """Return the terms of one kind of claim."""
    asked = Asked()
    if kind == "necessary":
        return necessity_terms(circuit, threshold, asked)
    if kind == "not necessary":
        return absence_terms(circuit, threshold, asked, two_sided=True)
    if kind == "special among subspaces":
        return specificity_terms(circuit, asked)
    return sufficiency_terms(circuit, threshold, asked, "keep" if "keep" in kind else "restore")


def boundary(kind: str, population: Population, circuit: Circuit) -> Cell:
    """Return a cell whose threshold is the population's own effect."""
    effect = population.effect(terms_of(kind, circuit, 0.5))
    assert effect.estimate is not None
    threshold, skew = effect.estimate, skewness(effect.scores(effect.estimate))
    terms = terms_of(kind, circuit, threshold)
    return Cell(
        kind,
        f"effect is {threshold:.2f}, as the threshold; skew {skew:.1f}",
        population,
        lambda _: Claim(terms),
    )


def exchangeable(kind: str, population: Population, circuit: Circuit) -> Cell:
    """Return a cell whose claims are random sets of as many channels as a circuit has."""
    family = channel_sets(population.model, circuit, 20_000, 0.01)
    pool = [family.draw(number) for number in range(POOL)]
    terms = terms_of(kind, circuit, OUT_OF_THE_WAY)  # what is edited are the channels drawn

    def claim(generator: np.random.Generator) -> Claim:
        order = generator.permutation(POOL)
        return Claim(terms, PooledSets(COMPONENTS, pool, order[1:], pool[order[0]].circuits))

    return Cell(kind, f"{len(circuit.channels or ())} channels by chance", population, claim)


def subspace_family(kind: str, population: Population, site: str, rank: int) -> Cell:
    """Return a cell whose claims are turned within the blocks of a random start."""
    whole = Circuit(site)
    spectrum = fit_spectrum(population.whole.discovery, whole)
    start = np.random.default_rng(5).normal(size=(spectrum.dim, rank)) * spectrum.scale[:, None]
    family = SubspaceControls(start, spectrum, "block", 12345, "where null claims come from")
    draws = [family.draw(number) for number in range(POOL)]
    pool = [
        Control(
            [
                whole.with_subspace(
                    Subspace.from_edit(
                        torch.as_tensor(d.basis).float(), torch.as_tensor(d.dual).float()
                    )
                )
            ],
            lambda effect: effect,
        )
        for d in draws
    ]

    def claim(generator: np.random.Generator) -> Claim:
        order = generator.permutation(POOL)
        own, circuits = draws[order[0]], pool[order[0]].circuits
        asked = SubspaceControls(own.basis, spectrum, "block", 0, "one claim")
        sets = PooledSets(
            "block", pool, order[1:], circuits, lambda effect, n: asked.statistic(effect, draws[n])
        )
        return Claim(terms_of(kind, circuits[0], OUT_OF_THE_WAY), sets)

    return Cell(kind, f"rank {rank}, turned by chance", population, claim)


PLANNED = 12, 0.05
"""Templates and level that powers are planned for."""


def planned_power(kind: str, population: Population, circuit: Circuit, power: float) -> Cell:
    """Return true claims whose threshold the plan gives a power of being supported.

    The plan knows the population's effect and the spread of its templates, and uses the noncentral
    t distribution; whether the claims are found as often is what the cell is for.
    """
    effect = population.effect(terms_of(kind, circuit, 0.5))
    estimate = effect.estimate
    assert estimate is not None

    def missing(below: float) -> float:
        distance = standardised_distance(effect, estimate - below, estimate)
        return effect_test_power(distance, *PLANNED) - power

    threshold = estimate - float(brentq(missing, 1e-6, 1.0))
    return Cell(
        kind, f"effect {estimate:.2f}, threshold {threshold:.2f}", population,
        lambda _: Claim(terms_of(kind, circuit, threshold)),
    )  # fmt: skip


# --- what is measured once -----------------------------------------------------------------------


def unwidened(effect: ClusterEffect, confidence: float, *, seed: int, claim: str) -> Interval:
    """Return the interval of sign flips alone."""
    generator = keyed_generator(seed, claim, "sign flips")
    return inversion_interval(effect, confidence, generator=generator)


@dataclass
class _Current:
    sets: PooledSets | None = None


@contextmanager
def as_measured(*, support: bool = False) -> Iterator[_Current]:
    """Let claims read what depends on model and prompts alone from the first that asked.

    Args:
        support: Whether nothing but support is asked for: intervals refute nothing then.
    """
    current = _Current()
    chosen: dict[tuple[Any, ...], Any] = {}
    guards: dict[tuple[Any, ...], Any] = {}

    def choose(study: SampledStudy, circuit: Circuit, kind: str, seed: int, level: float) -> Any:
        del seed  # one seed for all claims: their prompts differ, and their controls need not
        if current.sets is not None:
            return current.sets
        key = (id(circuit), kind, level)
        if key not in chosen:
            chosen[key] = _Remembered(choose_controls(study, circuit, kind, 0, level))
        return chosen[key]

    def no_cut(question: Any, circuit: Circuit, *, seed: int, claim: str) -> Any:
        key = (question.mode, circuit.sites)
        if key not in guards:
            guards[key] = require_no_cut(question, circuit, seed=seed, claim=claim)
        return guards[key]

    with pytest.MonkeyPatch.context() as patch:
        # Other tests check the shapes of every call; here that would be most of the time.
        patch.setattr(jaxtyping.config, "jaxtyping_disable", True)
        patch.setattr(conduct, "choose_controls", choose)
        patch.setattr(conduct, "require_no_cut", no_cut)
        patch.setattr(flip_rate, "require_no_cut", no_cut)
        # What would settle a claim, and the interval that is shown, decide nothing and take long.
        patch.setattr(EFFECT_TEST, "effect_interval", unwidened)
        if support:
            patch.setattr(conduct, "effect_interval", unwidened)
        patch.setattr(conduct, "what_would_settle", lambda *_: "")
        patch.setattr(comparisons, "more_templates", lambda *_: "")
        # Forty probes whether controls can differ from the claim; they do.
        patch.setattr(SubspaceControls, "_refuse_copies", lambda self: None)
        measured_once(patch)
        yield current


class _Remembered:
    """Controls that are the same objects whenever they are drawn."""

    def __init__(self, sets: Any) -> None:
        self.kind, self.weak, self.digest = sets.kind, sets.weak, sets.digest
        self.claimed = sets.claimed
        self.draw = functools.cache(sets.draw)
