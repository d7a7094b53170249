"""Would another way of ablating have said the same?

The first ablation named decides. The others are measured on the same prompts, without controls,
and only reported: an effect that changes sides with the ablation is a fact about the ablation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mechtest.assertions._decide import claimed_side
from mechtest.assertions.question import Question
from mechtest.assertions.rounding import with_interval
from mechtest.assertions.study import Study
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid, NothingChangedError, closest_names
from mechtest.interventions import (
    Circuit,
    Intervention,
    MeanAblation,
    OptimalAblation,
    ResampleAblation,
    ZeroAblation,
    fit_means,
    fit_optimal,
)
from mechtest.interventions.complement import universe_of
from mechtest.records import Evidence, OtherAblation
from mechtest.stats import Interval, effect_interval

if TYPE_CHECKING:
    from mechtest.assertions.asking import Asked

__all__ = ["NAMES", "other_ablations", "sensitivity", "with_ablations"]

NAMES = ("resample", "mean", "zero", "optimal")
"""Ablations that go by name; any other is given as an object."""


def with_ablations(terms: Terms, asked: Asked, study: Study, *, planning: bool = False) -> Terms:
    """Return terms whose ablation is the first one asked for, the others to be reported.

    Args:
        terms: A claim, with the ablation of `intervention=`.
        asked: Its options.
        study: Means are fitted on its discovery half.
        planning: Fit nothing: a plan makes no forward pass.

    Raises:
        ClaimInvalid: No ablation, an unknown or repeated one, one beside `intervention=`, or a
            claim that ablates nothing.
    """
    if asked.ablations is None:
        return terms
    wanted = asked.ablations
    if isinstance(wanted, str | Intervention) or not wanted:
        raise ClaimInvalid(
            "ablations= takes several, the first of which decides",
            given=f"ablations={wanted!r}",
            expected=f"for example ablations={NAMES!r}",
        )
    if asked.intervention != ResampleAblation():
        raise ClaimInvalid(
            "the deciding ablation is given twice",
            given=f"intervention={asked.intervention.name!r} and ablations=",
            expected="one of them; the first of `ablations` decides",
        )
    if terms.mode == "restore" or terms.threshold is None:
        raise ClaimInvalid(
            "several ablations are for claims that ablate, and hold the effect against a threshold",
            given=f"{terms.kind}, mode {terms.mode!r}",
            expected="assert_necessary, assert_not_necessary, or assert_sufficient with "
            "mode='keep'",
        )
    found = [
        _ablation(one, terms, study, planning=planning, decides=not index)
        for index, one in enumerate(wanted)
    ]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ClaimInvalid("an ablation is named twice", given=", ".join(names))
    return replace(terms, intervention=found[0], others=tuple(found[1:]))


def _ablation(
    wanted: str | Intervention, terms: Terms, study: Study, *, planning: bool, decides: bool
) -> Intervention:
    if isinstance(wanted, Intervention):
        return wanted
    if wanted == "resample":
        return ResampleAblation()
    if wanted == "zero":
        return ZeroAblation()
    if wanted == "mean":
        return _mean(terms, study, planning=planning)
    if wanted == "optimal":
        return _optimal(terms, study, planning=planning, decides=decides)
    raise ClaimInvalid(
        f"no ablation goes by the name {wanted!r}",
        given=f"ablations={wanted!r}",
        closest=closest_names(str(wanted), NAMES),
        expected=f"{', '.join(NAMES)}, or an intervention object",
    )


def _mean(terms: Terms, study: Study, *, planning: bool) -> MeanAblation:
    """Return the mean over the discovery half, at every site that may be ablated."""
    sites = [str(site) for site in terms.circuit.sites]
    if terms.mode == "keep":
        everything = universe_of(terms.circuit, study.model)
        sites = [str(site) for one in everything for site in one.sites]
    elif terms.controls is not None and terms.circuit.subspace is None:
        layers = range(study.model.cfg.n_layer)  # controls are channels of any layer
        kinds = [site for site in terms.circuit.sites if site.layer is not None]
        sites += [str(replace(site, layer=layer)) for site in kinds for layer in layers]
    if planning:
        return MeanAblation({})
    return fit_means(study.discovery, Circuit(*sites))


def _optimal(terms: Terms, study: Study, *, planning: bool, decides: bool) -> OptimalAblation:
    """Return the best constants for the claimed circuit, fitted on the discovery half.

    Raises:
        ClaimInvalid: Constants would be needed for more than the circuit: for all else that is
            ablated, or for every control.
    """
    ranked = decides and terms.controls is not None
    if terms.mode == "keep" or ranked:
        raise ClaimInvalid(
            "optimal ablation has constants for one circuit, and this claim ablates others too",
            given="the deciding ablation of a claim with controls" if ranked else "mode 'keep'",
            expected="'optimal' after another ablation that decides, or assert_not_necessary",
            next_step="for example ablations=('resample', 'optimal')",
        )
    if planning:
        return OptimalAblation({})
    return fit_optimal(study.discovery, terms.circuit)


def other_ablations(
    question: Question,
    terms: Terms,
    claimed: Sequence[Circuit],
    primary: float,
    confidence: float,
    *,
    seed: int,
    claim: str,
) -> tuple[OtherAblation, ...]:
    """Measure the ablations that do not decide.

    Args:
        question: How the effect is measured; its intervention is replaced.
        terms: The claim.
        claimed: What is ablated at once.
        primary: Effect of the deciding ablation, a share of the behaviour.
        confidence: Of the intervals.
        seed: Root seed.
        claim: What random draws are keyed by.

    Raises:
        NonFiniteError: NaN or infinity; names the prompts.
    """
    found = []
    for other in terms.others:
        asked = Question(question.study, terms.mode, other, question.circuit)
        try:
            measured = asked.measure(claimed).effect(question.study)
        except NothingChangedError as error:
            found.append(OtherAblation(other.name, None, None, f"{other.name}: {error.what}"))
            continue
        if measured.estimate is None:
            why = f"{other.name}: no behaviour is left to take a share of"
            found.append(OtherAblation(other.name, None, None, why))
            continue
        interval = effect_interval(measured, confidence, seed=seed, claim=claim)
        found.append(_compared(other.name, measured.estimate, interval, terms, primary))
    return tuple(found)


def _compared(
    name: str, estimate: float, interval: Interval, terms: Terms, primary: float
) -> OtherAblation:
    """Say on which side of the threshold another ablation lands."""
    low, high = interval.low, interval.high
    effect = with_interval(estimate, interval)
    expected = _claimed(primary, terms)
    span = "" if low is None or high is None else f" [{low:.3g}, {high:.3g}]"
    text = f"{name} ablation: effect {estimate:.3g}{span}"
    against = f"of {terms.threshold:g} that {terms.intervention.name} ablation is on"
    if _claimed(estimate, terms) != expected:
        return OtherAblation(
            name, effect, agrees=False, detail=f"{text}, not on the side {against}"
        )
    ends = [end for end in (low, high) if end is not None]
    if len(ends) == 2 and all(_claimed(end, terms) == expected for end in ends):
        return OtherAblation(name, effect, agrees=True, detail=f"{text}, on the side {against}")
    return OtherAblation(
        name, effect, agrees=None, detail=f"{text}, not surely on the side {against}"
    )


def _claimed(value: float, terms: Terms) -> bool:
    assert terms.threshold is not None, "asked for before"
    low = -terms.threshold if terms.two_sided else None
    return claimed_side(value, terms.threshold, terms.direction, low)


def sensitivity(evidence: Evidence) -> str:
    """Return the sentence about ablations that disagree; empty where none does."""
    against = [one for one in evidence.ablations if one.agrees is False]
    if not against:
        return ""
    return "assumption-sensitive: " + "; ".join(one.detail for one in against)
