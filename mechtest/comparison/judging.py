"""Does one measurement of a claim still say what it said?

Where effects are known prompt by prompt, what was kept of them is tested. Everything else, and the
rank among controls, was tested again at the second checkpoint: there the verdicts are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mechtest.comparison.evidence import (
    Item,
    Shared,
    is_absence,
    is_paired,
    name_of,
    shared_prompts,
)
from mechtest.comparison.fields import differences_of_evidence

if TYPE_CHECKING:
    from mechtest.comparison.compare import Rules
    from mechtest.stats import NonInferiority

__all__ = ["Part", "judge_part", "kept_share", "share_text"]

BY_EFFECT = "paired effects"
BY_ABSENCE = "effect against its threshold"
BY_VERDICT = "verdicts"


@dataclass(frozen=True)
class Part:
    """What became of one measurement.

    Attributes:
        before: The measurement in the first report.
        after: In the second; None where it is missing.
        verdict: `held`, `drifted`, `regressed`, `inconclusive`, `incomplete`, `incomparable`.
        by: What decided: paired effects, the effect against its threshold, or verdicts.
        reason: One sentence.
        kept: The test of what was kept; None where there is none.
        behaviour: Share of the behaviour itself that was kept, where the effect regressed.
        shared: Prompts both have; None where prompts play no part.
        fields: Fields that make the two incomparable.
    """

    before: Item
    after: Item | None
    verdict: str
    by: str
    reason: str
    kept: NonInferiority | None = None
    behaviour: float | None = None
    shared: Shared | None = None
    fields: tuple[Any, ...] = ()


def judge_part(before: Item, after: Item | None, level: float, rules: Rules) -> Part:
    """Return what became of a measurement that supported its claim.

    Args:
        before: Of the first report.
        after: Of the second; None where its claim did not come so far.
        level: Registered level of the claim.
        rules: Margin, sides, overlap.
    """
    if after is None:
        reason = f"{name_of(before)} was not measured again"
        return Part(before, None, "incomplete", BY_VERDICT, reason)
    shared = shared_prompts(before, after)
    fields = differences_of_evidence(before, after, shared, rules.overlap)
    if fields:
        reason = "; ".join(map(str, fields))
        return Part(before, after, "incomparable", BY_VERDICT, reason, fields=tuple(fields))
    if is_paired(before) and is_paired(after):
        return _by_effect(before, after, shared, level, rules)
    if is_absence(before) and is_absence(after):
        return _by_absence(before, after, shared, level)
    return _by_verdict(before, after)


def kept_share(
    before: Item, after: Item, shared: Shared, level: float, rules: Rules, what: str = "effects"
) -> NonInferiority | None:
    """Return the test of what `after` has of the effect `before`; None on one template only.

    Args:
        before: The effect of which something was kept.
        after: The effect that may be it.
        shared: Their prompts.
        level: Level of the claim.
        rules: Margin and sides.
        what: `effects`, or `behaviours` for the behaviour itself.
    """
    from mechtest.stats import noninferiority_test

    if len(set(shared.templates)) < 2:
        return None
    return noninferiority_test(
        shared.of_first(before[what]),
        shared.of_second(after[what]),
        shared.templates,
        level,
        margin=rules.margin,
        two_sided=rules.two_sided,
    )


def _by_effect(before: Item, after: Item, shared: Shared, level: float, rules: Rules) -> Part:
    kept = kept_share(before, after, shared, level, rules)
    if kept is None:
        reason = f"the shared prompts of {name_of(before)} are of one template"
        return Part(before, after, "inconclusive", BY_EFFECT, reason, shared=shared)
    verdict, reason = _verdict_of_effect(after, kept, level, rules)
    behaviour = _mean_share(before, after, shared) if verdict == "regressed" else None
    if behaviour is not None:
        reason += f"; of the behaviour itself, {behaviour:.2f} was kept"
    if shared.overlap < 1:
        reason += f"; on the {len(shared.before)} prompts that both share ({shared.overlap:.0%})"
    return Part(before, after, verdict, BY_EFFECT, reason, kept, behaviour, shared)


def _verdict_of_effect(
    after: Item, kept: NonInferiority, level: float, rules: Rules
) -> tuple[str, str]:
    said = share_text(kept)
    if kept.regressed:
        bound = f"above {1 + rules.margin:g}" if kept.grew else f"below {1 - rules.margin:g}"
        return "regressed", f"{said}, {bound}"
    if after["verdict"] == "refuted":
        return "regressed", f"{said}, but now the claim's own test refutes it"
    if not kept.held:
        return "inconclusive", f"{said}: not shown to be above {1 - rules.margin:g}"
    if after["verdict"] != "supported":
        missing = _unsettled(after, level)
        if missing:
            return "inconclusive", f"{said}, but {missing}"
        said += " (by itself it does not reach its threshold again)"
    return ("drifted" if kept.drifted else "held"), said


def share_text(kept: NonInferiority) -> str:
    """Return how much was kept, in words with numbers."""
    low, high = kept.wide.low, kept.wide.high
    span = "" if low is None or high is None else f" [{low:.2f}, {high:.2f}]"
    share = "an undefined share" if kept.kept is None else f"{kept.kept:.2f}{span}"
    return f"{share} of the effect was kept, p {kept.p:.2g}"


def _unsettled(item: Item, level: float) -> str:
    """Return what beside the effect is not shown at the second checkpoint; empty where all is."""
    from mechtest.stats import reaches

    for guard in item["guards"]:
        settled = guard["passed"] is True and (guard["p"] is None or reaches(guard["p"], level))
        if not settled:
            return f"its guard {guard['name']!r} is not settled now"
    controls = item["controls"]
    if controls is not None and not reaches(controls["p"], level):
        return f"its rank among controls is not shown now (p {controls['p']:.2g})"
    return ""


def _mean_share(before: Item, after: Item, shared: Shared) -> float | None:
    """Return the share of the behaviour that was kept, over templates."""
    from mechtest.stats import cluster_effect

    if not before["behaviours"] or not after["behaviours"]:
        return None
    old, new = shared.of_first(before["behaviours"]), shared.of_second(after["behaviours"])
    return cluster_effect(new, old, shared.templates).estimate


def _by_absence(before: Item, after: Item, shared: Shared, level: float) -> Part:
    """Hold the second effect against the claim's threshold, on the shared prompts.

    What was nearly nothing has no share that could be kept. An absence holds as long as the effect
    stays below its threshold of the behaviour of the day.
    """
    from mechtest.stats import still_absent_test

    if len(set(shared.templates)) < 2:
        reason = f"the shared prompts of {name_of(before)} are of one template"
        return Part(before, after, "inconclusive", BY_ABSENCE, reason, shared=shared)
    tested = still_absent_test(
        shared.of_second(after["effects"]),
        shared.of_second(after["behaviours"]),
        shared.templates,
        float(after["threshold"]),
        level,
    )
    share = "undefined" if tested.effect is None else f"{tested.effect:.2g}"
    reason = f"the effect is {share} (threshold {tested.threshold:g}, p {tested.p:.2g})"
    if tested.effect is None:
        verdict, reason = "incomplete", f"{reason}: no behaviour to take a share of"
    elif tested.regressed or after["verdict"] == "refuted":
        verdict, reason = "regressed", f"{reason}: no longer absent"
    elif not tested.held or after["verdict"] != "supported":
        verdict, reason = "inconclusive", f"{reason}: not shown to be absent"
    else:
        verdict, reason = "held", f"{reason}: still absent"
    return Part(before, after, verdict, BY_ABSENCE, reason, shared=shared)


def _by_verdict(before: Item, after: Item) -> Part:
    old, new = before["verdict"], after["verdict"]
    verdict = {
        old: "held",
        "invalid": "incomplete",
        "inconclusive": "inconclusive",
    }.get(new, "regressed")
    return Part(before, after, verdict, BY_VERDICT, f"{old} before, {new} now (verdicts compared)")
