"""Does a finding hold in models that differ only in their training seed?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

from mechtest.assertions import absence, necessity, specificity, sufficiency
from mechtest.assertions._decide import REFUTATION
from mechtest.assertions.ablations import with_ablations
from mechtest.assertions.asking import Asked, Options, cost_of_plan, plan_record
from mechtest.assertions.candidates import (
    Candidates,
    CandidateTerms,
    as_the_best,
    begin_best,
)
from mechtest.assertions.combining_seeds import SeedAnswer, alike, all_of_them, on_average
from mechtest.assertions.conduct import Begun, begin, finish
from mechtest.assertions.outcome import checked, conclude
from mechtest.assertions.study import Study, prepare_study
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid, DuplicateWeightsError, MechtestError
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba, ModelSuite
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim
from mechtest.stats import require_seeds_for_mean
from mechtest.tasks import DiscoveryPairs, PromptPairs

__all__ = ["Seeds", "assert_stable_across_seeds", "check_stable_across_seeds", "seed_models"]

Target = Literal["all", "mean", "stable"]
TARGETS = ("all", "mean", "stable")
FindCircuit = Callable[[HookedMamba, DiscoveryPairs], Circuit]
Seeds = ModelSuite | Mapping[int, HookedMamba] | Iterable[tuple[int, HookedMamba]]


def _terms(
    using: Callable[..., ClaimRecord], circuit: Circuit, asked: Asked, extra: Mapping[str, Any]
) -> Terms:
    """Return the terms of one seed's claim."""
    threshold = extra.get("threshold")
    if using in (necessity.assert_necessary, necessity.check_necessary):
        return necessity.necessity_terms(circuit, 0.5 if threshold is None else threshold, asked)
    if using in (sufficiency.assert_sufficient, sufficiency.check_sufficient):
        mode: sufficiency.Sufficiency = extra.get("sufficiency") or "restore"
        return sufficiency.sufficiency_terms(
            circuit, 0.8 if threshold is None else threshold, asked, mode
        )
    if using in (absence.assert_not_necessary, absence.check_not_necessary):
        return absence.absence_terms(circuit, 0.2 if threshold is None else threshold, asked)
    ranked = specificity.assert_beats_random_subspaces, specificity.check_beats_random_subspaces
    if using in ranked:
        return specificity.specificity_terms(circuit, asked)
    raise ClaimInvalid(
        "this is no assertion that can be made in every seed",
        given=getattr(using, "__name__", repr(using)),
        expected="using=assert_necessary, assert_sufficient, assert_not_necessary or "
        "assert_beats_random_subspaces",
    )


@dataclass(frozen=True, eq=False)
class _Seeds:
    """What was asked of every seed."""

    models: tuple[tuple[int, HookedMamba], ...]
    circuit: Circuit | Candidates | FindCircuit
    prompts: PromptPairs
    using: Callable[..., ClaimRecord]
    target: Target
    margin: float
    asked: Asked
    extra: Mapping[str, Any]

    def circuits_of(self, model: HookedMamba) -> tuple[Circuit, ...]:
        """Return what one seed is asked about: the same in all, or what was found in this one."""
        if isinstance(self.circuit, Candidates):
            return self.circuit.circuits
        if isinstance(self.circuit, Circuit):
            return (self.circuit,)
        return (self.circuit(model, self.prompts.discovery),)

    def prepared(
        self, model: HookedMamba, *, refutation: float = REFUTATION, planning: bool = False
    ) -> tuple[Study, Terms | CandidateTerms]:
        """Return what one seed is measured on, and the terms of its claim."""
        circuits = self.circuits_of(model)
        study = prepare_study(model, circuits, self.prompts, self.asked.metric)
        each = tuple(
            replace(
                self._terms(one, study, planning=planning),
                refutation=refutation,
                judged=self.target == "all" or planning,
            )
            for one in circuits
        )
        if isinstance(self.circuit, Candidates):
            return study, CandidateTerms(self.circuit, each)
        return study, each[0]

    def _terms(self, circuit: Circuit, study: Study, *, planning: bool) -> Terms:
        """Return the terms of one circuit; for `stable` the effect is held against nothing."""
        terms = _terms(self.using, circuit, self.asked, self.extra)
        if self.target == "stable":
            terms = replace(terms, threshold=None)
        return with_ablations(terms, self.asked, study, planning=planning)


def check_stable_across_seeds(
    models: Seeds,
    circuit: Circuit | Candidates | FindCircuit,
    prompts: PromptPairs,
    *,
    using: Callable[..., ClaimRecord] = necessity.assert_necessary,
    target: Target = "all",
    margin: float | None = None,
    threshold: float | None = None,
    sufficiency_mode: Literal["restore", "keep"] = "restore",
    assume_normal_seeds: bool = False,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check a claim over training seeds.

    `all`: the claim is supported in each seed, each at the claim's full level. The record says what
    k of k seeds show about seeds that were not trained (3: more than 37 % of them, 5: 55 %). One
    seed that refutes refutes the claim; the rate of false "refuted" is shared by the seeds.
    `mean`: the effect averaged over seeds is above the threshold, and in every seed the guards hold
    and hardly any control does as much; how big the effect is in one seed decides nothing.
    `stable`: 95 % of seeds lie within `margin` of the mean over those seen, shown by a tolerance
    interval of confidence 1 - level. Whether effects are large, or special, is not asked. Three
    seeds practically never establish it.

    Null hypothesis: in some seed the claim is false; for `mean`, the mean over seeds is at most the
        threshold; for `stable`, as `mechtest.stats.stable_seeds`.
    Exchange unit: the seed, never the prompt.
    Exactness: `all` is an intersection-union test and needs no correction. `mean` flips the signs
        of seeds, whose smallest p is 2**-seeds: 5 seeds cannot reach .03. With
        `assume_normal_seeds` a t test over seeds decides instead, and the record says so. `stable`
        assumes normal seeds.

    Args:
        models: A `ModelSuite` (its last checkpoint), the fixture `mamba_seeds`, or (seed, model).
        circuit: The same place in every seed (matched by its name, `blocks.0...`); or `best_of`
            several, of which each seed's own best is claimed (matched by what it does: "the state
            of some layer ..."; for `all`, max-T in every seed); or a function (model, discovery
            prompts) -> Circuit that finds each seed's own.
        prompts: A whole collection.
        using: What is claimed of each seed.
        target: `all`, `mean` or `stable`.
        margin: For `stable`: how far from the mean the next seed may fall, in shares of behaviour.
        threshold: As for the assertion used; None takes its default.
        sufficiency_mode: Passed on to `assert_sufficient`.
        assume_normal_seeds: See above.
        **options: See `Options`.

    Returns:
        A record with one evidence a seed.

    Sources: Berger 1982 (intersection-union); Clopper & Pearson 1934 (the bound); Hahn & Meeker
        1991, section 4.7 (the next seed).
    """
    asked = Asked(**options)
    extra = {"threshold": threshold, "sufficiency": sufficiency_mode, "t": assume_normal_seeds}

    def check(claim: RunningClaim) -> ClaimRecord:
        wide = _require_target(target, margin)
        _require_alone(circuit, target, asked)
        found = _Seeds(seed_models(models), circuit, prompts, using, target, wide, asked, extra)
        if claim.planning:
            return _plan(found, claim)
        return _check(found, claim)

    name = getattr(using, "__name__", "claim")
    return checked("stability", check, level=asked.level, statement=f"{name} in every seed")


def assert_stable_across_seeds(
    models: Seeds,
    circuit: Circuit | Candidates | FindCircuit,
    prompts: PromptPairs,
    *,
    using: Callable[..., ClaimRecord] = necessity.assert_necessary,
    target: Target = "all",
    margin: float | None = None,
    threshold: float | None = None,
    sufficiency_mode: Literal["restore", "keep"] = "restore",
    assume_normal_seeds: bool = False,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_stable_across_seeds` checks, and attach the record.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_stable_across_seeds(
        models,
        circuit,
        prompts,
        using=using,
        target=target,
        margin=margin,
        threshold=threshold,
        sufficiency_mode=sufficiency_mode,
        assume_normal_seeds=assume_normal_seeds,
        **options,
    )
    name = "a circuit found in each seed"
    if isinstance(circuit, Circuit | Candidates):
        name = circuit.name
    return conclude(record, name)


def _require_alone(circuit: object, target: str, asked: Asked) -> None:
    """Refuse candidates where what they come to is not defined."""
    if not isinstance(circuit, Candidates):
        return
    if target != "all" or asked.ablations is not None:
        raise ClaimInvalid(
            "the best of several circuits is claimed in every seed, under one ablation",
            given=f"best_of(...) with target={target!r}, ablations={asked.ablations!r}",
            expected="target='all' and no ablations=",
            next_step="for a mean over seeds give one circuit, or a function that finds it",
        )


def _require_target(target: str, margin: float | None) -> float:
    """Return the margin (0 where none is asked for).

    Raises:
        ClaimInvalid: An unknown target, or a margin that is missing, not positive or of no use.
    """
    if target not in TARGETS:
        raise ClaimInvalid(
            "unknown target of stability",
            given=f"target={target!r}",
            expected=", ".join(map(repr, TARGETS)),
        )
    if (margin is None) == (target == "stable"):
        raise ClaimInvalid(
            "a margin belongs to the target 'stable', which needs one",
            given=f"target={target!r}, margin={margin!r}",
            expected="target='stable', margin=0.2 (shares of behaviour)",
        )
    if margin is not None and not 0 < margin < math.inf:
        raise ClaimInvalid("a margin is a number above 0", given=f"margin={margin!r}")
    return margin or 0.0


def seed_models(models: Seeds) -> tuple[tuple[int, HookedMamba], ...]:
    """Return (seed, model) of all seeds.

    Raises:
        ClaimInvalid: Fewer than two.
        DuplicateWeightsError: Two hold the same weights.
    """
    if isinstance(models, ModelSuite):
        found = list(models.load_all())
    elif isinstance(models, Mapping):
        found = list(models.items())
    else:
        found = list(models)
    if len(found) < 2:
        raise ClaimInvalid(
            "stability needs at least two seeds",
            given=f"{len(found)} seed",
            expected="a suite of models that differ in their training seed",
            next_step="give a suite with more seeds",
        )
    known: dict[str, int] = {}
    for seed, model in found:
        digest = "" if model.fingerprint is None else model.fingerprint.weights
        if digest and digest in known:
            raise DuplicateWeightsError(
                f"seeds {known[digest]} and {seed} hold the same weights: not independent",
                given=f"weights {digest[:12]} in both",
                expected="one independently trained model a seed",
            )
        known[digest] = seed
    return tuple(found)


def _plan(asked: _Seeds, claim: RunningClaim) -> ClaimRecord:
    model = asked.models[0][1]
    study, terms = asked.prepared(model, planning=True)
    problem, cost = "", None
    try:
        terms.require_attainable(study, claim.level)
        cost = cost_of_plan(terms.cost(study, claim.level, claim.seed), len(asked.models))
        if asked.target == "mean":
            _require_mean(asked, claim.level)
    except MechtestError as error:
        problem = f"{error.what} ({error.given}; expected {error.expected})"
    plan = terms.plan(study, claim.level)
    settings = _settings(asked, terms.settings(study))
    claim.plans.append(
        {
            **plan,
            "cost": cost,
            "settings": settings,
            "seeds": len(asked.models),
            "forward_passes": plan["forward_passes"] * len(asked.models),
            "attainable": not problem,
            "problem": problem,
        }
    )
    return plan_record("stability", claim, study.tested.digest, settings)


def _settings(asked: _Seeds, of_one: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **of_one,
        "kind": "stability",
        "of": of_one["kind"],
        "across": asked.target,
        "seeds": [seed for seed, _ in asked.models],
        "assume_normal_seeds": asked.extra["t"],
        **({"margin": asked.margin} if asked.target == "stable" else {}),
    }


def _check(asked: _Seeds, claim: RunningClaim) -> ClaimRecord:
    if asked.target == "mean":
        _require_mean(asked, claim.level)
    started = [_begin(asked, seed, model, claim) for seed, model in asked.models]
    begun = [one for one, _ in started]
    study = begun[0].question.study
    settings = _settings(asked, started[0][1].settings(study))
    prompts = study.tested.digest
    against = [seed for (seed, _), one in zip(asked.models, begun, strict=True) if one.contradicted]
    skip = "how special the circuit is, is not asked" if asked.target == "stable" else ""
    if against and asked.target == "all":
        names = ", ".join(map(str, against))
        skip = f"controls were not drawn: seed {names} refutes the claim already"
    answers: list[SeedAnswer] = []
    for (seed, _), one in zip(asked.models, begun, strict=True):
        error = one.measured.effect(one.question.study).error
        answer = finish(one, claim, skip_controls=skip)
        if isinstance(asked.circuit, Candidates):
            answer = as_the_best(answer, len(asked.circuit.circuits))
        answers.append(SeedAnswer(seed, answer, error))
        claim.progress(len(answers), len(begun), f"seeds, last: {one.label}")
    if asked.target == "all":
        found = all_of_them(answers)
    elif asked.target == "mean":
        found = on_average(answers, claim, normal=bool(asked.extra["t"]))
    else:
        found = alike(answers, claim, asked.margin)
    return ClaimRecord(
        id=claim.id,
        statement=claim.statement or "the claim holds in every seed",
        kind="stability",
        verdict=found.decision.verdict,
        binding=found.decision.binding,
        reason=found.decision.reason,
        settle=found.settle,
        level=claim.level,
        seed=claim.seed,
        prompts=prompts,
        settings=settings,
        evidence=found.evidence,
        notes=(*found.notes, *_winners(asked, begun)),
    )


def _winners(asked: _Seeds, begun: Sequence[Begun]) -> tuple[str, ...]:
    """Say which of several circuits was the best in which seed."""
    if not isinstance(asked.circuit, Candidates):
        return ()
    seeds: dict[str, list[str]] = {}
    for (seed, _), one in zip(asked.models, begun, strict=True):
        seeds.setdefault(one.terms.circuit.name, []).append(str(seed))
    told = [f"{name} in seed {', '.join(found)}" for name, found in seeds.items()]
    return (f"the best circuit is {'; '.join(told)}",)


def _require_mean(asked: _Seeds, level: float) -> None:
    """Raise where no mean over these seeds could support the claim; nothing has been run."""
    above = (
        *(necessity.assert_necessary, necessity.check_necessary),
        *(sufficiency.assert_sufficient, sufficiency.check_sufficient),
    )
    if asked.using not in above:
        raise ClaimInvalid(
            "a mean over seeds needs an effect that is claimed to be above a threshold",
            given=getattr(asked.using, "__name__", repr(asked.using)),
            expected="using=assert_necessary or assert_sufficient",
        )
    if not asked.extra["t"]:
        require_seeds_for_mean(len(asked.models), level)


def _begin(
    asked: _Seeds, seed: int, model: HookedMamba, claim: RunningClaim
) -> tuple[Begun, Terms | CandidateTerms]:
    """Measure the effect in one seed; what cannot be tested there is told with the seed's name."""
    label = f"seed {seed}"
    try:
        study, terms = asked.prepared(model, refutation=REFUTATION / len(asked.models))
        if isinstance(terms, CandidateTerms):
            return begin_best(study, terms, claim, label=label).begun, terms
        return begin(study, terms, claim, label=label), terms
    except MechtestError as error:
        error.what = f"seed {seed}: {error.what}"
        raise
