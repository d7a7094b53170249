"""What do the answers of several training seeds come to together?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mechtest.assertions._decide import Decision, decide
from mechtest.assertions.conduct import Answer
from mechtest.records import Evidence, Guard, Verdict
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    ENOUGH_SEEDS,
    StableSeeds,
    all_seeds,
    between_seeds,
    keyed_generator,
    mean_over_seeds,
    reaches,
    stable_seeds,
)

__all__ = ["Combined", "SeedAnswer", "alike", "all_of_them", "on_average"]

_ORDER = (Verdict.INVALID, Verdict.REFUTED, Verdict.INCONCLUSIVE, Verdict.SUPPORTED)
SHARED = "conditional on the prompts, which all seeds share"


@dataclass(frozen=True, eq=False)
class SeedAnswer:
    """What one seed gave.

    Attributes:
        seed: Which.
        answer: Its evidence and decision.
        error: Standard error of its effect over templates; None where there is no effect.
    """

    seed: int
    answer: Answer
    error: float | None

    @property
    def verdict(self) -> Verdict:
        """What the claim came to in this seed alone."""
        return self.answer.decision.verdict

    @property
    def effect(self) -> float:
        """Its effect, a share of the behaviour."""
        return self.answer.evidence.effect.estimate


@dataclass(frozen=True)
class Combined:
    """What several seeds come to.

    Attributes:
        decision: The verdict of all.
        settle: What would settle it, where it is inconclusive.
        evidence: One a seed.
        notes: Sentences for the record.
    """

    decision: Decision
    settle: str
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...]


def all_of_them(answers: Sequence[SeedAnswer]) -> Combined:
    """Combine seeds in each of which the claim has to hold: it is as good as the worst."""
    seeds = all_seeds([one.verdict is Verdict.SUPPORTED for one in answers])
    note = (
        f"supported in {seeds.supported} of {seeds.seeds} seeds: with {seeds.confidence:.0%} "
        f"confidence it would be in more than {seeds.share_low:.0%} of seeds trained alike"
    )
    evidence = tuple(one.answer.evidence for one in answers)
    notes = (note, *_spread_between(answers))
    bad = _worst(answers)
    worst = bad[0]
    found = worst.answer.decision
    if found.verdict is Verdict.SUPPORTED:
        decision = Decision(Verdict.SUPPORTED, "seeds", f"supported in every seed: {note}")
        return Combined(decision, "", evidence, notes)
    names = ", ".join(str(one.seed) for one in bad)
    decision = Decision(
        found.verdict,
        f"seed {worst.seed} {found.binding}",
        f"{found.verdict} in seed {names}: {found.reason}",
    )
    return Combined(decision, worst.answer.settle, evidence, notes)


def on_average(answers: Sequence[SeedAnswer], claim: RunningClaim, *, normal: bool) -> Combined:
    """Combine seeds whose mean effect has to be above the threshold.

    Args:
        answers: Of at least two seeds.
        claim: Its level and seed.
        normal: Whether a t test over seeds decides, instead of sign flips.
    """
    threshold = answers[0].answer.evidence.threshold
    assert threshold is not None, "asked for before anything was run"
    found = mean_over_seeds(
        [one.effect for one in answers],
        threshold,
        generator=keyed_generator(claim.seed, claim.key, "seeds"),
    )
    p = found.p_t if normal and found.p_t is not None else found.p_sign_flip
    how = f"t over seeds, {found.note}" if normal else "sign flips of seeds"
    spread = f"mean over {found.seeds} seeds {found.estimate:.3g} (sd {found.deviation:.2g})"
    settled = reaches(p, claim.level)
    guard = Guard(
        "mean over seeds", passed=True if settled else None, detail=f"{spread}, {how}", p=p
    )
    evidence = tuple(_with_guard(one, guard) for one in answers)
    notes = (f"{spread}; {how}; {SHARED}", *_spread_between(answers))
    high = found.interval.high
    if high is not None and high < threshold:
        reason = f"the {spread} is below {threshold:g}: its 95% interval ends at {high:.3g}"
        return Combined(Decision(Verdict.REFUTED, guard.name, reason), "", evidence, notes)
    worst = _worst(answers)[0]
    if worst.verdict is not Verdict.SUPPORTED:  # a guard or the controls of some seed
        return Combined(_of_seed(worst), worst.answer.settle, evidence, notes)
    if not settled:
        reason = f"the {spread} is not shown to be above {threshold:g}: p {p:.3g}"
        settle = "more training seeds: sign flips of k seeds reach 2**-k"
        return Combined(Decision(Verdict.INCONCLUSIVE, guard.name, reason), settle, evidence, notes)
    reason = f"the {spread} is above {threshold:g}: p {p:.3g}"
    return Combined(Decision(Verdict.SUPPORTED, guard.name, reason), "", evidence, notes)


def alike(answers: Sequence[SeedAnswer], claim: RunningClaim, margin: float) -> Combined:
    """Combine seeds whose effects have to be alike: 95 % of seeds within a margin of their mean.

    Args:
        answers: Of at least two seeds; their controls, if any, were not drawn.
        claim: Its level.
        margin: In shares of the behaviour.
    """
    found = stable_seeds([one.effect for one in answers], margin, claim.level)
    settled = reaches(found.p, claim.level)
    detail = _alike(found, settled=settled)
    passed = False if found.contradicted else (True if settled else None)
    guard = Guard("spread of seeds", passed=passed, detail=detail, p=found.p)
    broken = [one for one in answers if _unfit(one)]
    if broken:
        decision, settle = _of_seed(broken[0]), broken[0].answer.settle
    else:
        decision = decide(claim.level, effect=None, controls=None, guards=[guard])
        if decision.verdict is Verdict.SUPPORTED:
            decision = replace(decision, reason=detail)
        settle = _more_seeds(found) if decision.verdict is Verdict.INCONCLUSIVE else ""
    evidence = tuple(replace(_with_guard(one, guard), verdict=decision.verdict) for one in answers)
    note = f"{detail}; assumes that effects of seeds are normally distributed; {SHARED}"
    return Combined(decision, settle, evidence, (note, *_spread_between(answers)))


def _unfit(one: SeedAnswer) -> bool:
    """Whether a guard of a seed does not hold; its rank among controls is not asked for."""
    return one.verdict is not Verdict.SUPPORTED and one.answer.decision.binding != "controls"


def _alike(found: StableSeeds, *, settled: bool) -> str:
    mean = f"{found.estimate:.3g} over {found.seeds} seeds (sd {found.deviation:.2g})"
    interval = found.prediction
    if interval.low is None or interval.high is None:
        return f"mean effect {mean}: {interval.reason}"
    shown = "shown" if settled else "not shown"
    text = (
        f"mean effect {mean}: the next seed is expected in [{interval.low:.3g}, "
        f"{interval.high:.3g}] ({interval.confidence:.3g}); 95 % of seeds are {shown} to lie "
        f"within {found.margin:g} of the mean"
    )
    if found.contradicted:
        text += f"; seeds differ by an sd of at least {found.deviation_low:.2g}"
    return text


def _more_seeds(found: StableSeeds) -> str:
    if found.needed is None:
        return (
            f"with an sd of {found.deviation:.2g} between seeds no number of them fits a margin of "
            f"{found.margin:g}: claim a wider one"
        )
    return (
        f"if seeds differ by an sd of {found.deviation:.2g}, as seen here, {found.needed} seeds "
        f"settle it; there are {found.seeds}"
    )


def _spread_between(answers: Sequence[SeedAnswer]) -> tuple[str, ...]:
    """Return the line about differences between seeds; none for few, whose figures mean nothing."""
    errors = [one.error for one in answers]
    known = [error for error in errors if error is not None and error > 0]
    if len(answers) < ENOUGH_SEEDS or len(known) < len(answers):
        return ()
    found = between_seeds([one.effect for one in answers], known)
    low, high = found.interval.low, found.interval.high
    line = (
        f"between seeds: tau {found.tau:.2g}, I2 {found.i2:.0%}, Q {found.q:.3g}; random-effects "
        f"mean {found.estimate:.3g} [{low:.3g}, {high:.3g}]; few seeds tell I2 roughly (3 of one "
        "kind give anything from 0 to 96%)"
    )
    return (line,)


def _with_guard(one: SeedAnswer, guard: Guard) -> Evidence:
    evidence = one.answer.evidence
    return replace(evidence, guards=(*evidence.guards, guard))


def _of_seed(one: SeedAnswer) -> Decision:
    found = one.answer.decision
    return Decision(
        found.verdict, f"seed {one.seed} {found.binding}", f"seed {one.seed}: {found.reason}"
    )


def _worst(answers: Sequence[SeedAnswer]) -> list[SeedAnswer]:
    """Return the seeds with the worst verdict of all."""
    worst = min((one.verdict for one in answers), key=_ORDER.index)
    return [one for one in answers if one.verdict is worst]
