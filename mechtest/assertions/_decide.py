"""What does a claim come to? The only place with the rule.

A claim is supported when every question it asks is answered: the effect is beyond its threshold,
the component ranks among the best of its controls, and its guards hold, each at the claim's level
(an intersection-union test: no correction). It is refuted when the data speak against one of them,
at the refutation rate split over both routes. Between the two it is inconclusive.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mechtest.records import Guard, Verdict
from mechtest.stats import ControlSummary, Interval, clopper_pearson_interval, reaches

__all__ = [
    "ORDINARY",
    "REFUTATION",
    "ControlFinding",
    "Decision",
    "EffectFinding",
    "PartFinding",
    "claimed_side",
    "decide",
    "decide_all",
    "decide_every",
    "decide_search",
    "part_verdict",
]

REFUTATION = 0.05
"""Rate of false "refuted" a claim may have, shared by its two routes."""

ORDINARY = 0.05
"""A component is not special when more than this share of controls is as good."""


@dataclass(frozen=True)
class EffectFinding:
    """What is known about the effect.

    Attributes:
        estimate: The effect.
        threshold: What it is held against.
        low: For `direction` "less" with two sides, the lower threshold; None otherwise.
        direction: `greater` or `less`.
        p: p value of the claim's side.
        wide: Interval for refuting: of confidence 1 - refutation.
    """

    estimate: float
    threshold: float
    direction: str
    p: float
    wide: Interval
    low: float | None = None

    @property
    def contradicted(self) -> bool:
        """Whether the interval lies wholly on the other side."""
        low, high = self.wide.low, self.wide.high
        if self.direction == "greater":
            return high is not None and high < self.threshold
        above = low is not None and low > self.threshold
        return above or (self.low is not None and high is not None and high < self.low)


@dataclass(frozen=True)
class ControlFinding:
    """What is known about the rank among controls.

    Attributes:
        kind: Kind of control.
        summary: State of the control test.
        weak: Whether this kind cannot support a claim alone.
        refutation: Rate for refuting.
    """

    kind: str
    summary: ControlSummary
    weak: bool
    refutation: float = REFUTATION

    @property
    def exceedance_low(self) -> float:
        """Lower bound of the share of controls that are as good.

        Exact where the test stopped at a loss (inverse sampling), conservative elsewhere.
        """
        found = self.summary
        if not found.drawn or not found.at_least_as_extreme:
            return 0.0
        interval = clopper_pearson_interval(
            found.at_least_as_extreme, found.drawn, 1 - self.refutation
        )
        return interval.low or 0.0

    @property
    def ordinary(self) -> bool:
        """Whether too many controls are as good as the claim."""
        return self.summary.stop == "futile" and self.exceedance_low > ORDINARY


@dataclass(frozen=True)
class Decision:
    """What a claim came to.

    Attributes:
        verdict: Supported, refuted or inconclusive.
        binding: The part that decided: `effect`, `controls`, or a guard's name.
        reason: One sentence with the numbers that decided.
    """

    verdict: Verdict
    binding: str
    reason: str


def decide(
    level: float,
    *,
    effect: EffectFinding | None,
    controls: ControlFinding | None,
    guards: Sequence[Guard] = (),
) -> Decision:
    """Apply the rule.

    Args:
        level: Level of the claim.
        effect: None where the claim does not ask how big.
        controls: None where it does not ask how special.
        guards: Conditions with their outcomes; one that failed refutes the claim.
    """
    against = _against(effect, controls, guards)
    if against is not None:
        return against
    missing = _missing(level, effect, controls, guards)
    if missing is not None:
        return missing
    parts: list[tuple[float, str]] = []
    if effect is not None:
        parts.append((effect.p, "effect"))
    if controls is not None:
        parts.append((controls.summary.p, "controls"))
    parts += [(guard.p, guard.name) for guard in guards if guard.p is not None]
    if not parts:  # a part of a larger claim, of which only its guards are asked
        return Decision(Verdict.SUPPORTED, "guards", "every guard holds")
    p, binding = max(parts)
    return Decision(Verdict.SUPPORTED, binding, f"every part holds: p {p:.3g} <= {level:.3g}")


def _against(
    effect: EffectFinding | None, controls: ControlFinding | None, guards: Sequence[Guard]
) -> Decision | None:
    for guard in guards:
        if guard.passed is False:
            return Decision(Verdict.REFUTED, guard.name, guard.detail)
    if effect is not None and effect.contradicted:
        return Decision(Verdict.REFUTED, "effect", _effect_against(effect))
    if controls is not None and controls.ordinary:
        found = controls.summary
        reason = (
            f"{found.at_least_as_extreme} of {found.drawn} {controls.kind} controls are as good: "
            f"at least {controls.exceedance_low:.0%} of all are"
        )
        return Decision(Verdict.REFUTED, "controls", reason)
    return None


def _effect_against(effect: EffectFinding) -> str:
    confidence = f"{effect.wide.confidence:.1%} interval"
    if effect.direction == "greater":
        return (
            f"the effect {effect.estimate:.3g} is below {effect.threshold:g}: its {confidence} "
            f"ends at {effect.wide.high:.3g}"
        )
    return (
        f"the effect {effect.estimate:.3g} is not small: its {confidence} is "
        f"[{_end(effect.wide.low)}, {_end(effect.wide.high)}], the claim {_range(effect)}"
    )


def claimed_side(value: float, threshold: float, direction: str, low: float | None = None) -> bool:
    """Say whether a value lies where a claim says that the effect does.

    Args:
        value: In the unit of the threshold.
        threshold: What the effect is held against.
        direction: `greater` or `less`.
        low: For "less" with two sides, the lower threshold.
    """
    if direction == "greater":
        return value > threshold
    return value < threshold and (low is None or value > low)


def _end(value: float | None) -> str:
    return "unbounded" if value is None else f"{value:.3g}"


def _range(effect: EffectFinding) -> str:
    if effect.low is None:
        return f"below {effect.threshold:g}"
    return f"between {effect.low:g} and {effect.threshold:g}"


def _missing(
    level: float,
    effect: EffectFinding | None,
    controls: ControlFinding | None,
    guards: Sequence[Guard],
) -> Decision | None:
    if effect is not None and not reaches(effect.p, level):
        side = f"above {effect.threshold:g}" if effect.direction == "greater" else _range(effect)
        return Decision(
            Verdict.INCONCLUSIVE,
            "effect",
            f"the effect {effect.estimate:.3g} is not shown to be {side}: "
            f"p {effect.p:.3g} > {level:.3g}",
        )
    for guard in guards:
        if guard.passed is None or (guard.p is not None and not reaches(guard.p, level)):
            return Decision(Verdict.INCONCLUSIVE, guard.name, guard.detail)
    if controls is not None:
        found = controls.summary
        rank = f"{found.at_least_as_extreme} of {found.drawn} {controls.kind} controls are as good"
        if not reaches(found.p, level):
            reason = f"{rank}: p {found.p:.3g} > {level:.3g}"
            return Decision(Verdict.INCONCLUSIVE, "controls", reason)
        if controls.weak:
            reason = f"{rank}, but {controls.kind} controls are weak and support nothing alone"
            return Decision(Verdict.INCONCLUSIVE, "controls", reason)
    return None


@dataclass(frozen=True)
class PartFinding:
    """What is known about one of several parts that all have to hold.

    Attributes:
        name: Which one.
        estimate: Its effect.
        threshold: What it has to lie above.
        p: p value of the claim's side.
        against: p value of the other side, adjusted for the number of parts.
    """

    name: str
    estimate: float
    threshold: float
    p: float
    against: float


def decide_every(
    level: float,
    parts: Sequence[PartFinding],
    *,
    guards: Sequence[Guard] = (),
    refutation: float = REFUTATION,
) -> Decision:
    """Apply the rule to a claim that every one of some parts is above its threshold.

    Supported when every part is, each at the full level (intersection-union); refuted when the
    adjusted p value of the opposite reaches `refutation` for one of them.
    """
    against = _against(None, None, guards)
    if against is not None:
        return against
    lowest = min(parts, key=lambda part: part.against)
    if reaches(lowest.against, refutation):
        return Decision(
            Verdict.REFUTED,
            lowest.name,
            f"{lowest.name}: {lowest.estimate:.3g} is below {lowest.threshold:g}, "
            f"p {lowest.against:.3g} adjusted for {len(parts)} parts",
        )
    return _every_holds(level, parts, guards)


def _every_holds(level: float, parts: Sequence[PartFinding], guards: Sequence[Guard]) -> Decision:
    weakest = max(parts, key=lambda part: part.p)
    if not reaches(weakest.p, level):
        return Decision(
            Verdict.INCONCLUSIVE,
            weakest.name,
            f"{weakest.name}: {weakest.estimate:.3g} is not shown to be above "
            f"{weakest.threshold:g}, p {weakest.p:.3g} > {level:.3g}",
        )
    missing = _missing(level, None, None, guards)
    if missing is not None:
        return missing
    every = [(part.p, part.name) for part in parts]
    every += [(guard.p, guard.name) for guard in guards if guard.p is not None]
    p, binding = max(every)
    count = f"all {len(parts)} parts hold" if len(parts) > 1 else "the part holds"
    reason = f"{count}: p {p:.3g} <= {level:.3g}, weakest {binding}"
    return Decision(Verdict.SUPPORTED, binding, reason)


def part_verdict(level: float, part: PartFinding, *, refutation: float = REFUTATION) -> Verdict:
    """Return what one part comes to by itself."""
    return decide_every(level, [part], refutation=refutation).verdict


def decide_search(tries: int, smallest: float, floor: float) -> Decision:
    """Apply the rule to a claim that something holds for every prompt, after a search against it.

    One prompt below the floor refutes it. None in so many tries is said as that: there is no error
    rate, because the prompts tried were no sample.

    Args:
        tries: Distinct prompts tried.
        smallest: Smallest share of the effect that was left on any of them.
        floor: What the claim says it never falls below.
    """
    if smallest < floor:
        reason = f"a prompt keeps {smallest:.3g} of its effect, below {floor:g}"
        return Decision(Verdict.REFUTED, "counter-example", reason)
    reason = (
        f"no counter-example in {tries} distinct perturbed prompts (a search, no probability): the "
        f"smallest share kept is {smallest:.3g}, the floor {floor:g}"
    )
    return Decision(Verdict.SUPPORTED, "no counter-example", reason)


def decide_all(named: Sequence[tuple[str, Decision]]) -> tuple[int, Decision]:
    """Apply the rule to a claim that is made of whole claims, all of which have to hold.

    One that is refuted refutes it; else one that is inconclusive leaves it so. The rate of false
    "refuted" has to be shared among them beforehand.

    Returns:
        Which of them decided, and what it comes to.
    """
    order = (Verdict.INVALID, Verdict.REFUTED, Verdict.INCONCLUSIVE, Verdict.SUPPORTED)
    worst = min(range(len(named)), key=lambda k: order.index(named[k][1].verdict))
    name, decision = named[worst]
    if decision.verdict is Verdict.SUPPORTED:
        names = ", ".join(name for name, _ in named)
        return worst, Decision(Verdict.SUPPORTED, "every part", f"supported for {names}")
    reason = f"{name}: {decision.reason}"
    return worst, Decision(decision.verdict, f"{name} {decision.binding}", reason)
