"""How often does ablating a circuit turn the answer into the corrupted prompt's?

A mean effect can be large because answers become unsure. This counts answers that really change.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

import numpy as np
from torch import Tensor

from mechtest.assertions.asking import Asked, Options, planned
from mechtest.assertions.conduct import Begun, effect_against_threshold, finish
from mechtest.assertions.guards import changed_share, require_behaviour, require_no_cut
from mechtest.assertions.outcome import checked, conclude
from mechtest.assertions.question import Measured, Question
from mechtest.assertions.study import Study, Values, prepare_study
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim
from mechtest.stats import wilson_interval
from mechtest.tasks import METRICS, PromptPairs

__all__ = ["assert_flip_rate", "check_flip_rate"]

KIND = "flip rate"


def check_flip_rate(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    *,
    at_least: float,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that ablating a circuit flips more than a share of the answers.

    A prompt flips when the untouched model answers it right, and the ablated one answers as the
    corrupted prompt asks for (its foil, strictly on top). The rate is a share of the prompts that
    the untouched model answers right, each template counting once.

    Null hypothesis: the rate over templates is at most `at_least`.
    Exchange unit: the sign of a template's score, flipped - at_least * answered (shares of its
        prompts). Prompts of one template are not independent: a Wilson interval over prompts is in
        the notes, and decides nothing.
    Exactness: as `mechtest.stats.effect_test`. No controls are asked for: any large enough circuit
        flips answers, so claim `assert_necessary` beside it.

    Args:
        model: The model.
        circuit: Ablated, by default with what the twin prompt says there.
        prompts: As for `check_necessary`.
        at_least: The rate to exceed, between 0 and 1.
        **options: See `Options`; those about controls have no use here.

    Sources: Canay, Romano & Shaikh 2017 (sign changes over clusters); Wilson 1927.
    """
    asked = Asked(**options)

    def check(claim: RunningClaim) -> ClaimRecord:
        terms = _terms(circuit, at_least, asked)
        study = prepare_study(model, [circuit], prompts, asked.metric)
        return planned(KIND, study, terms, claim) if claim.planning else _check(study, terms, claim)

    statement = f"ablating {circuit.name} flips more than {at_least:.3g} of the answers"
    return checked(KIND, check, level=asked.level, statement=statement)


def assert_flip_rate(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    *,
    at_least: float,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_flip_rate` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_flip_rate(model, circuit, prompts, at_least=at_least, **options)
    return conclude(record, circuit.name)


def _terms(circuit: Circuit, at_least: float, asked: Asked) -> Terms:
    if not 0 < at_least < 1:
        raise ClaimInvalid(
            "a rate of answers lies between 0 and 1",
            given=f"at_least={at_least!r}",
            expected="for example at_least=0.8",
        )
    if asked.ablations is not None:
        raise ClaimInvalid(
            "a flip rate is that of one ablation", given="ablations=", expected="intervention="
        )
    return Terms(
        kind=KIND,
        mode="ablate",
        circuit=circuit,
        intervention=asked.intervention,
        threshold=at_least,
        min_accuracy=asked.min_accuracy,
    )


def _check(study: Study, terms: Terms, claim: RunningClaim) -> ClaimRecord:
    terms.require_attainable(study, claim.level)
    seed, key, circuit = claim.seed, claim.key, terms.circuit
    question = Question(study, terms.mode, terms.intervention, circuit)
    guards = list(
        require_behaviour(question, seed=seed, claim=key, min_accuracy=terms.min_accuracy)
    )
    if circuit.subspace is None:
        guards.append(require_no_cut(question, circuit, seed=seed, claim=key))
    run = question.measure([circuit]).run
    right = _each(study, study.runner.logits("clean"), "accuracy")
    counted = Measured(right * _each(study, run.logits, "moved"), right, run)
    guards.append(changed_share(counted, absence=False))
    effect, tested = effect_against_threshold(study, terms, counted, claim.level, seed, key)
    begun = Begun(
        question, terms, claim.level, key, "", None, counted, tuple(guards), effect, tested, seed
    )
    found = finish(begun, claim)
    unit = "share of the prompts answered right"
    evidence = replace(found.evidence, effect=replace(found.evidence.effect, unit=unit))
    return ClaimRecord(
        id=claim.id,
        statement=claim.statement or f"ablating {circuit.name} flips the answers",
        kind=KIND,
        verdict=found.decision.verdict,
        binding=found.decision.binding,
        reason=found.decision.reason,
        settle=found.settle,
        level=claim.level,
        seed=seed,
        prompts=study.tested.digest,
        settings=terms.settings(study),
        evidence=(evidence,),
        notes=(_by_prompt(counted),),
    )


def _each(study: Study, logits: Tensor, name: str) -> Values:
    """Return 1 or 0 a prompt: `accuracy` or `moved`."""
    return np.asarray(METRICS[name](logits, study.pairs).detach().cpu().double().numpy())


def _by_prompt(counted: Measured) -> str:
    flipped, right = round(counted.moved_part.sum()), round(counted.behaviour.sum())
    interval = wilson_interval(flipped, right, 0.95)
    return (
        f"{flipped} of {right} prompts answered right flip (Wilson 95% interval over prompts "
        f"[{interval.low:.3g}, {interval.high:.3g}], which takes prompts of one template for "
        "independent; the verdict is over templates)"
    )
