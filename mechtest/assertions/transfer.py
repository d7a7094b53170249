"""Does a circuit that was found on one task do the work of another?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Unpack

from mechtest.assertions import necessity, sufficiency
from mechtest.assertions._decide import REFUTATION
from mechtest.assertions.asking import Asked, Options
from mechtest.assertions.compound import Compound, Member, ask_all, named_prompts
from mechtest.assertions.conduct import Begun
from mechtest.assertions.guards import require_behaviour
from mechtest.assertions.outcome import conclude
from mechtest.assertions.question import Question
from mechtest.assertions.study import Study, prepare_study
from mechtest.assertions.terms import Terms
from mechtest.errors import ClaimInvalid, MechtestError
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord, Guard
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    cluster_effect,
    effect_interval,
    effect_test,
    reaches,
)
from mechtest.tasks import PromptPairs

__all__ = ["assert_transfers", "check_transfers"]

Targets = PromptPairs | Mapping[str, PromptPairs]
OwnCircuits = Circuit | Mapping[str, Circuit] | None
ROUTES = 3
"""Ways in which one target can refute: its effect, its controls, and the relative part."""


def _terms(
    using: Callable[..., ClaimRecord], circuit: Circuit, threshold: float | None, mode: str,
    asked: Asked,
) -> Terms:  # fmt: skip
    """Return what is claimed on every target."""
    if using in (necessity.assert_necessary, necessity.check_necessary):
        return necessity.necessity_terms(circuit, 0.5 if threshold is None else threshold, asked)
    if using in (sufficiency.assert_sufficient, sufficiency.check_sufficient):
        return sufficiency.sufficiency_terms(
            circuit,
            0.8 if threshold is None else threshold,
            asked,
            mode,  # type: ignore[arg-type]
        )
    raise ClaimInvalid(
        "this is no assertion that can be made of another task",
        given=getattr(using, "__name__", repr(using)),
        expected="using=assert_necessary or assert_sufficient",
    )


@dataclass(frozen=True, eq=False)
class _Transfer:
    """What was asked of every target.

    Attributes:
        model: The model.
        circuit: Found, or declared, on the source.
        source: The prompts it is from.
        targets: Name -> prompts.
        own: Name -> the target's own circuit.
        terms: What is claimed on every target.
        rho: Share of what the target's own circuit does that has to be reached.
        metric: Of the call.
    """

    model: HookedMamba
    circuit: Circuit
    source: PromptPairs
    targets: Mapping[str, PromptPairs]
    own: Mapping[str, Circuit]
    terms: Terms
    rho: float
    metric: Any

    def compound(self) -> Compound:
        """Return the claims this one is made of."""
        source = prepare_study(self.model, [self.circuit], self.source, self.metric)
        routes = ROUTES if self.own else 2
        # Every route is read at half of `refutation`.
        terms = replace(
            self.terms, kind="transfer", refutation=2 * REFUTATION / (routes * len(self.targets))
        )
        members = [
            Member(name, self._study(name, prompts), terms, self._further(name))
            for name, prompts in self.targets.items()
        ]
        settings = {
            **terms.settings(source),
            "of": self.terms.kind,
            "source": source.tested.digest[:16],
            "targets": {one.name: one.study.tested.digest[:16] for one in members},
            "rho": self.rho if self.own else None,
            "own": {n: [str(site) for site in c.sites] for n, c in self.own.items()},
        }
        return Compound(
            members, settings, self._relative, lambda claim: [self._at_the_source(source, claim)]
        )

    def _further(self, name: str) -> tuple[Circuit, ...]:
        return (self.own[name],) if name in self.own else ()

    def _study(self, name: str, prompts: PromptPairs) -> Study:
        """Return a target's test half; what circuit and source have seen must not be in it."""
        try:
            study = prepare_study(
                self.model, [self.circuit, *self._further(name)], prompts, self.metric
            )
        except MechtestError as error:
            error.what = f"{name}: {error.what}"
            raise
        shared = study.tested.fingerprints & self.source.fingerprints
        if shared:
            raise ClaimInvalid(
                f"circular: {name} shares prompts with the task the circuit is from",
                given=f"{len(shared.texts)} texts and {len(shared.clusters)} templates in both",
                expected="another task: other prompts, of other templates",
                next_step="on the same task use assert_necessary or assert_sufficient",
            )
        return study

    def _at_the_source(self, source: Study, claim: RunningClaim) -> str:
        """Return what the circuit does where it is from; shown, not judged."""
        terms = self.terms
        question = Question(source, terms.mode, terms.intervention, terms.circuit)
        try:
            require_behaviour(
                question,
                seed=claim.seed,
                claim=f"{claim.key}|source",
                min_accuracy=terms.min_accuracy,
            )
        except MechtestError as error:
            error.what = f"source: {error.what}"
            raise
        effect = question.measure([self.circuit]).effect(source)
        return f"on the source prompts the effect is {effect.estimate:.3g}; shown, not judged"

    def _relative(self, begun: Sequence[Begun], claim: RunningClaim) -> Sequence[tuple[Guard, ...]]:
        return [
            (self._compared(one, self.own[one.label], claim),) if one.label in self.own else ()
            for one in begun
        ]

    def _compared(self, begun: Begun, own: Circuit, claim: RunningClaim) -> Guard:
        """Return whether the circuit does at least rho of what the target's own circuit does.

        Null hypothesis: a(C_A) <= rho * a(C_B) on the same prompts.
        Exchange unit: the sign of a template's paired score.
        """
        old, study = begun.question, begun.question.study
        question = Question(study, old.mode, old.intervention, own)
        theirs = question.measure([own])
        ratio = cluster_effect(begun.measured.moved_part, theirs.moved_part, study.labels)
        if ratio.estimate is None:
            return Guard("relative", passed=None, detail=f"{own.name} has no effect to share")
        key = f"{begun.key}|relative"
        found = effect_test(ratio, self.rho, claim.level, seed=claim.seed, claim=key)
        wide = effect_interval(ratio, 1 - begun.terms.refutation, seed=claim.seed, claim=key)
        detail = (
            f"it does {ratio.estimate:.3g} of what {own.name} does (at least {self.rho:g}), "
            f"p {found.p:.2g}"
        )
        if reaches(found.p, claim.level):
            return Guard("relative", passed=True, detail=detail, p=found.p)
        below = wide.high is not None and wide.high < self.rho
        return Guard("relative", passed=False if below else None, detail=detail, p=found.p)


def check_transfers(
    model: HookedMamba,
    circuit: Circuit,
    source_prompts: PromptPairs,
    target_prompts: Targets,
    *,
    using: Callable[..., ClaimRecord] = necessity.assert_necessary,
    threshold: float | None = None,
    sufficiency_mode: Literal["restore", "keep"] = "restore",
    own: OwnCircuits = None,
    rho: float = 0.5,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that a circuit of one task does the work of another, or of all of several others.

    Two parts for every target. Absolute: necessity or sufficiency of the circuit on the target's
    test prompts, controls included. Relative, where the target's own circuit is given: on the same
    prompts it does at least `rho` of what that one does.

    Null hypothesis: on some target the effect is at most the threshold, or the circuit is
        exchangeable with its controls, or it does at most `rho` of what the target's own does.
    Exchange unit: the sign of a template's score (paired for the relative part); a set of
        components.
    Exactness: as `check_necessary`; targets and parts are an intersection-union test ("to all of"),
        so that no correction is needed. The rate of false "refuted" is shared by all of them.

    Args:
        model: The model.
        circuit: Found on the source's discovery half, or declared for the source.
        source_prompts: The task it is from. No target may share a prompt or a template with it.
        target_prompts: A whole collection, or several by name.
        using: What is claimed on every target: `assert_necessary` or `assert_sufficient`.
        threshold: As for the assertion used; None takes its default.
        sufficiency_mode: Passed on to `assert_sufficient`.
        own: The target's own circuit, or by name; without one there is no relative part.
        rho: See above.
        **options: See `Options`.

    Returns:
        A record with one evidence a target. The effect on the source is in its notes.

    Sign: as `check_necessary` and `check_sufficient`.
    Sources: Merullo et al. 2024 (circuits reused across tasks); Berger 1982 (intersection-union).
    """
    asked = Asked(**options)

    def build() -> Compound:
        targets = named_prompts(target_prompts, "target")
        if own is None:
            owned: dict[str, Circuit] = {}
        else:
            owned = dict(own) if isinstance(own, Mapping) else dict.fromkeys(targets, own)
        strange = sorted(set(owned) - set(targets))
        if strange or not 0 < rho <= 1:
            raise ClaimInvalid(
                "own circuits belong to targets, and rho is a share of what they do",
                given=f"own circuits of {', '.join(owned) or 'none'}, rho={rho!r}",
                expected=f"some of {', '.join(targets)}, and 0 < rho <= 1",
            )
        terms = _terms(using, circuit, threshold, sufficiency_mode, asked)
        whole = _Transfer(model, circuit, source_prompts, targets, owned, terms, rho, asked.metric)
        return whole.compound()

    statement = f"{circuit.name} does the work of another task"
    return ask_all("transfer", build, level=asked.level, statement=statement)


def assert_transfers(
    model: HookedMamba,
    circuit: Circuit,
    source_prompts: PromptPairs,
    target_prompts: Targets,
    *,
    using: Callable[..., ClaimRecord] = necessity.assert_necessary,
    threshold: float | None = None,
    sufficiency_mode: Literal["restore", "keep"] = "restore",
    own: OwnCircuits = None,
    rho: float = 0.5,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_transfers` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_transfers(
        model,
        circuit,
        source_prompts,
        target_prompts,
        using=using,
        threshold=threshold,
        sufficiency_mode=sufficiency_mode,
        own=own,
        rho=rho,
        **options,
    )
    return conclude(record, circuit.name)
