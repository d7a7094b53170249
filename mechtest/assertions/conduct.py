"""How is one claim checked, from its terms to its evidence?

The order: what can never succeed is refused first, then that there is a behaviour, then that the
architecture does not force the answer; then the effect, then its rank among controls.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from mechtest.assertions._decide import ControlFinding, Decision, EffectFinding, decide
from mechtest.assertions.ablations import other_ablations
from mechtest.assertions.assumptions import assumptions_of
from mechtest.assertions.control_sets import (
    Control,
    ControlSets,
    SubspaceSets,
    choose_controls,
    control_blocks,
    control_kind,
)
from mechtest.assertions.guards import (
    changed_share,
    not_too_much,
    require_behaviour,
    require_no_cut,
    visible_part,
    whole_component,
)
from mechtest.assertions.optimism import optimism_note
from mechtest.assertions.pool import pool_key
from mechtest.assertions.question import Measured, Question
from mechtest.assertions.rounding import plain, with_interval
from mechtest.assertions.settling import what_would_settle
from mechtest.assertions.study import Study
from mechtest.assertions.terms import Terms
from mechtest.errors import NonFiniteError
from mechtest.interventions import Circuit, pool_of_run
from mechtest.records import Controls, Effect, Evidence, Guard, OtherAblation, Verdict
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    ControlTest,
    EffectTest,
    cluster_effect,
    effect_interval,
    effect_test,
    equivalence_test,
    inversion_interval,
    keyed_generator,
    reaches,
)

__all__ = ["Answer", "Begun", "answer", "begin", "effect_against_threshold", "finish"]

STILL_REFUTING = 13
"""Third losses later than this refute nothing; a claim that cannot be supported stops there."""


@dataclass(frozen=True)
class Answer:
    """What checking one claim in one model gave.

    Attributes:
        evidence: The numbers.
        decision: What they come to.
        settle: What would settle it, where it is inconclusive.
        notes: Sentences that belong beside the numbers.
    """

    evidence: Evidence
    decision: Decision
    settle: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Begun:
    """A claim whose effect has been measured, and whose controls have not.

    Attributes:
        question: How effects are measured.
        terms: The claim.
        level: Its level.
        key: What its random draws are keyed by.
        label: Which part of a larger claim this is.
        sets: Its controls; None where none are asked for.
        measured: What the claimed circuit did.
        guards: What was checked.
        effect: Against its threshold; None where the claim does not ask.
        tested: The test behind it.
        seed: Root seed of its random draws.
    """

    question: Question
    terms: Terms
    level: float
    key: str
    label: str
    sets: ControlSets | None
    measured: Measured
    guards: tuple[Guard, ...]
    effect: EffectFinding | None
    tested: EffectTest | None
    seed: int

    @property
    def claimed(self) -> list[Circuit]:
        """What is edited at once for the claim."""
        return [self.terms.circuit] if self.sets is None else list(self.sets.claimed)

    @property
    def contradicted(self) -> bool:
        """Whether the effect or a guard refutes the claim already."""
        failed = any(guard.passed is False for guard in self.guards)
        return failed or (self.effect is not None and self.effect.contradicted)


def answer(study: Study, terms: Terms, claim: RunningClaim) -> Answer:
    """Check a claim in one model.

    Args:
        study: Model, prompts, metric.
        terms: The claim.
        claim: Its level, its seed and where to tell progress.

    Raises:
        MechtestError: The claim cannot be tested as stated.
    """
    begun = begin(study, terms, claim)
    found = finish(begun, claim)
    note = optimism_note(study, terms, begun.claimed, begun.measured.effect(study))
    return replace(found, notes=(note,)) if note else found


def begin(study: Study, terms: Terms, claim: RunningClaim, *, label: str = "") -> Begun:
    """Check everything that comes before the controls.

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
    question = Question(study, terms.mode, terms.intervention, terms.circuit)
    least = terms.min_accuracy
    guards = list(require_behaviour(question, seed=seed, claim=key, min_accuracy=least))
    sets = None
    if terms.controls is not None:
        kind = control_kind(terms.circuit, terms.controls)
        sets = choose_controls(study, terms.circuit, kind, seed, level)
    claimed = list(sets.claimed) if sets is not None else [terms.circuit]
    if terms.direction == "greater" and terms.circuit.subspace is None:
        guards.append(require_no_cut(question, terms.circuit, seed=seed, claim=key))
    measured = question.measure(claimed)
    guards.append(changed_share(measured, absence=terms.direction == "less"))
    effect, tested = effect_against_threshold(study, terms, measured, level, seed, key)
    if effect is None or reaches(effect.p, level):
        guards += _illusions(question, measured, sets, terms, level, seed, key)
    if terms.equivalent is not None:
        margin, rate = terms.equivalent, terms.refutation
        guards.append(not_too_much(study, measured, margin, level, rate, seed=seed, claim=key))
    return Begun(
        question, terms, level, key, label, sets, measured, tuple(guards), effect, tested, seed
    )  # fmt: skip


def finish(begun: Begun, claim: RunningClaim, *, skip_controls: str = "") -> Answer:
    """Rank the claim among its controls, and decide.

    Args:
        begun: What was found so far.
        claim: Where to tell progress.
        skip_controls: Why controls are not drawn although the claim asks for them; it is then
            inconclusive at best.
    """
    study, terms = begun.question.study, begun.terms
    finding, controls = None, None
    if begun.sets is not None and not begun.contradicted and not skip_controls:
        finding, controls = _rank(begun, begun.sets, claim)
    decision = decide(begun.level, effect=begun.effect, controls=finding, guards=begun.guards)
    if skip_controls and decision.verdict is Verdict.SUPPORTED and begun.sets is not None:
        decision = Decision(Verdict.INCONCLUSIVE, "controls", skip_controls)
    settle = ""
    if decision.verdict is Verdict.INCONCLUSIVE:
        effect = begun.measured.effect(study)
        settle = what_would_settle(decision, effect, terms, finding, begun.level)
    return Answer(_evidence(begun, decision, controls), decision, settle)


def effect_against_threshold(
    study: Study, terms: Terms, measured: Measured, level: float, seed: int, key: str
) -> tuple[EffectFinding | None, EffectTest | None]:
    """Return the effect against its threshold, and its test; None where the claim does not ask."""
    found = measured.effect(study)
    if terms.threshold is None:
        return None, None
    low = -terms.threshold if terms.two_sided else None
    if terms.direction == "less":
        absent = equivalence_test(found, terms.threshold, level, seed=seed, claim=key, lower=low)
        tested, p = absent.upper, absent.p
    else:
        tested = effect_test(found, terms.threshold, level, seed=seed, claim=key)
        p = tested.p
    if not terms.judged:
        return None, tested
    wide = effect_interval(found, 1 - terms.refutation, seed=seed, claim=key)
    assert found.estimate is not None, "the behaviour was tested before"
    finding = EffectFinding(found.estimate, terms.threshold, terms.direction, p, wide, low)
    return finding, tested


def _illusions(
    question: Question, measured: Measured, sets: ControlSets | None, terms: Terms, level: float,
    seed: int, key: str,
) -> list[Guard]:  # fmt: skip
    """Return the guards of a claimed subspace; none for whole sites and for absences."""
    if terms.illusion is None or not isinstance(sets, SubspaceSets):
        return []
    (circuit,) = sets.claimed
    delta, scale = terms.illusion, sets.controls.spectrum.scale
    found = [whole_component(question, measured, circuit, level, delta, seed=seed, claim=key)]
    seen = visible_part(
        question, measured, circuit, level, delta, seed=seed, claim=key, scale=scale
    )
    return found + ([] if seen is None else [seen])


def _rank(begun: Begun, sets: ControlSets, claim: RunningClaim) -> tuple[ControlFinding, Controls]:
    """Draw controls one by one until the rank is decided."""
    question, terms, measured = begun.question, begun.terms, begun.measured
    study = question.study
    hopeful = begun.effect is None or reaches(begun.effect.p, begun.level)
    observed = measured.effect(study).estimate
    assert observed is not None, "the behaviour was tested before"
    test = ControlTest(observed, begun.level, losses=terms.losses, cap=terms.max_controls)
    total = np.zeros(len(measured.moved_part))
    most = test.cap if hopeful else min(test.cap, STILL_REFUTING)
    for block in control_blocks(most):  # a hopeless claim needs no more than can still refute it
        if test.stop != "running":
            break
        controls = [sets.draw(number) for number in block]
        moved_parts = _moved_parts(question, sets, controls, block)
        for control, moved in zip(controls, moved_parts, strict=True):
            if test.stop != "running":
                break
            total += moved
            effect = cluster_effect(moved, measured.behaviour, study.labels).estimate
            assert effect is not None, "the behaviour was tested before"
            test.feed(control.statistic(effect))
        lost = test.summary().at_least_as_extreme
        note = f"{sets.kind} controls, {lost} as good, stops at {terms.losses}"
        claim.progress(test.next_control, test.cap, note)
    found = test.summary()
    finding = ControlFinding(sets.kind, found, sets.weak, terms.refutation)
    return finding, Controls(
        kind=sets.kind,
        drawn=found.drawn,
        at_least_as_extreme=found.at_least_as_extreme,
        p=found.p,
        stopped="not needed" if found.stop == "running" else found.stop,
        observed=plain(observed),
        null_mean=None if found.null_mean is None else plain(found.null_mean),
        exceedance_low=plain(finding.exceedance_low),
        excess=_excess(study, measured, total / max(1, found.drawn), claim.seed, begun.key),
        weak=sets.weak,
        values=tuple(plain(value) for value in found.values),
    )


def _moved_parts(
    question: Question, sets: ControlSets, controls: Sequence[Control], numbers: range
) -> np.ndarray:
    """Return what each control of a block moves, "control prompt", measured once in a run."""
    pool, key = pool_of_run(), pool_key(question, sets.digest, numbers)
    shape = len(controls), len(question.study.pairs)
    known = None if key is None else pool.get(key, shape)
    if known is None:
        known = np.array(_measured_parts(question, controls, numbers), dtype=np.float64)
        if key is not None:
            pool.put(key, known)
    return known


def _measured_parts(
    question: Question, controls: Sequence[Control], numbers: range
) -> list[np.ndarray]:
    """Return what each control of a block moves."""
    try:
        moved = question.moved_parts([one for control in controls for one in control.sets])
    except NonFiniteError:
        for number, control in zip(numbers, controls, strict=True):
            try:
                question.moved_parts(list(control.sets))
            except NonFiniteError as error:
                error.what = f"control {number}: {error.what}"
                raise
        raise
    values = iter(moved)
    of_each = [[np.asarray(next(values)) for _ in control.sets] for control in controls]
    return [found[0] if len(found) == 1 else _largest(question, found) for found in of_each]


def _largest(question: Question, moved: Sequence[np.ndarray]) -> np.ndarray:
    """Return what moved most, over templates."""
    labels, behaviour = question.study.labels, question.behaviour()
    shares = [cluster_effect(one, behaviour, labels).estimate or 0.0 for one in moved]
    return moved[int(np.argmax(shares))]


def _method(begun: Begun) -> str:
    if begun.tested is not None:
        return begun.tested.method
    return "shown, not judged" if begun.sets is None else "rank among controls only"


def _excess(
    study: Study, measured: Measured, mean_control: np.ndarray, seed: int, key: str
) -> Effect:
    """Return the claim's effect minus its controls' mean effect, with a 95 % interval."""
    found = cluster_effect(measured.moved_part - mean_control, measured.behaviour, study.labels)
    interval = inversion_interval(found, 0.95, generator=keyed_generator(seed, key, "excess"))
    assert found.estimate is not None
    return with_interval(found.estimate, interval)


def _evidence(begun: Begun, decision: Decision, controls: Controls | None) -> Evidence:
    question, terms, measured = begun.question, begun.terms, begun.measured
    study, tested = question.study, begun.tested
    found = measured.effect(study)
    assert found.estimate is not None, "the behaviour was tested before"
    if tested is not None:
        interval = tested.interval
    else:
        generator = keyed_generator(0, "interval", "sign flips")
        interval = inversion_interval(found, 0.95, generator=generator)
    sign = 1 if terms.direction == "greater" else -1
    scores = sign * found.scores(terms.threshold or 0.0)
    moved, broken = question.shares(measured.run)
    accuracy = study.share(study.runner.logits("clean"), "accuracy")
    return Evidence(
        kind=terms.kind,
        label=begun.label,
        circuit=tuple(str(site) for site in terms.circuit.sites),
        intervention=terms.intervention.name if terms.mode != "restore" else "patch",
        metric=study.metric.name,
        effect=with_interval(found.estimate, interval),
        ablations=_others(begun, found.estimate, interval.confidence),
        verdict=decision.verdict,
        threshold=terms.threshold,
        direction=terms.direction,
        p_effect=None if begun.effect is None else plain(begun.effect.p),
        method=_method(begun),
        clusters=found.clusters,
        clusters_positive=int((scores > 0).sum()),
        worst_cluster=found.labels[int(scores.argmin())],
        prompts=found.prompts,
        accuracy=plain(accuracy),
        moved=plain(moved),
        broken=plain(broken),
        model=study.identity,
        controls=controls,
        guards=begun.guards,
        assumptions=assumptions_of(terms, study),
        prompt_ids=study.pairs.ids,
        templates=tuple(study.labels),
        prompt_digests=study.digests,
        effects=tuple(plain(value) for value in measured.moved_part),
        behaviours=tuple(plain(value) for value in measured.behaviour),
    )


def _others(begun: Begun, primary: float, confidence: float) -> tuple[OtherAblation, ...]:
    return other_ablations(
        begun.question,
        begun.terms,
        begun.claimed,
        primary,
        confidence,
        seed=begun.seed,
        claim=begun.key,
    )
