"""How is a claim checked that is made of whole claims, on several prompt sets, all of which hold?

Every member is a claim of its own at the full level (intersection-union). One that refutes refutes
the whole, so the rate of false "refuted" is shared by the members beforehand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mechtest.assertions._decide import decide_all
from mechtest.assertions.asking import cost_of_plan, plan_record
from mechtest.assertions.conduct import Answer, Begun, begin, finish
from mechtest.assertions.outcome import checked
from mechtest.assertions.question import Question
from mechtest.assertions.study import Study
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid, MechtestError
from mechtest.interventions import Circuit, Cost
from mechtest.records import ClaimRecord, Guard
from mechtest.running_claim import RunningClaim

__all__ = ["Compound", "Member", "Members", "ask_all", "named_prompts"]

Further = Callable[[Sequence[Begun], RunningClaim], Sequence[tuple[Guard, ...]]]
Notes = Callable[[RunningClaim], Sequence[str]]
Attainable = Callable[[float], None]


@dataclass(frozen=True, eq=False)
class Member:
    """One of the claims a claim is made of.

    Attributes:
        name: In reports; random draws are keyed by it too.
        study: Model, prompts, metric.
        terms: What is claimed.
        further: Circuits that are measured beside the claimed one, for guards.
    """

    name: str
    study: Study
    terms: Terms
    further: tuple[Circuit, ...] = ()


Members = Sequence[Member]


def _no_guards(begun: Sequence[Begun], claim: RunningClaim) -> Sequence[tuple[Guard, ...]]:
    del claim
    return [()] * len(begun)


def _no_notes(claim: RunningClaim) -> Sequence[str]:
    del claim
    return ()


def _anything(level: float) -> None:
    del level


@dataclass(frozen=True, eq=False)
class Compound:
    """What a claim is made of.

    Attributes:
        members: All have to hold.
        settings: What the lock registers.
        further: Returns further guards of each member, once all effects are measured.
        notes: Sentences that belong beside the numbers.
        attainable: Raises when the members together cannot reach a level.
    """

    members: Members
    settings: Mapping[str, Any]
    further: Further = _no_guards
    notes: Notes = _no_notes
    attainable: Attainable = _anything


def ask_all(
    kind: str, build: Callable[[], Compound], *, level: float | None, statement: str
) -> ClaimRecord:
    """Check a claim made of claims; every way in which it cannot be tested makes it invalid.

    Args:
        kind: Kind of claim.
        build: Brings together what it is made of; nothing has been run by then.
        level: As `Options.level`.
        statement: Instead of the running claim's sentence.
    """

    def check(claim: RunningClaim) -> ClaimRecord:
        whole = build()
        if claim.planning:
            return _planned(kind, whole, claim)
        whole.attainable(claim.level)
        notes = [*_duplicates(whole.members), *whole.notes(claim)]
        answers = _answers(whole, claim)
        at, decision = decide_all(
            [(one.name, found.decision) for one, found in zip(whole.members, answers, strict=True)]
        )
        return ClaimRecord(
            id=claim.id,
            statement=claim.statement or statement,
            kind=kind,
            verdict=decision.verdict,
            binding=decision.binding,
            reason=decision.reason,
            settle=answers[at].settle,
            level=claim.level,
            seed=claim.seed,
            prompts=whole.members[0].study.tested.digest,
            settings=whole.settings,
            evidence=tuple(found.evidence for found in answers),
            notes=tuple(notes),
        )

    return checked(kind, check, level=level, statement=statement)


def _answers(whole: Compound, claim: RunningClaim) -> list[Answer]:
    """Measure all effects, then rank those among controls that can still matter."""
    begun = [_begin(one, claim) for one in whole.members]
    extra = whole.further(begun, claim)
    begun = [
        replace(one, guards=(*one.guards, *guards))
        for one, guards in zip(begun, extra, strict=True)
    ]
    against = [one.label for one in begun if one.contradicted]
    skip = ""
    if against:
        skip = f"controls were not drawn: {', '.join(against)} refutes the claim already"
    answers = []
    for one in begun:
        answers.append(finish(one, claim, skip_controls=skip))
        claim.progress(len(answers), len(begun), f"parts, last: {one.label}")
    return answers


def _begin(member: Member, claim: RunningClaim) -> Begun:
    try:
        return begin(member.study, member.terms, claim, label=member.name)
    except MechtestError as error:
        error.what = f"{member.name}: {error.what}"
        raise


def _duplicates(members: Members) -> list[str]:
    return [
        f"{one.name}: {one.study.duplicates} repeated prompts were left out"
        for one in members
        if one.study.duplicates
    ]


def _planned(kind: str, whole: Compound, claim: RunningClaim) -> ClaimRecord:
    """Note what checking would take, all members together."""
    problems, total = [], Cost()
    for one in whole.members:
        try:
            one.terms.require_attainable(one.study, claim.level)
            total += one.terms.cost(one.study, claim.level, claim.seed)
            question = Question(
                one.study, one.terms.mode, one.terms.intervention, one.terms.circuit
            )
            for circuit in one.further:
                total += question.cost([[circuit]])
        except MechtestError as error:
            problems.append(f"{one.name}: {error.what} ({error.given}; expected {error.expected})")
    try:
        whole.attainable(claim.level)
    except MechtestError as error:
        problems.append(f"{error.what} ({error.given}; expected {error.expected})")
    plans = [one.terms.plan(one.study, claim.level) for one in whole.members]
    settings = dict(whole.settings)
    claim.plans.append(
        {
            "settings": settings,
            "clusters": min(plan["clusters"] for plan in plans),
            "needed_clusters": max(plan["needed_clusters"] for plan in plans),
            **{
                name: sum(plan[name] for plan in plans)
                for name in ("controls", "needed_controls", "prompts", "forward_passes")
            },
            "seeds": 1,
            "cost": None if problems else cost_of_plan(total),
            "attainable": not problems,
            "problem": "; ".join(problems),
        }
    )
    return plan_record(kind, claim, whole.members[0].study.tested.digest, settings)


def named_prompts(prompts: object, name: str) -> dict[str, Any]:
    """Return prompt sets by name, a single one under `name`.

    Raises:
        ClaimInvalid: No prompt set.
    """
    if not isinstance(prompts, Mapping):
        return {name: prompts}
    if not prompts:
        raise ClaimInvalid(
            f"there are no {name} prompts", given="an empty mapping", expected="name -> prompts"
        )
    return {str(key): value for key, value in prompts.items()}
