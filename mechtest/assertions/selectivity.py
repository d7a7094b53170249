"""Does this circuit serve one task and leave another alone?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Unpack

from mechtest.assertions._decide import REFUTATION
from mechtest.assertions.absence import absence_terms
from mechtest.assertions.asking import Asked, Options
from mechtest.assertions.compound import Compound, Member, ask_all, named_prompts
from mechtest.assertions.conduct import Begun
from mechtest.assertions.necessity import necessity_terms
from mechtest.assertions.outcome import conclude
from mechtest.assertions.study import Study, prepare_study
from mechtest.errors import ClaimInvalid, MechtestError
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord, Guard
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    cluster_shares,
    keyed_generator,
    reaches,
    require_two_samples,
    two_sample_test,
)
from mechtest.tasks import PromptPairs

__all__ = ["assert_specific_to", "check_specific_to"]

OffTarget = PromptPairs | Mapping[str, PromptPairs]
TASK = "task"


@dataclass(frozen=True, eq=False)
class _Selectivity:
    """What was asked: a large effect on one task, a small (or smaller) one on others."""

    model: HookedMamba
    circuit: Circuit
    prompts: PromptPairs
    others: Mapping[str, PromptPairs]
    threshold: float
    threshold_off: float
    selective: bool
    asked: Asked

    def compound(self) -> Compound:
        """Return the claims this one is made of."""
        rate = 2 * REFUTATION / (1 + len(self.others))  # each is read at half of it
        task = replace(
            necessity_terms(self.circuit, self.threshold, self.asked),
            kind="selectivity",
            controls=None,
            illusion=None,
            refutation=rate,
        )
        off = replace(
            absence_terms(self.circuit, self.threshold_off, self.asked, two_sided=False),
            kind="selectivity",
            threshold=None if self.selective else self.threshold_off,
            refutation=rate,
        )
        own = prepare_study(self.model, [self.circuit], self.prompts, self.asked.metric)
        members = [Member(TASK, own, task)]
        members += [
            Member(name, self._study(name, prompts), off) for name, prompts in self.others.items()
        ]
        settings = {
            **task.settings(own),
            "threshold_off": None if self.selective else self.threshold_off,
            "selective": self.selective,
            "off_target": {one.name: one.study.tested.digest[:16] for one in members[1:]},
        }
        if not self.selective:
            return Compound(members, settings)
        return Compound(members, settings, self._smaller, attainable=_two_samples(members))

    def _study(self, name: str, prompts: PromptPairs) -> Study:
        try:
            study = prepare_study(self.model, [self.circuit], prompts, self.asked.metric)
        except MechtestError as error:
            error.what = f"{name}: {error.what}"
            raise
        shared = study.tested.fingerprints & self.prompts.fingerprints
        if shared:
            raise ClaimInvalid(
                f"{name} prompts are the task's own",
                given=f"{len(shared.texts)} texts and {len(shared.clusters)} templates in both",
                expected="prompts of another behaviour, of other templates",
            )
        return study

    def _smaller(self, begun: Sequence[Begun], claim: RunningClaim) -> Sequence[tuple[Guard, ...]]:
        """Return, for every other task, whether the circuit moves a larger share of its own.

        Null hypothesis: templates of both tasks are exchangeable.
        Exchange unit: a template's share a / b.
        """
        own = begun[0].measured.effect(begun[0].question.study)
        rows: list[tuple[Guard, ...]] = [()]
        for other in begun[1:]:
            effect = other.measured.effect(other.question.study)
            found = two_sample_test(
                cluster_shares(own),
                cluster_shares(effect),
                generator=keyed_generator(claim.seed, other.key, "dealt out"),
            )
            detail = (
                f"templates of the task lose {found.difference:.3g} more of their behaviour on "
                f"average, p {found.p:.2g} ({found.clusters[0]} and {found.clusters[1]} templates)"
            )
            passed = True if reaches(found.p, claim.level) else None
            if reaches(found.against, other.terms.refutation / 2):
                passed = False
            rows.append((Guard("selective", passed=passed, detail=detail, p=found.p),))
        return rows


def _two_samples(members: Sequence[Member]) -> Callable[[float], None]:
    def require(level: float) -> None:
        for other in members[1:]:
            require_two_samples(members[0].study.templates, other.study.templates, level)

    return require


def check_specific_to(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    off_target: OffTarget,
    *,
    threshold: float = 0.5,
    threshold_off: float = 0.1,
    selective: bool = False,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Check that ablating a circuit destroys one behaviour and leaves another alone.

    Two parts: on `prompts` the effect is above `threshold`; on the off-target prompts it is below
    `threshold_off`, which has to be shown (finding nothing shows nothing). No controls are drawn:
    whether other components do as much is for `assert_necessary`.

    Null hypothesis: the effect on the task is at most `threshold`, or that on some off-target
        behaviour at least `threshold_off`. With `selective`: ..., or templates of the task and of
        the other are exchangeable, the circuit moving the same share of either.
    Exchange unit: the sign of a template's score; with `selective`, a template.
    Exactness: as `check_necessary` and `mechtest.stats.two_sample_test`; an intersection-union
        test, so that no correction is needed.

    Args:
        model: The model.
        circuit: Ablated on both.
        prompts: The task's, a whole collection.
        off_target: Another behaviour's, or several by name: all have to be left alone. No prompt
            or template may belong to both.
        threshold: Smallest share of interest on the task.
        threshold_off: Effects below this are called small.
        selective: Instead of the bound, show that the circuit moves a larger share of the task than
            of the other. Needs five templates of each at least.
        **options: See `Options`; those about controls have no use here.

    Returns:
        A record with one evidence a behaviour.

    Sign: as `check_necessary`, on either. An ablation that helps the off-target behaviour counts as
        small.
    Sources: Schuirmann 1987 (bounds); Pitman 1937 (two samples); Berger 1982 (both at once).
    """
    asked = Asked(**options)

    def build() -> Compound:
        others = named_prompts(off_target, "off-target")
        if TASK in others:
            raise ClaimInvalid(
                "'task' is what the record calls the task itself",
                given=f"off-target prompts named {', '.join(others)}",
                expected="other names",
            )
        return _Selectivity(
            model, circuit, prompts, others, threshold, threshold_off, selective, asked
        ).compound()

    statement = f"{circuit.name} serves one task and not another"
    return ask_all("selectivity", build, level=asked.level, statement=statement)


def assert_specific_to(
    model: HookedMamba,
    circuit: Circuit,
    prompts: PromptPairs,
    off_target: OffTarget,
    *,
    threshold: float = 0.5,
    threshold_off: float = 0.1,
    selective: bool = False,
    **options: Unpack[Options],
) -> ClaimRecord:
    """Assert what `check_specific_to` checks, and attach the record to the running test.

    Raises:
        ClaimRefuted, ClaimInconclusive, ClaimInvalid: As `assert_necessary`.
    """
    __tracebackhide__ = True
    record = check_specific_to(
        model,
        circuit,
        prompts,
        off_target,
        threshold=threshold,
        threshold_off=threshold_off,
        selective=selective,
        **options,
    )
    return conclude(record, circuit.name)
