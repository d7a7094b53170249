"""Which of these circuits has the largest effect, judged as the best of so many?

A circuit that is picked on the prompts it is then tested on looks better than it is. Here the
picking is part of the test: the winner's p value is that of a maximum, and every control is the
best of as many sets as there are candidates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from mechtest.assertions._decide import EffectFinding
from mechtest.assertions.conduct import Answer, Begun, finish
from mechtest.assertions.control_sets import (
    COMPONENTS,
    Control,
    channels_claimed,
    circuits_of_channels,
    control_blocks,
)
from mechtest.assertions.guards import (
    BEHAVIOUR_LEVEL,
    changed_share,
    require_behaviour,
    require_no_cut,
)
from mechtest.assertions.question import Question
from mechtest.assertions.rounding import plain, with_interval
from mechtest.assertions.study import Study, Values
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit, Cost, digest_of
from mechtest.models import HookedMamba
from mechtest.records import Evidence
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    BestOf,
    CandidateControls,
    ClusterEffect,
    ControlTest,
    Interval,
    best_of_test,
    cluster_effect,
    effect_test,
    inversion_interval,
    keyed_generator,
    largest_upper_end,
    needed_clusters,
    needed_controls,
    require_clusters,
)

__all__ = [
    "CandidateTerms",
    "Candidates",
    "Picked",
    "answer_best",
    "as_the_best",
    "begin_best",
    "best_of",
]

UNCHANGED = 1e-6


@dataclass(frozen=True, eq=False)
class Candidates:
    """Circuits of which the best is claimed; made by `best_of`.

    Attributes:
        circuits: In the order given.
    """

    circuits: tuple[Circuit, ...]

    @property
    def name(self) -> str:
        """How reports call it."""
        return f"the best of {'; '.join(circuit.name for circuit in self.circuits)}"


def best_of(candidates: Sequence[Circuit]) -> Candidates:
    """Return circuits of which the one with the largest effect is claimed.

    For `assert_necessary` and `assert_sufficient` in the place of a circuit, when the claim is
    "one of these carries it" and which one is seen on the very prompts it is tested on; and for
    `assert_stable_across_seeds`, when it need not be the same one in every seed. The p value
    of the effect is that of the largest of so many (single-step max-T); every control is the best
    of as many matched sets. The record names the winner and shows every candidate's effect.

    Args:
        candidates: Two circuits or more, of whole sites or channels. To pick a subspace, look on
            `prompts.discovery`.

    Raises:
        ClaimInvalid: Fewer than two, one twice, or a subspace.

    Sources: Westfall & Young 1993.

    Example:
        >>> layers = [Circuit(f"blocks.{layer}.state@last") for layer in range(2)]
        >>> assert_necessary(model, best_of(layers), prompts)
    """
    circuits = tuple(candidates)
    if any(not isinstance(circuit, Circuit) for circuit in circuits):
        raise ClaimInvalid(
            "the best of circuits needs circuits",
            given=", ".join(type(circuit).__name__ for circuit in circuits),
            expected="best_of([Circuit(...), Circuit(...)])",
        )
    keys = [(tuple(map(str, one.sites)), one.by_site) for one in circuits]
    if len(circuits) < 2 or len(set(keys)) < len(keys):
        raise ClaimInvalid(
            "the best of some circuits needs two or more, each once",
            given=", ".join(map(repr, circuits)) or "none",
            expected="best_of([Circuit(...), Circuit(...)]) with different circuits",
            next_step="a single circuit needs no best_of",
        )
    subspaces = [circuit for circuit in circuits if circuit.subspace is not None]
    if subspaces:
        raise ClaimInvalid(
            "subspaces cannot be candidates: their controls live in coordinates of their own",
            given=repr(subspaces[0]),
            expected="circuits of whole sites or channels",
            next_step="pick the subspace on prompts.discovery, and claim that one",
        )
    return Candidates(circuits)


@dataclass(frozen=True, eq=False)
class CandidateSets:
    """Sets of channels, one for each candidate, renamed by one permutation."""

    controls: CandidateControls
    sizes: dict[str, int]
    claimed: Sequence[Circuit]
    kind: str = COMPONENTS
    weak: bool = False

    @cached_property
    def digest(self) -> str:
        """What the draws depend on."""
        controls = self.controls
        parts = [list(map(list, controls.candidates)), dict(controls.strata)]
        return digest_of(["candidates", controls.seed, controls.claim_id, *parts])

    def draw(self, number: int) -> Control:
        """Return as many sets as there are candidates; the best of them is the control."""
        drawn = self.controls.draw(number)
        first, *others = [circuits_of_channels(members, self.sizes) for members in drawn]
        return Control(first, lambda effect: effect, tuple(others))


def candidate_sets(
    model: HookedMamba, circuits: Sequence[Circuit], winner: Circuit, seed: int, level: float
) -> CandidateSets:
    """Return the family of controls of some candidates.

    Raises:
        ControlsError, UnattainableLevelError: As `CandidateControls`.
    """
    strata: dict[str, str] = {}
    sizes: dict[str, int] = {}
    members: list[tuple[str, ...]] = []
    for circuit in circuits:
        claimed, of_kind, widths = channels_claimed(model, circuit)
        members.append(tuple(claimed))
        strata.update(of_kind)
        sizes.update(widths)
    stream = f"controls of {len(circuits)} candidates"
    controls = CandidateControls(tuple(members), strata, seed, stream)
    controls.require_level(level)
    return CandidateSets(controls, sizes, [winner])


@dataclass(frozen=True, eq=False)
class CandidateTerms:
    """The terms of a claim about the best of some circuits.

    Attributes:
        candidates: The circuits.
        each: The terms the claim would have of each alone; they differ by the circuit only.
    """

    candidates: Candidates
    each: tuple[Terms, ...]
    first: Terms = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", self.each[0])
        one = self.first
        if one.equivalent is not None:
            raise ClaimInvalid(
                "the best of some circuits is the largest, and has no upper bound to be held to",
                given=f"best_of(...) and equivalent={one.equivalent!r}",
                expected="one circuit, or no `equivalent`",
            )
        if one.threshold is None or one.direction != "greater" or one.mode == "keep":
            raise ClaimInvalid(
                "the best of some circuits can be claimed to be necessary, or sufficient when "
                "restored",
                given=f"{one.kind}, mode {one.mode!r}",
                expected="assert_necessary, or assert_sufficient with mode='restore'",
            )

    def settings(self, study: Study) -> dict[str, Any]:
        """Return what the lock registers; who wins is no part of it."""
        return {
            **self.first.settings(study),
            "circuit": [str(s) for one in self.candidates.circuits for s in one.sites],
            "channels": None,
            "candidates": [
                {
                    "circuit": [str(site) for site in one.sites],
                    "channels": one.channel_total,
                }
                for one in self.candidates.circuits
            ],
        }

    def require_attainable(self, study: Study, level: float) -> None:
        """Raise when no data could support the claim; nothing has been run by then.

        Raises:
            UnattainableLevelError: Too few templates or controls for the level.
            ControlsError: Controls that cannot be.
        """
        require_clusters(study.templates, min(level, BEHAVIOUR_LEVEL))
        one = self.first
        ControlTest(0.0, level, losses=one.losses, cap=one.max_controls)
        self.sets(study, one.circuit, 0, level)

    def sets(self, study: Study, winner: Circuit, seed: int, level: float) -> CandidateSets:
        """Return the controls."""
        return candidate_sets(study.model, self.candidates.circuits, winner, seed, level)

    def question(self, study: Study, circuit: Circuit) -> Question:
        """Return how effects are measured."""
        return Question(study, self.first.mode, self.first.intervention, circuit)

    def cost(self, study: Study, level: float, seed: int) -> Cost:
        """Return what the candidates and the controls needed for support will cost."""
        one = self.first
        question = self.question(study, one.circuit)
        total = question.cost([[circuit] for circuit in self.candidates.circuits])
        sets = self.sets(study, one.circuit, seed, level)
        for block in control_blocks(needed_controls(level, losses=one.losses)):
            total += question.cost([chosen for n in block for chosen in sets.draw(n).sets])
        return total

    def plan(self, study: Study, level: float) -> dict[str, Any]:
        """Return what checking this claim will take at most, without running anything."""
        alone = self.first.plan(study, level)
        count = len(self.each)
        batches = -(-len(study.pairs) // study.runner.batch_size)
        return {
            **alone,
            "settings": self.settings(study),
            "needed_clusters": needed_clusters(min(level, BEHAVIOUR_LEVEL)),
            "forward_passes": batches * (6 + 2 * count + count * alone["controls"]),
        }


@dataclass(frozen=True, eq=False)
class Picked:
    """The best of some circuits, measured, and not yet ranked among controls.

    Attributes:
        begun: The claim about the winner.
        found: Test of the largest effect.
        effects: Of every candidate.
        moved: a_i of every candidate.
    """

    begun: Begun
    found: BestOf
    effects: tuple[ClusterEffect, ...]
    moved: tuple[Values, ...]

    @property
    def winner(self) -> Circuit:
        """The circuit with the largest effect."""
        return self.begun.terms.circuit


def answer_best(
    study: Study, terms: CandidateTerms, claim: RunningClaim
) -> tuple[Answer, tuple[Evidence, ...]]:
    """Check a claim about the best of some circuits.

    Returns:
        The answer about the winner, and what the other candidates did (shown, not judged).

    Raises:
        MechtestError: The claim cannot be tested as stated.
    """
    picked = begin_best(study, terms, claim)
    answer = as_the_best(finish(picked.begun, claim), len(terms.each))
    return answer, _others(answer.evidence, terms, picked, claim)


def begin_best(
    study: Study, terms: CandidateTerms, claim: RunningClaim, *, label: str = ""
) -> Picked:
    """Check everything about the best of some circuits that comes before the controls.

    Args:
        study: Model, prompts, metric.
        terms: The claim.
        claim: Its level and seed.
        label: Which part of a larger claim this is; random draws are keyed by it too.

    Raises:
        MechtestError: The claim cannot be tested as stated.
    """
    terms.require_attainable(study, claim.level)
    level, seed = claim.level, claim.seed
    key = f"{claim.key}|{label}" if label else claim.key
    circuits, one = terms.candidates.circuits, terms.first
    question = terms.question(study, circuits[0])
    guards = list(require_behaviour(question, seed=seed, claim=key, min_accuracy=one.min_accuracy))
    for circuit in circuits:
        asked = terms.question(study, circuit)
        cut = require_no_cut(asked, circuit, seed=seed, claim=key)
    moved = question.moved_parts([[circuit] for circuit in circuits])
    behaviour = question.behaviour()
    _require_changes(study, one, circuits, moved, behaviour)
    effects = tuple(cluster_effect(values, behaviour, study.labels) for values in moved)
    threshold = one.threshold
    assert threshold is not None, "asked for by the terms"
    found = best_of_test(effects, threshold, level, seed=seed, claim=key)
    best = circuits[found.winner]
    measured = terms.question(study, best).measure([best])
    guards += [cut, changed_share(measured, absence=False)]
    tested = effect_test(effects[found.winner], threshold, level, seed=seed, claim=key)
    begun = Begun(
        question,
        terms.each[found.winner],
        level,
        key,
        label or f"best of {len(circuits)}",
        terms.sets(study, best, seed, level),
        measured,
        tuple(guards),
        _finding(effects, found, threshold, one.refutation, seed, key),
        replace(tested, p=found.p, method=found.method, interval=found.interval),
        seed,
    )
    return Picked(begun, found, effects, tuple(moved))


def as_the_best(answer: Answer, count: int) -> Answer:
    """Return an answer that says of how many circuits it is about the best."""
    said = (
        f"the circuit was picked on these prompts as the best of {count}: p is that of the largest "
        f"of {count}, and every control is the best of {count} sets"
    )
    shown = answer.evidence
    return replace(answer, evidence=replace(shown, assumptions=(*shown.assumptions, said)))


def _require_changes(
    study: Study, terms: Terms, circuits: Sequence[Circuit], moved: Sequence[Values],
    behaviour: Values,
) -> None:  # fmt: skip
    """Raise where a candidate moves nothing because its edit changes nothing."""
    least = UNCHANGED * float(np.abs(behaviour).max())
    for circuit, values in zip(circuits, moved, strict=True):
        if float(np.abs(values).max()) <= least:
            study.runner.run(circuit, terms.intervention)


def _finding(
    effects: Sequence[ClusterEffect], found: BestOf, threshold: float, refutation: float, seed: int,
    key: str,
) -> EffectFinding:  # fmt: skip
    """Return the winner's effect; refuting it means that every candidate lies below."""
    high = largest_upper_end(effects, 1 - refutation, seed=seed, claim=key)
    wide = Interval(None, high, 1 - refutation, "largest upper end of all candidates")
    return EffectFinding(found.estimate, threshold, "greater", found.p, wide)


def _others(
    best: Evidence, terms: CandidateTerms, picked: Picked, claim: RunningClaim
) -> tuple[Evidence, ...]:
    """Return what each candidate that did not win did."""
    found = picked.found
    rows = []
    for k, circuit in enumerate(terms.candidates.circuits):
        if k == found.winner:
            continue
        effect = picked.effects[k]
        generator = keyed_generator(claim.seed, f"{claim.key}|candidate {k}", "sign flips")
        spread = effect.heterogeneity(0.0)
        rows.append(
            replace(
                best,
                label=f"candidate {k + 1}: {circuit.name}",
                circuit=tuple(str(site) for site in circuit.sites),
                effect=with_interval(
                    found.estimates[k], inversion_interval(effect, 0.95, generator=generator)
                ),
                threshold=None,
                p_effect=None,
                method="shown, not judged",
                clusters_positive=spread.positive,
                worst_cluster=spread.worst,
                moved=None,
                broken=None,
                controls=None,
                guards=(),
                effects=tuple(plain(value) for value in picked.moved[k]),
            )
        )
    return tuple(rows)
