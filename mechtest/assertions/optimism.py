"""Did the search for a circuit flatter it?"""

from __future__ import annotations

from collections.abc import Sequence

from mechtest.assertions.question import Question
from mechtest.assertions.study import Study
from mechtest.assertions.terms import Terms
from mechtest.errors import MechtestError
from mechtest.interventions import Circuit
from mechtest.stats import ClusterEffect, optimism_interval

__all__ = ["optimism_note"]


class _DiscoveryStudy(Study):
    """The same model, read on the half that circuits are found on."""

    def __init__(self, study: Study) -> None:
        self.model, self.metric = study.model, study.metric
        self.tested, self.looked_at, self.duplicates = study.tested, study.looked_at, 0
        self.runner = study.discovery


def optimism_note(
    study: Study, terms: Terms, claimed: Sequence[Circuit], tested_on: ClusterEffect
) -> str:
    """Return the line that compares both halves; empty for a circuit not found on this one.

    Args:
        study: Model, prompts, metric.
        terms: The claim.
        claimed: What is edited at once.
        tested_on: Its effect on the test half.
    """
    fitted = terms.circuit.fitted_on
    if fitted is None or study.looked_at is None or not len(study.looked_at):
        return ""
    if not fitted & study.looked_at.fingerprints:
        return ""
    try:
        half = _DiscoveryStudy(study)
        measured = Question(half, terms.mode, terms.intervention, terms.circuit).measure(claimed)
        difference, interval = optimism_interval(measured.effect(half), tested_on)
    except MechtestError as error:
        return f"optimism of the search is not known: {error.what}"
    low, high = interval.low, interval.high
    span = f" [{low:+.3g}, {high:+.3g}]" if low is not None and high is not None else ""
    return (
        "optimism (effect on the discovery half, where the circuit was found, minus effect on the "
        f"test half): {difference:+.3g}{span}"
    )
