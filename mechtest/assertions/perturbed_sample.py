"""How much of a circuit's effect is left over a fair sample of perturbed prompts?

The sample is drawn by a keyed generator, with replacement, and belongs to its claim: any
checkpoint, worker and order gets the same prompts. Hypothesis has no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mechtest.assertions.asking import planned
from mechtest.assertions.conduct import Begun, effect_against_threshold, finish
from mechtest.assertions.guards import changed_share, require_behaviour, require_no_cut
from mechtest.assertions.perturbed_search import UNIT
from mechtest.assertions.question import Measured, Question
from mechtest.assertions.retention import Oracle
from mechtest.assertions.robust_terms import RobustTerms
from mechtest.assertions.search import drawn
from mechtest.assertions.study import Study, Values, prepare_study
from mechtest.errors import ClaimInvalid
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord, Guard
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    behaviour_test,
    cluster_effect,
    derived_seed,
    keyed_generator,
    membership_test,
    reaches,
)
from mechtest.tasks import Metric, PromptPair, PromptPairs
from mechtest.tasks.perturbation import Menu, Operation, Perturbation, Source

__all__ = ["answer_sample", "answer_worst_kind"]

FEWEST = 0.5
"""Share of the prompts that have to allow some edit."""

REFUTING = 0.025
"""Rate of false "refuted" of either route: the mean, and the fraction of templates."""

LOOKED_AT = 200
"""Prompts of the discovery half that are tried for the worst kind of edit."""


def answer_sample(
    model: HookedMamba,
    prompts: PromptPairs,
    terms: RobustTerms,
    metric: Metric | str,
    claim: RunningClaim,
    examples: Sequence[Perturbation],
) -> ClaimRecord:
    """Test how much is kept over perturbed prompts of the test half."""
    _refuse_examples(examples)
    whole = prepare_study(model, [terms.circuit], prompts, metric)
    terms = replace(terms, tested=whole.tested.digest)
    return _tested(whole, terms, terms.sources, claim, ())


def answer_worst_kind(
    model: HookedMamba,
    prompts: PromptPairs,
    terms: RobustTerms,
    metric: Metric | str,
    claim: RunningClaim,
    examples: Sequence[Perturbation],
) -> ClaimRecord:
    """Look for the worst kind of edit on the discovery half, and test it once on the test half."""
    _refuse_examples(examples)
    whole = prepare_study(model, [terms.circuit], prompts, metric)
    terms = replace(terms, tested=whole.tested.digest)
    if claim.planning:
        return _tested(whole, terms, terms.sources, claim, ())
    kept = _kept_by_kind(whole, terms, claim)
    worst = min(kept, key=lambda kind: kept[kind])
    shown = ", ".join(f"{kind} {share:.3g}" for kind, share in kept.items())
    note = f"share kept on the discovery half, by kind of edit: {shown}; {worst} is tested here"
    only = tuple(_OfKind(source, worst) for source in terms.sources)
    return _tested(whole, terms, only, claim, (note,))


@dataclass(frozen=True)
class _OfKind:
    """The edits of one kind that a source offers."""

    source: Source
    kind: str

    def choices(self, pair: PromptPair) -> tuple[Operation, ...]:
        """Return them."""
        return tuple(one for one in self.source.choices(pair) if one.kind == self.kind)


class _DiscoveryStudy(Study):
    """The same model and metric, on the half that may be looked at."""

    def __init__(self, study: Study) -> None:
        self.model, self.metric = study.model, study.metric
        self.tested, self.looked_at, self.duplicates = study.tested, study.looked_at, 0
        self.runner = study.discovery


def _kept_by_kind(whole: Study, terms: RobustTerms, claim: RunningClaim) -> Mapping[str, float]:
    """Return the share kept by each kind of edit alone, on the discovery half."""
    half = _DiscoveryStudy(whole)
    assert whole.looked_at is not None, "a study without it has no runner"
    question = Question(half, terms.mode, terms.intervention, terms.circuit)
    menu = Menu(whole.looked_at, terms.sources, 1, whole.model.tokenizer)
    seed = derived_seed(claim.seed, claim.key, "worst kind")
    tried = drawn(menu, tries=LOOKED_AT, seed=seed)
    oracle = Oracle(question, menu.renderer, held_out=False)
    after = oracle.moved(tried)
    before = oracle.moved([Perturbation(one.base, ()) for one in tried])
    kinds = dict.fromkeys(one.operations[0].kind for one in tried)
    kept = {}
    for kind in kinds:
        rows = [index for index, one in enumerate(tried) if one.operations[0].kind == kind]
        if before[rows].sum() > 0:
            kept[kind] = float(after[rows].sum() / before[rows].sum())
    if not kept:
        raise ClaimInvalid(
            f"{terms.circuit.name} has no effect on the discovery half that could be kept",
            given=f"{len(tried)} perturbed prompts",
            expected="a circuit whose claim of necessity or sufficiency is supported",
        )
    return kept


def _tested(
    whole: Study,
    terms: RobustTerms,
    sources: Sequence[Source],
    claim: RunningClaim,
    notes: tuple[str, ...],
) -> ClaimRecord:
    """Draw, measure and test."""
    menu = Menu(whole.tested, sources, terms.max_edits, whole.model.tokenizer)
    sample = _sample(menu, terms.draws, claim)
    study = _with_edits(whole, menu, sample)
    if claim.planning:
        return planned(terms.kind, study, terms, claim)
    terms.require_attainable(study, claim.level)
    seed, key, level = claim.seed, claim.key, claim.level
    question = Question(study, terms.mode, terms.intervention, terms.circuit)
    guards = list(
        require_behaviour(question, seed=seed, claim=key, min_accuracy=terms.min_accuracy)
    )
    if terms.circuit.subspace is None:
        guards.append(require_no_cut(question, terms.circuit, seed=seed, claim=key))
    base = question.measure([terms.circuit])
    guards.append(changed_share(base, absence=False))
    _require_effect(study, terms, base, claim)
    oracle = Oracle(question, menu.renderer)
    asked = [one for draws in sample.values() for one in draws]
    moved = oracle.moved(asked).reshape(len(sample), terms.draws)
    there = oracle.behaviour(asked).reshape(len(sample), terms.draws)
    kept = Measured(moved.mean(1), base.moved_part, base.run)
    if terms.fraction is not None:
        guards.append(_fraction(study, terms, moved, base.moved_part, level))
    effect, tested = effect_against_threshold(study, terms, kept, level, seed, key)
    begun = Begun(question, terms, level, key, "", None, kept, tuple(guards), effect, tested, seed)
    found = finish(begun, claim)
    evidence = replace(found.evidence, effect=replace(found.evidence.effect, unit=UNIT))
    notes += _notes(study, whole, menu, oracle, there.mean(1), base.behaviour, terms)
    return ClaimRecord(
        id=claim.id,
        statement=claim.statement or f"{terms.circuit.name} keeps its effect when perturbed",
        kind=terms.kind,
        verdict=found.decision.verdict,
        binding=found.decision.binding,
        reason=found.decision.reason,
        settle=found.settle,
        level=level,
        seed=seed,
        prompts=study.tested.digest,
        settings=terms.settings(study),
        evidence=(evidence,),
        notes=notes,
    )


def _sample(menu: Menu, draws: int, claim: RunningClaim) -> dict[str, list[Perturbation]]:
    """Return the perturbed prompts of every prompt that allows an edit, by its id."""
    sample = {}
    for pair in menu.prompts:
        found = [
            menu.draw(pair, keyed_generator(claim.seed, claim.key, "perturbation", pair.id, draw))
            for draw in range(draws)
        ]
        kept = [one for one in found if one is not None]
        if len(kept) == draws:
            sample[pair.id] = kept
    return sample


def _with_edits(whole: Study, menu: Menu, sample: Mapping[str, object]) -> Study:
    """Return the study of the prompts that were perturbed.

    Raises:
        ClaimInvalid: They are less than half of all: a claim about the rest would be another.
    """
    count = len(whole.tested)
    if len(sample) < FEWEST * count:
        raise ClaimInvalid(
            f"{len(sample)} of {count} prompts allow one of these edits",
            given=f"left out: {menu.skipped or 'no edit was offered'}",
            expected=f"edits that at least {FEWEST:.0%} of the prompts allow",
            next_step="use words of the model's vocabulary, or mt.Prefixes.from_prompts(prompts)",
        )
    if len(sample) == count:
        return whole
    kept = whole.tested.filter(lambda pair: pair.id in sample)
    return Study(whole.model, kept, whole.looked_at, whole.metric, whole.duplicates)


def _require_effect(study: Study, terms: RobustTerms, base: Measured, claim: RunningClaim) -> None:
    """Raise where there is nothing to keep a share of."""
    effect = cluster_effect(base.moved_part, base.moved_part, study.labels)
    found = behaviour_test(effect, seed=claim.seed, claim=f"{claim.key}|effect to keep")
    if not found.present:
        raise ClaimInvalid(
            f"{terms.circuit.name} has no effect that could be kept: {found.reason}",
            given=f"{study.tested!r}, as it is",
            expected="a circuit whose claim of necessity or sufficiency is supported",
        )


def _fraction(study: Study, terms: RobustTerms, moved: Values, base: Values, level: float) -> Guard:
    """Return whether enough templates keep rho on every prompt drawn from them.

    Null hypothesis: at most `fraction` of all templates do.
    Exchange unit: the template.
    Exactness: exact binomial.
    """
    assert terms.fraction is not None
    rho = terms.threshold or 0.0
    holds = np.asarray((moved >= rho * base[:, None]).all(1))
    labels = np.array(study.labels)
    every = [bool(holds[labels == name].all()) for name in dict.fromkeys(study.labels)]
    found = membership_test(every, terms.fraction, level)
    wide = membership_test(every, terms.fraction, REFUTING).interval
    detail = (
        f"{found.members} of {found.sets} templates keep {rho:g} on every prompt drawn "
        f"(claimed: more than {terms.fraction:g} of all templates), p {found.p:.2g}"
    )
    if reaches(found.p, level):
        return Guard("fraction", passed=True, detail=detail, p=found.p)
    below = wide.high is not None and wide.high < terms.fraction
    return Guard("fraction", passed=False if below else None, detail=detail, p=found.p)


def _notes(
    study: Study,
    whole: Study,
    menu: Menu,
    oracle: Oracle,
    there: Values,
    base: Values,
    terms: RobustTerms,
) -> tuple[str, ...]:
    behaviour = cluster_effect(there, base, study.labels).estimate or 0.0
    drawn_from = f"{terms.draws} draws for each of {len(study.tested)} prompts, with replacement"
    lines = [
        f"{drawn_from}: {oracle.measured} distinct perturbed prompts",
        f"of the behaviour itself {behaviour:.3g} is kept",
    ]
    if len(study.tested) < len(whole.tested):
        lines.append(
            f"{len(whole.tested) - len(study.tested)} prompts allow no edit and were left out"
        )
    if menu.skipped:
        lines.append(f"edits left out: {menu.skipped}")
    return tuple(lines)


def _refuse_examples(examples: Sequence[Perturbation]) -> None:
    if examples:
        raise ClaimInvalid(
            "examples are tried by a search alone",
            given=f"{len(examples)} examples",
            expected='form="worst_case"',
        )
