"""Is there a perturbed prompt on which a circuit loses its effect?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mechtest.assertions._decide import decide_search
from mechtest.assertions.asking import planned
from mechtest.assertions.guards import require_behaviour, require_no_cut
from mechtest.assertions.question import Question
from mechtest.assertions.retention import Oracle
from mechtest.assertions.robust_terms import RobustTerms, require_no_level
from mechtest.assertions.rounding import plain
from mechtest.assertions.search import Found, look_for
from mechtest.assertions.study import Values, prepare_study
from mechtest.errors import ClaimInvalid
from mechtest.models import HookedMamba
from mechtest.records import (
    ClaimRecord,
    Counterexample,
    Effect,
    Evidence,
    Guard,
    ModelIdentity,
)
from mechtest.running_claim import RunningClaim
from mechtest.stats import derived_seed
from mechtest.tasks import Metric, PromptPairs
from mechtest.tasks.perturbation import Menu, Perturbation, Renderer

__all__ = ["LEAST", "UNIT", "answer_search", "search_evidence", "search_record"]

LEAST = 0.1
"""A prompt whose effect is below this share of the mean behaviour has nothing to keep."""

UNIT = "share of the unperturbed effect"


def answer_search(
    model: HookedMamba,
    prompts: PromptPairs,
    terms: RobustTerms,
    metric: Metric | str,
    claim: RunningClaim,
    examples: Sequence[Perturbation],
) -> ClaimRecord:
    """Look for a counter-example among perturbed prompts of the test half."""
    require_no_level(claim)
    study = prepare_study(model, [terms.circuit], prompts, metric)
    if claim.planning:
        return planned(terms.kind, study, terms, claim)
    terms.require_attainable(study, claim.level)
    question = Question(study, terms.mode, terms.intervention, terms.circuit)
    guards = _guards(question, terms, claim)
    rows, base = _with_effect(question)
    menu = Menu(rows, terms.sources, terms.max_edits, model.tokenizer)
    oracle = Oracle(question, menu.renderer)

    def share(asked: Sequence[Perturbation]) -> Values:
        return np.asarray(oracle.moved(asked) / np.array([base[one.base.id] for one in asked]))

    _require_known(examples, base)
    found = look_for(
        menu,
        share,
        terms.threshold or 0.0,
        tries=terms.draws,
        seed=derived_seed(claim.seed, claim.key, "counter-example"),
        examples=examples,
    )
    evidence = search_evidence(terms, found, menu.renderer, study.metric, study.identity, guards)
    notes = [
        f"the model was asked {oracle.batches} times, for {oracle.measured} perturbed prompts",
        f"{len(study.tested) - len(rows)} prompts were left out: they have no effect to keep"
        if len(rows) < len(study.tested)
        else "",
        f"edits left out: {menu.skipped}" if menu.skipped else "",
    ]
    return replace(
        search_record(terms, evidence, claim),
        prompts=study.tested.digest,
        settings=terms.settings(study),
        notes=tuple(filter(None, notes)),
    )


def _guards(question: Question, terms: RobustTerms, claim: RunningClaim) -> tuple[Guard, ...]:
    seed, key = claim.seed, claim.key
    guards = list(
        require_behaviour(question, seed=seed, claim=key, min_accuracy=terms.min_accuracy)
    )
    if terms.circuit.subspace is None:
        guards.append(require_no_cut(question, terms.circuit, seed=seed, claim=key))
    return tuple(guards)


def _with_effect(question: Question) -> tuple[PromptPairs, dict[str, float]]:
    """Return the prompts on which there is an effect to keep, and the effects by id.

    Raises:
        ClaimInvalid: There is none.
    """
    study = question.study
    found = question.measure([question.circuit])
    least = LEAST * float(found.behaviour.mean())
    base = {
        name: float(value)
        for name, value in zip(study.pairs.ids, found.moved_part, strict=True)
        if value >= least
    }
    if not base:
        raise ClaimInvalid(
            f"{question.circuit.name} has no effect that could be kept",
            given=f"every effect is below {LEAST:.0%} of the mean behaviour",
            expected="a circuit whose claim of necessity or sufficiency is supported",
        )
    return study.tested.filter(lambda pair: pair.id in base), base


def _require_known(examples: Sequence[Perturbation], base: dict[str, float]) -> None:
    for one in examples:
        if one.base.id not in base:
            raise ClaimInvalid(
                "an example is of a prompt that is not tried",
                given=repr(one),
                expected="prompts of the test half with an effect to keep",
            )


def search_evidence(
    terms: RobustTerms,
    found: Found,
    renderer: Renderer,
    metric: Metric,
    model: ModelIdentity,
    guards: tuple[Guard, ...] = (),
) -> Evidence:
    """Return what a search came to, as a record holds it.

    Args:
        terms: The claim.
        found: What was tried, and what broke it.
        renderer: That rendered what was tried.
        metric: Of the effects.
        model: Which weights.
        guards: What was checked before.
    """
    floor = terms.threshold or 0.0
    smallest = found.tried[found.worst]
    tries = len({(pair.clean, pair.corrupted) for pair in map(renderer.pair, found.tried)})
    below = {one.base.template for one, kept in found.tried.items() if kept < floor}
    seen = {one.base.template for one in found.tried}
    reason = "the smallest of those tried: nothing is estimated"
    return Evidence(
        kind=terms.kind,
        label="",
        circuit=tuple(str(site) for site in terms.circuit.sites),
        intervention=terms.intervention.name if terms.mode != "restore" else "patch",
        metric=metric.name,
        effect=Effect(plain(smallest), None, None, 1.0, UNIT, reason),
        verdict=decide_search(tries, smallest, floor).verdict,
        threshold=floor,
        direction="greater",
        p_effect=None,
        method=f"search: {tries} distinct perturbed prompts, no probability",
        clusters=len(seen),
        clusters_positive=len(seen - below),
        worst_cluster=found.worst.base.template,
        prompts=tries,
        accuracy=None,
        moved=None,
        broken=None,
        model=model,
        guards=guards,
        assumptions=("the edits tried leave the right answer as it is",),
        counterexample=None
        if found.counterexample is None
        else _counterexample(renderer, found.counterexample, smallest, floor),
    )


def _counterexample(
    renderer: Renderer, found: Perturbation, kept: float, floor: float
) -> Counterexample:
    pair = renderer.pair(found)
    return Counterexample(
        base=found.base.id,
        template=found.base.template,
        operations=tuple(map(repr, found.operations)),
        clean=pair.clean,
        corrupted=pair.corrupted,
        answer=pair.answer,
        retained=plain(kept),
        floor=floor,
        example=f"@example({found!r})",
    )


def search_record(terms: RobustTerms, evidence: Evidence, claim: RunningClaim) -> ClaimRecord:
    """Return the record of a search."""
    decision = decide_search(evidence.prompts, evidence.effect.estimate, terms.threshold or 0.0)
    found = evidence.counterexample
    reason = decision.reason
    if found is not None:
        reason = f"{reason}: {', '.join(found.operations)} on {found.base}"
    return ClaimRecord(
        id=claim.id,
        statement=claim.statement or f"{terms.circuit.name} survives every perturbed prompt",
        kind=terms.kind,
        verdict=decision.verdict,
        binding=decision.binding,
        reason=reason,
        settle="",
        level=claim.level,
        seed=claim.seed,
        prompts="",
        settings={},
        evidence=(evidence,),
    )
