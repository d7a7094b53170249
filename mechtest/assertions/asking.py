"""How does one assertion, called with a model, a circuit and prompts, become a record?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypedDict

from mechtest.assertions.ablations import sensitivity, with_ablations
from mechtest.assertions.candidates import Candidates, CandidateTerms, answer_best
from mechtest.assertions.comparisons import Compared, ContrastTerms, compare
from mechtest.assertions.conduct import answer
from mechtest.assertions.outcome import checked
from mechtest.assertions.study import Study, prepare_study
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid, MechtestError
from mechtest.interventions import Circuit, Cost, Intervention, ResampleAblation
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord, Evidence, Verdict
from mechtest.running_claim import RunningClaim
from mechtest.stats import LOSSES
from mechtest.tasks import Metric, PromptPairs, logit_difference

__all__ = [
    "Asked",
    "BuildTerms",
    "Options",
    "ask",
    "ask_pairs",
    "cost_of_plan",
    "plan_record",
    "planned",
]


class Options(TypedDict, total=False):
    """What every assertion takes by keyword.

    Attributes:
        intervention: The ablation; `ResampleAblation()` by default.
        metric: A metric or its name; `logit_difference` by default.
        controls: Kind of control; by default `block` for a subspace, else `components`.
        losses: Controls that may be as good before the test gives up (3).
        max_controls: Most controls to draw; by default as many as can matter.
        illusion: delta of the illusion guard of subspace claims (.2); None leaves it out.
        min_accuracy: Share of clean prompts the model has to answer right (.5).
        level: Level of the claim; by default the running claim's, from the lock.
        ablations: Instead of `intervention`, several: names (`resample`, `mean`, `zero`,
            `optimal`) or objects. The first decides; the others are measured on the same prompts
            and reported, as assumption-sensitive where they land on the other side of the
            threshold. Means and optimal constants are fitted on the discovery half. For claims of
            (non-)necessity and sufficiency by `keep`.
    """

    intervention: Intervention
    metric: Metric | str
    controls: str | None
    losses: int
    max_controls: int | None
    illusion: float | None
    min_accuracy: float
    level: float | None
    ablations: Sequence[str | Intervention] | None


@dataclass(frozen=True)
class Asked:
    """The options of one call, defaults filled in; an unknown one is a TypeError."""

    intervention: Intervention = field(default_factory=ResampleAblation)
    metric: Metric | str = logit_difference
    controls: str | None = None
    losses: int = LOSSES
    max_controls: int | None = None
    illusion: float | None = 0.2
    min_accuracy: float = 0.5
    level: float | None = None
    ablations: Sequence[str | Intervention] | None = None


BuildTerms = Callable[[Circuit], Terms]
Beside = Callable[[Study, Compared, RunningClaim], tuple[Evidence, ...]]


class Plannable(Protocol):
    """Terms of a claim, as far as planning it goes."""

    def require_attainable(self, study: Study, level: float) -> None:
        """Raise when no data could support the claim."""
        ...

    def cost(self, study: Study, level: float, seed: int) -> Cost:
        """Return what measuring it will cost."""
        ...

    def plan(self, study: Study, level: float) -> dict[str, Any]:
        """Return what checking it will take."""
        ...


def ask(
    kind: str,
    build: BuildTerms,
    model: HookedMamba,
    circuit: Circuit | Candidates,
    prompts: PromptPairs,
    asked: Asked,
) -> ClaimRecord:
    """Check one claim in one model; every way in which it cannot be tested makes it invalid."""

    def check(claim: RunningClaim) -> ClaimRecord:
        circuits = circuit.circuits if isinstance(circuit, Candidates) else (circuit,)
        if isinstance(circuit, Candidates) and asked.ablations is not None:
            raise ClaimInvalid(
                "the best of several circuits is judged under one ablation",
                given="best_of(...) and ablations=",
                expected="intervention=, or one circuit",
            )
        study = prepare_study(model, circuits, prompts, asked.metric)
        each = tuple(
            with_ablations(build(one), asked, study, planning=claim.planning) for one in circuits
        )
        terms = CandidateTerms(circuit, each) if isinstance(circuit, Candidates) else each[0]
        if claim.planning:
            return planned(kind, study, terms, claim)
        others: tuple[Evidence, ...] = ()
        if isinstance(terms, CandidateTerms):
            found, others = answer_best(study, terms, claim)
        else:
            found = answer(study, terms, claim)
        notes = [f"{study.duplicates} repeated prompts were left out"] if study.duplicates else []
        notes += found.notes
        sensitive = sensitivity(found.evidence)
        notes += [sensitive] if sensitive else []
        return ClaimRecord(
            id=claim.id,
            statement=claim.statement or f"{kind} of {circuit.name}",
            kind=kind,
            verdict=found.decision.verdict,
            binding=found.decision.binding,
            reason="; ".join(filter(None, (found.decision.reason, sensitive))),
            settle=found.settle,
            level=claim.level,
            seed=claim.seed,
            prompts=study.tested.digest,
            settings=terms.settings(study),
            evidence=(found.evidence, *others),
            notes=tuple(notes),
        )

    return checked(kind, check, level=asked.level, statement=f"{kind} of {circuit.name}")


def _nothing_beside(study: Study, found: Compared, claim: RunningClaim) -> tuple[Evidence, ...]:
    del study, found, claim
    return ()


def ask_pairs(
    kind: str,
    build: Callable[[RunningClaim], ContrastTerms],
    model: HookedMamba,
    circuits: Sequence[Circuit],
    prompts: PromptPairs,
    asked: Asked,
    *,
    beside: Beside = _nothing_beside,
) -> ClaimRecord:
    """Check one claim about pairs of interventions; as `ask` otherwise.

    Args:
        kind: Kind of claim.
        build: Returns its terms.
        model: The model.
        circuits: Everything it speaks of.
        prompts: A whole collection, or a test half.
        asked: Options of the call.
        beside: Returns measurements that are shown and decide nothing.
    """
    names = ", ".join(circuit.name for circuit in circuits)

    def check(claim: RunningClaim) -> ClaimRecord:
        study = prepare_study(model, circuits, prompts, asked.metric)
        terms = build(claim)
        if claim.planning:
            return planned(kind, study, terms, claim)
        found = compare(study, terms, claim)
        notes = [f"{study.duplicates} repeated prompts were left out"] if study.duplicates else []
        return ClaimRecord(
            id=claim.id,
            statement=claim.statement or f"{kind} of {names}",
            kind=kind,
            verdict=found.decision.verdict,
            binding=found.decision.binding,
            reason=found.decision.reason,
            settle=found.settle,
            level=claim.level,
            seed=claim.seed,
            prompts=study.tested.digest,
            settings=terms.settings(study),
            evidence=(*found.evidence, *beside(study, found, claim)),
            notes=tuple(notes),
        )

    return checked(kind, check, level=asked.level, statement=f"{kind} of {names}")


def planned(kind: str, study: Study, terms: Plannable, claim: RunningClaim) -> ClaimRecord:
    """Note what checking would take, and return a record that says nothing was checked."""
    problem, cost = "", None
    try:
        terms.require_attainable(study, claim.level)
        cost = cost_of_plan(terms.cost(study, claim.level, claim.seed))
    except MechtestError as error:
        problem = f"{error.what} ({error.given}; expected {error.expected})"
    plan = {**terms.plan(study, claim.level), "cost": cost}
    claim.plans.append({**plan, "attainable": not problem, "problem": problem})
    return plan_record(kind, claim, study.tested.digest, plan["settings"])


def cost_of_plan(cost: Cost, times: int = 1) -> dict[str, float]:
    """Return a predicted cost as a plan holds it.

    Args:
        cost: Of one model.
        times: Models, one after the other.
    """
    return {
        "gflop": round(times * cost.flops / 1e9, 3),
        "forward_tokens": round(times * cost.tokens),
        "bytes": cost.bytes,
    }


def plan_record(
    kind: str, claim: RunningClaim, prompts: str, settings: dict[str, object]
) -> ClaimRecord:
    """Return the record of a claim that was only planned."""
    return ClaimRecord(
        id=claim.id,
        statement=claim.statement,
        kind=kind,
        verdict=Verdict.INCONCLUSIVE,
        binding="planned",
        reason="only planned: nothing was run",
        settle="",
        level=claim.level,
        seed=claim.seed,
        prompts=prompts,
        settings=settings,
    )
