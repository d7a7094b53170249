"""Does a finding hold in models that differ only in their training seed?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

from mechtest.assertions import absence, necessity, specificity, sufficiency
from mechtest.assertions._decide import REFUTATION
from mechtest.assertions.ablations import with_ablations
from mechtest.assertions.asking import Asked, Options, cost_of_plan, plan_record
from mechtest.assertions.conduct import Answer, Begun, begin, finish
from mechtest.assertions.outcome import checked, conclude
from mechtest.assertions.study import prepare_study
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid, DuplicateWeightsError, MechtestError
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba, ModelSuite
from mechtest.records import ClaimRecord, Evidence, Guard, Verdict
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    all_seeds,
    keyed_generator,
    mean_over_seeds,
    reaches,
    require_seeds_for_mean,
)
from mechtest.tasks import DiscoveryPairs, PromptPairs

__all__ = ["assert_stable_across_seeds", "check_stable_across_seeds"]

Mode = Literal["all", "mean"]
FindCircuit = Callable[[HookedMamba, DiscoveryPairs], Circuit]
Seeds = ModelSuite | Mapping[int, HookedMamba] | Iterable[tuple[int, HookedMamba]]

_ORDER = (Verdict.INVALID, Verdict.REFUTED, Verdict.INCONCLUSIVE, Verdict.SUPPORTED)


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
    circuit: Circuit | FindCircuit
    prompts: PromptPairs
    using: Callable[..., ClaimRecord]
    mode: Mode
    asked: Asked
    extra: Mapping[str, Any]

    def circuit_of(self, model: HookedMamba) -> Circuit:
        """Return the circuit of one seed: the same place in all, or what was found in this one."""
        if isinstance(self.circuit, Circuit):
            return self.circuit
        return self.circuit(model, self.prompts.discovery)


def check_stable_across_seeds(
    models: Seeds,
    circuit: Circuit | FindCircuit,
    prompts: PromptPairs,
    *,
    using: Callable[..., ClaimRecord] = necessity.assert_necessary,
    mode: Mode = "all",
    threshold: float | None = None,
    sufficiency_mode: Literal["restore", "keep"] = "restore",
    assume_normal_seeds: bool = False,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check a claim in every training seed.

    `all`: the claim is supported in each seed, each at the claim's full level. The record says what
    k of k seeds show about seeds that were not trained (3: more than 37 % of them, 5: 55 %). One
    seed that refutes refutes the claim; the rate of false "refuted" is shared by the seeds.
    `mean`: the effect averaged over seeds is above the threshold, and in every seed the guards hold
    and hardly any control does as much; how big the effect is in one seed decides nothing.

    Null hypothesis: in some seed the claim is false; for `mean`, the mean over seeds is at most the
        threshold.
    Exchange unit: the seed, never the prompt.
    Exactness: `all` is an intersection-union test and needs no correction. `mean` flips the signs
        of seeds, whose smallest p is 2**-seeds: 5 seeds cannot reach .03. With
        `assume_normal_seeds` a t test over seeds decides instead, and the record says so.

    Args:
        models: A `ModelSuite` (its last checkpoint), the fixture `mamba_seeds`, or (seed, model).
        circuit: The same place in every seed, or a function (model, discovery prompts) -> Circuit
            that finds each seed's own.
        prompts: A whole collection.
        using: What is claimed of each seed.
        mode: `all` or `mean`.
        threshold: As for the assertion used; None takes its default.
        sufficiency_mode: Passed on to `assert_sufficient`.
        assume_normal_seeds: See above.
        **options: See `Options`.

    Returns:
        A record with one evidence a seed.

    Sources: Berger 1982 (intersection-union); Clopper & Pearson 1934 (the bound).
    """
    asked = Asked(**options)
    extra = {"threshold": threshold, "sufficiency": sufficiency_mode, "t": assume_normal_seeds}

    def check(claim: RunningClaim) -> ClaimRecord:
        if mode not in ("all", "mean"):
            raise ClaimInvalid(
                "unknown mode of stability", given=f"mode={mode!r}", expected="'all' or 'mean'"
            )
        found = _Seeds(_members(models), circuit, prompts, using, mode, asked, extra)
        if claim.planning:
            return _plan(found, claim)
        return _check(found, claim)

    name = getattr(using, "__name__", "claim")
    return checked("stability", check, level=asked.level, statement=f"{name} in every seed")


def assert_stable_across_seeds(
    models: Seeds,
    circuit: Circuit | FindCircuit,
    prompts: PromptPairs,
    *,
    using: Callable[..., ClaimRecord] = necessity.assert_necessary,
    mode: Mode = "all",
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
        mode=mode,
        threshold=threshold,
        sufficiency_mode=sufficiency_mode,
        assume_normal_seeds=assume_normal_seeds,
        **options,
    )
    name = circuit.name if isinstance(circuit, Circuit) else "a circuit found in each seed"
    return conclude(record, name)


def _members(models: Seeds) -> tuple[tuple[int, HookedMamba], ...]:
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
    circuit = asked.circuit_of(model)
    study = prepare_study(model, [circuit], asked.prompts, asked.asked.metric)
    terms = _terms(asked.using, circuit, asked.asked, asked.extra)
    terms = with_ablations(terms, asked.asked, study, planning=True)
    problem, cost = "", None
    try:
        terms.require_attainable(study, claim.level)
        cost = cost_of_plan(terms.cost(study, claim.level, claim.seed), len(asked.models))
        if asked.mode == "mean":
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
        "across": asked.mode,
        "seeds": [seed for seed, _ in asked.models],
        "assume_normal_seeds": asked.extra["t"],
    }


def _check(asked: _Seeds, claim: RunningClaim) -> ClaimRecord:
    if asked.mode == "mean":
        _require_mean(asked, claim.level)
    begun = [_begin(asked, seed, model, claim) for seed, model in asked.models]
    study = begun[0].question.study
    settings = _settings(asked, begun[0].terms.settings(study))
    prompts = study.tested.digest
    against = [seed for (seed, _), one in zip(asked.models, begun, strict=True) if one.contradicted]
    skip = ""
    if against and asked.mode == "all":
        names = ", ".join(map(str, against))
        skip = f"controls were not drawn: seed {names} refutes the claim already"
    answers: list[Answer] = []
    for one in begun:
        answers.append(finish(one, claim, skip_controls=skip))
        claim.progress(len(answers), len(begun), f"seeds, last: {one.label}")
    combine = _all if asked.mode == "all" else _mean
    verdict, binding, reason, settle, evidence, notes = combine(asked, answers, claim)
    return ClaimRecord(
        id=claim.id,
        statement=claim.statement or "the claim holds in every seed",
        kind="stability",
        verdict=verdict,
        binding=binding,
        reason=reason,
        settle=settle,
        level=claim.level,
        seed=claim.seed,
        prompts=prompts,
        settings=settings,
        evidence=evidence,
        notes=notes,
    )


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


def _begin(asked: _Seeds, seed: int, model: HookedMamba, claim: RunningClaim) -> Begun:
    """Measure the effect in one seed; what cannot be tested there is told with the seed's name."""
    try:
        circuit = asked.circuit_of(model)
        study = prepare_study(model, [circuit], asked.prompts, asked.asked.metric)
        terms = _terms(asked.using, circuit, asked.asked, asked.extra)
        terms = with_ablations(terms, asked.asked, study)
        terms = replace(
            terms, refutation=REFUTATION / len(asked.models), judged=asked.mode == "all"
        )
        return begin(study, terms, claim, label=f"seed {seed}")
    except MechtestError as error:
        error.what = f"seed {seed}: {error.what}"
        raise


Combined = tuple[Verdict, str, str, str, tuple[Evidence, ...], tuple[str, ...]]


def _all(asked: _Seeds, answers: list[Answer], claim: RunningClaim) -> Combined:
    del claim
    verdicts = [found.decision.verdict for found in answers]
    seeds = all_seeds([verdict is Verdict.SUPPORTED for verdict in verdicts])
    note = (
        f"supported in {seeds.supported} of {seeds.seeds} seeds: with {seeds.confidence:.0%} "
        f"confidence it would be in more than {seeds.share_low:.0%} of seeds trained alike"
    )
    worst = min(verdicts, key=_ORDER.index)
    at = [k for k, verdict in enumerate(verdicts) if verdict is worst]
    first = answers[at[0]]
    names = ", ".join(str(asked.models[k][0]) for k in at)
    if worst is Verdict.SUPPORTED:
        reason = f"supported in every seed: {note}"
        binding = "seeds"
    else:
        reason = f"{worst} in seed {names}: {first.decision.reason}"
        binding = f"seed {asked.models[at[0]][0]} {first.decision.binding}"
    evidence = tuple(found.evidence for found in answers)
    return worst, binding, reason, first.settle, evidence, (note,)


def _mean(asked: _Seeds, answers: list[Answer], claim: RunningClaim) -> Combined:
    threshold = answers[0].evidence.threshold
    assert threshold is not None, "asked for before anything was run"
    found = mean_over_seeds(
        [item.evidence.effect.estimate for item in answers],
        threshold,
        generator=keyed_generator(claim.seed, claim.key, "seeds"),
    )
    normal = bool(asked.extra["t"])
    p = found.p_t if normal and found.p_t is not None else found.p_sign_flip
    how = f"t over seeds, {found.note}" if normal else "sign flips of seeds"
    spread = f"mean over {found.seeds} seeds {found.estimate:.3g} (sd {found.deviation:.2g})"
    settled = reaches(p, claim.level)
    guard = Guard(
        "mean over seeds", passed=True if settled else None, detail=f"{spread}, {how}", p=p
    )
    evidence = tuple(
        replace(item.evidence, guards=(*item.evidence.guards, guard)) for item in answers
    )
    notes = (f"{spread}; {how}; conditional on the prompts, which all seeds share",)
    high = found.interval.high
    if high is not None and high < threshold:
        reason = f"the {spread} is below {threshold:g}: its 95% interval ends at {high:.3g}"
        return Verdict.REFUTED, "mean over seeds", reason, "", evidence, notes
    verdicts = [item.decision.verdict for item in answers]
    worst = min(verdicts, key=_ORDER.index)
    if worst is not Verdict.SUPPORTED:  # a guard or the controls of some seed
        at = verdicts.index(worst)
        decision, seed = answers[at].decision, asked.models[at][0]
        binding, reason = f"seed {seed} {decision.binding}", f"seed {seed}: {decision.reason}"
        return worst, binding, reason, answers[at].settle, evidence, notes
    if not settled:
        reason = f"the {spread} is not shown to be above {threshold:g}: p {p:.3g}"
        settle = "more training seeds: sign flips of k seeds reach 2**-k"
        return Verdict.INCONCLUSIVE, "mean over seeds", reason, settle, evidence, notes
    reason = f"the {spread} is above {threshold:g}: p {p:.3g}"
    return Verdict.SUPPORTED, "mean over seeds", reason, "", evidence, notes
