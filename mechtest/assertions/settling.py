"""What would settle a claim that came out inconclusive?"""

from __future__ import annotations

from mechtest.assertions._decide import ControlFinding, Decision
from mechtest.assertions.question import Direction
from mechtest.assertions.terms import Terms
from mechtest.errors import SampleError
from mechtest.stats import ClusterEffect, most_controls, plan_clusters

__all__ = ["more_templates", "what_would_settle"]

MORE_LOSSES = 10


def what_would_settle(
    decision: Decision,
    effect: ClusterEffect,
    terms: Terms,
    controls: ControlFinding | None,
    level: float,
) -> str:
    """Return one sentence: how many templates or controls, by power analysis.

    A forecast that takes the effect seen here for the truth; it is no licence to test until it
    works on the same prompts.
    """
    if decision.binding == "effect" and terms.threshold is not None:
        return more_templates(effect, terms.threshold, level, terms.direction)
    if decision.binding == "controls" and controls is not None:
        return _controls(controls, level)
    return (
        f"the guard {decision.binding!r} needs more templates: there are {effect.clusters}; "
        "write new ones, so that the same prompts are not asked twice"
    )


def more_templates(
    effect: ClusterEffect, threshold: float, level: float, direction: Direction = "greater"
) -> str:
    """Return how many templates would show an effect of the size seen here."""
    try:
        plan = plan_clusters(effect, threshold, level, alternative=direction)
    except SampleError:
        return "templates do not differ at all: more of them change nothing"
    seen = f"if the effect is {effect.estimate:.3g}, as seen here"
    if plan.clusters is None:
        return f"{seen}, no number of templates settles it: {plan.reason}"
    if plan.clusters <= effect.clusters:
        spread = effect.heterogeneity(threshold)
        lopsided = -spread.skewness if direction == "greater" else spread.skewness
        if lopsided > 1:
            return (
                f"the templates disagree lopsidedly (skewness {spread.skewness:.1f}): look at "
                f"{spread.worst!r} in the report; a lower threshold, or 30 templates or more, "
                "would settle it"
            )
        return (
            f"{seen}, {plan.clusters} templates settle it in 8 of 10 studies: this was one of the "
            f"others; new templates beside these {effect.clusters} would tell"
        )
    return (
        f"{seen}, about {plan.clusters} templates settle it in 8 of 10 studies; "
        f"there are {effect.clusters}"
    )


def _controls(controls: ControlFinding, level: float) -> str:
    found = controls.summary
    if controls.weak:
        return "controls='block', which match the spectrum of the claimed subspace"
    share = found.at_least_as_extreme / max(1, found.drawn)
    if share < level:
        return (
            f"about {share:.2%} of the controls are as good, below the level: losses={MORE_LOSSES} "
            f"(at most {most_controls(level, losses=MORE_LOSSES)} controls) would show it"
        )
    return (
        f"about {share:.1%} of the controls are as good, not fewer than the level of {level:.2%}: "
        "more controls will not help; claim fewer, better chosen components"
    )
