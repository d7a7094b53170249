"""What does the body of a `@given` over perturbed prompts call?

A deterministic answer for one prompt. No p value is computed here, or anywhere in a `@given`: the
prompts that Hypothesis tries are no sample of anything.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn

from mechtest.assertions.asking import Asked
from mechtest.assertions.outcome import not_supported
from mechtest.assertions.perturbed_search import LEAST, search_evidence, search_record
from mechtest.assertions.question import Question
from mechtest.assertions.retention import Oracle
from mechtest.assertions.robust_terms import RobustTerms, require_no_level, robust_terms
from mechtest.assertions.search import Found
from mechtest.assertions.study import Study, identity_of
from mechtest.errors import MechtestError, MetricError, PromptError
from mechtest.interventions import Circuit, Intervention, ResampleAblation, digest_of
from mechtest.models import HookedMamba
from mechtest.records import ClaimRecord
from mechtest.running_claim import RunningClaim, current_claim
from mechtest.tasks import Metric, logit_difference, metric_by_name
from mechtest.tasks.perturbation import Perturbation, Renderer

__all__ = ["must_retain", "retained"]

Mode = Literal["ablate", "restore"]


def retained(
    model: HookedMamba,
    circuit: Circuit,
    perturbation: Perturbation,
    *,
    mode: Mode = "ablate",
    intervention: Intervention | None = None,
    metric: Metric | str = logit_difference,
) -> float:
    """Return the share of a circuit's effect on one prompt that is left when it is perturbed.

    Args:
        model: The model.
        circuit: What is ablated, or restored.
        perturbation: The prompt and its edits.
        mode: `ablate` or `restore`, as for `assert_robust`.
        intervention: The ablation; `ResampleAblation()` by default.
        metric: A metric, or its name.

    Raises:
        PromptError: The edits cannot be made to this prompt for this model; says why.
        MetricError: The prompt as it is has no effect that could be kept.
        ClaimInvalid: The circuit was found on this prompt, or its template.

    Sign: 1 when all of the effect is left, 0 when none is, negative when it turns round. Inside a
        claim each prompt is measured once.
    """
    terms = _terms(circuit, 0.5, mode, intervention, metric)
    return _share(_bench(model, terms, metric, current_claim()), perturbation)


def must_retain(
    model: HookedMamba,
    circuit: Circuit,
    perturbation: Perturbation,
    *,
    floor: float = 0.5,
    mode: Mode = "ablate",
    intervention: Intervention | None = None,
    metric: Metric | str = logit_difference,
) -> float:
    """Return what `retained` does, and raise where it is below a floor: the body of a `@given`.

    The claim's record holds how many distinct prompts were tried, and the smallest counter-example
    that Hypothesis found. The claim has to be marked `exact=True`: a search has no p value. A
    prompt that cannot be edited so, or has no effect to keep, is passed over.

    Args:
        model: The model.
        circuit: What is ablated, or restored.
        perturbation: What `mt.perturbations(...)` gives.
        floor: The smallest share allowed, clearly below what matters.
        mode: As for `retained`.
        intervention: Likewise.
        metric: Likewise.

    Raises:
        ClaimRefuted: Less than `floor` is left; the text has a line to paste.
        ClaimInvalid: The claim is not marked `exact=True`.

    Example:
        >>> @mt.claim("No opening breaks it", exact=True)
        ... @given(mt.perturbations(PROMPTS.test, [mt.Prefix("Last night,")]))
        ... def test_openings(mamba, asked):
        ...     mt.must_retain(mamba, CIRCUIT, asked, floor=0.5)
    """
    __tracebackhide__ = True
    terms = _terms(circuit, floor, mode, intervention, metric)
    claim = current_claim() or RunningClaim()
    require_no_level(claim)
    bench = _bench(model, terms, metric, claim)
    if claim.planning:
        bench.plan(claim)
        return 1.0
    try:
        kept = _share(bench, perturbation)
    except (PromptError, MetricError) as error:
        _pass_over(error)
    record = bench.note(perturbation, kept, floor, claim)
    if kept < floor:
        raise not_supported(record, circuit.name)
    return kept


@dataclass(eq=False)
class _Bench:
    """What is known about one circuit while a `@given` runs.

    Attributes:
        model: The model.
        terms: What is asked.
        oracle: Measures prompts.
        renderer: Renders them.
        metric: Of the effects.
        found: What was tried so far.
        record: What it comes to.
    """

    model: HookedMamba
    terms: RobustTerms
    oracle: Oracle
    renderer: Renderer
    metric: Metric
    found: Found = field(default_factory=Found)
    record: ClaimRecord | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What the lock registers; which prompts are drawn is said by the test's own text."""
        terms = self.terms
        return {
            "kind": terms.kind,
            "form": "given",
            "mode": terms.mode,
            "circuit": [str(site) for site in terms.circuit.sites],
            "intervention": terms.intervention.name,
            "metric": self.metric.name,
            "threshold": terms.threshold,
        }

    def plan(self, claim: RunningClaim) -> None:
        """Note once what would be asked."""
        if not claim.plans:
            claim.plans.append(
                {"settings": self.settings, "attainable": True, "problem": "", "seeds": 1}
            )

    def note(
        self, tried: Perturbation, kept: float, floor: float, claim: RunningClaim
    ) -> ClaimRecord:
        """Return the record with one more try; it replaces the one before in the claim.

        While a counter-example is being made small, the last one stays the smallest.
        """
        self.found.tried[tried] = kept
        if kept < floor:
            self.found.counterexample = tried
        evidence = search_evidence(
            self.terms, self.found, self.renderer, self.metric, identity_of(self.model)
        )
        record = replace(search_record(self.terms, evidence, claim), settings=self.settings)
        place = [index for index, one in enumerate(claim.records) if one is self.record]
        if place:
            claim.records[place[0]] = record
        else:
            claim.records.append(record)
        self.record = record
        return record


class _BareStudy(Study):
    """A model and a metric; its prompts come one by one."""

    def __init__(self, model: HookedMamba, metric: Metric) -> None:
        self.model, self.metric = model, metric
        self.looked_at, self.duplicates = None, 0


def _terms(
    circuit: Circuit,
    floor: float,
    mode: Mode,
    intervention: Intervention | None,
    metric: Metric | str,
) -> RobustTerms:
    asked = Asked(intervention=intervention or ResampleAblation(), metric=metric)
    return robust_terms(
        circuit,
        asked,
        form="worst_case",
        mode=mode,
        floor=floor,
        rho=0.5,
        fraction=None,
        draws=None,
        max_edits=1,
        sources=(),
    )


def _bench(
    model: HookedMamba, terms: RobustTerms, metric: Metric | str, claim: RunningClaim | None
) -> _Bench:
    """Return the bench of what is asked; kept for as long as a claim runs."""
    chosen = metric_by_name(metric) if isinstance(metric, str) else metric
    if claim is None:
        return _new_bench(model, terms, chosen)
    circuit = terms.circuit
    basis = None if circuit.subspace is None else circuit.subspace.basis
    parts = [[str(site) for site in circuit.sites], circuit.channel_key, basis, terms.mode]
    # An intervention of the user's own has no digest: the object itself then tells two apart.
    key = (id(model), digest_of(parts), chosen.name, repr(terms.intervention), terms.threshold)
    if repr(key) not in claim.searches:
        claim.searches[repr(key)] = _new_bench(model, terms, chosen)
    bench: _Bench = claim.searches[repr(key)]
    return bench


def _new_bench(model: HookedMamba, terms: RobustTerms, metric: Metric) -> _Bench:
    question = Question(_BareStudy(model, metric), terms.mode, terms.intervention, terms.circuit)
    renderer = Renderer(model.tokenizer)
    return _Bench(model, terms, Oracle(question, renderer), renderer, metric)


def _share(bench: _Bench, asked: Perturbation) -> float:
    plain = Perturbation(asked.base, ())
    before, after = (float(value) for value in bench.oracle.moved([plain, asked]))
    (there,) = bench.oracle.behaviour([plain])
    if before <= max(0.0, LEAST * float(there)):
        raise MetricError(
            f"{bench.terms.circuit.name} has no effect on {asked.base.id} that could be kept",
            given=f"it moves {before:.3g} of {float(there):.3g}",
            expected=f"at least {LEAST:.0%} of the behaviour",
        )
    return after / before


def _pass_over(error: MechtestError) -> NoReturn:
    """Let Hypothesis draw another prompt; outside of it, raise."""
    hypothesis = sys.modules.get("hypothesis")
    if hypothesis is None or not hypothesis.currently_in_test_context():
        raise error
    hypothesis.reject()
    raise AssertionError("reject() does not return") from error
