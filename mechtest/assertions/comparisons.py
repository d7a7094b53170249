"""Does one intervention do more than another, on the same prompts, for every pair claimed?

Claims about parts of a circuit, about an order of circuits, and about a profile over layers are all
made of such pairs. Every pair has to hold (intersection-union), and no controls are drawn: each
intervention is the other's comparison.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mechtest.assertions._decide import (
    REFUTATION,
    Decision,
    PartFinding,
    decide_every,
    part_verdict,
)
from mechtest.assertions.assumptions import assumptions_of_pairs
from mechtest.assertions.guards import BEHAVIOUR_LEVEL, require_behaviour
from mechtest.assertions.question import Mode, Question
from mechtest.assertions.rounding import plain, with_interval
from mechtest.assertions.settling import more_templates
from mechtest.assertions.study import Study, Values
from mechtest.errors import ClaimInvalid
from mechtest.interventions import Circuit, Cost, Intervention
from mechtest.records import Evidence, Guard, Verdict
from mechtest.running_claim import RunningClaim
from mechtest.stats import (
    AllParts,
    ClusterEffect,
    Part,
    all_parts_test,
    cluster_effect,
    needed_clusters,
    require_clusters,
)

__all__ = ["Compared", "Contrast", "ContrastTerms", "compare", "require_margin"]

UNCHANGED = 1e-6
"""Differences below this share of the largest behaviour may come from edits that change nothing."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """Two interventions of a claim, of which the first should do more.

    Attributes:
        name: In reports.
        more: Which edit should move more.
        less: Which should move less.
        between: What the edits differ by; it is held to change activations.
    """

    name: str
    more: int
    less: int
    between: tuple[Circuit, ...]


@dataclass(frozen=True, eq=False)
class ContrastTerms:
    """The terms of a claim about pairs of interventions; the lock registers `settings`.

    Attributes:
        kind: `minimality`, `ranking` or `profile`.
        mode: How effects are measured (`question.py`).
        circuit: In mode `keep`, what "all else" is beside.
        intervention: The ablation.
        edits: What each intervention edits at once; all are carried out in one batch.
        contrasts: Which pairs.
        margin: By which share of the behaviour the first of a pair has to do more.
        min_accuracy: Share of prompts the untouched model has to answer right.
        stated: What else the lock registers.
        assumptions: What else a reader has to grant.
    """

    kind: str
    mode: Mode
    circuit: Circuit
    intervention: Intervention
    edits: tuple[tuple[Circuit, ...], ...]
    contrasts: tuple[Contrast, ...]
    margin: float
    min_accuracy: float = 0.5
    stated: Mapping[str, Any] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()

    @property
    def found(self) -> bool:
        """Whether all of it was found on discovery prompts."""
        shown = [circuit for contrast in self.contrasts for circuit in contrast.between]
        return all(circuit.fitted_on is not None for circuit in shown)

    def settings(self, study: Study) -> dict[str, Any]:
        """Return what the lock registers, as plain JSON values."""
        return {
            "kind": self.kind,
            "mode": self.mode,
            "parts": [contrast.name for contrast in self.contrasts],
            "origin": "found on discovery prompts" if self.found else "declared",
            "intervention": self.intervention.name,
            "metric": study.metric.name,
            "threshold": self.margin,
            "min_accuracy": self.min_accuracy,
            "prompts": study.tested.digest[:16],
            **self.stated,
        }

    def require_attainable(self, study: Study, level: float) -> None:
        """Raise when no data could support the claim; nothing has been run by then.

        Raises:
            UnattainableLevelError: Too few templates for the level.
        """
        require_clusters(study.templates, min(level, BEHAVIOUR_LEVEL))

    def cost(self, study: Study, level: float, seed: int) -> Cost:
        """Return what the interventions will cost, unedited runs left out; nothing is run."""
        del level, seed
        return self.question(study).cost(self.edits)

    def plan(self, study: Study, level: float) -> dict[str, Any]:
        """Return what checking this claim will take, without running anything."""
        batches = -(-len(study.pairs) // study.runner.batch_size)
        return {
            "settings": self.settings(study),
            "clusters": study.templates,
            "needed_clusters": needed_clusters(min(level, BEHAVIOUR_LEVEL)),
            "controls": 0,
            "needed_controls": 0,
            "seeds": 1,
            "prompts": len(study.pairs),
            "forward_passes": batches * (2 + len(self.edits)),
        }

    def question(self, study: Study) -> Question:
        """Return how the effects are measured."""
        return Question(study, self.mode, self.intervention, self.circuit)


@dataclass(frozen=True, eq=False)
class Compared:
    """What comparing gave.

    Attributes:
        evidence: One measurement a pair.
        decision: What they come to.
        settle: What would settle it, where it is inconclusive.
        moved: a_i of every edit.
        behaviour: b_i.
    """

    evidence: tuple[Evidence, ...]
    decision: Decision
    settle: str
    moved: tuple[Values, ...]
    behaviour: Values


def require_margin(margin: float, name: str, *, least: float = 0.0) -> None:
    """Refuse a margin that is no number, or on the wrong side of what makes sense."""
    if not math.isfinite(margin) or margin < least:
        raise ClaimInvalid(
            f"{name} is a share of the behaviour",
            given=f"{name}={margin!r}",
            expected=f"a finite number, at least {least:g}",
        )


def compare(study: Study, terms: ContrastTerms, claim: RunningClaim) -> Compared:
    """Measure every edit in one batch, and test every pair.

    Raises:
        MechtestError: The claim cannot be tested as stated.
    """
    terms.require_attainable(study, claim.level)
    question = terms.question(study)
    guards = require_behaviour(
        question, seed=claim.seed, claim=claim.key, min_accuracy=terms.min_accuracy
    )
    moved = question.moved_parts(terms.edits)
    behaviour = question.behaviour()
    claim.progress(len(terms.edits), len(terms.edits), "interventions, in one batch")
    _require_changes(study, terms, moved, behaviour)
    effects = {
        one.name: cluster_effect(moved[one.more] - moved[one.less], behaviour, study.labels)
        for one in terms.contrasts
    }
    tested = all_parts_test(effects, terms.margin, claim.level, seed=claim.seed, claim=claim.key)
    found = [_finding(part, terms.margin) for part in tested.parts]
    decision = decide_every(claim.level, found, guards=guards)
    settle = ""
    if decision.verdict is Verdict.INCONCLUSIVE:
        settle = more_templates(effects[decision.binding], terms.margin, claim.level)
    evidence = _evidence(study, terms, tested, moved, behaviour, guards, claim.level)
    return Compared(evidence, decision, settle, tuple(moved), behaviour)


def _require_changes(
    study: Study, terms: ContrastTerms, moved: Sequence[Values], behaviour: Values
) -> None:
    """Raise where an edit, or what two differ by, changes nothing: its zero is no finding.

    Raises:
        NothingChangedError: Names the place where nothing changes.
    """
    least = UNCHANGED * float(np.abs(behaviour).max())
    for circuits, values in zip(terms.edits, moved, strict=True):
        if float(np.abs(values).max()) <= least:
            study.runner.run(circuits, terms.intervention)
    for contrast in terms.contrasts:
        if float(np.abs(moved[contrast.more] - moved[contrast.less]).max()) <= least:
            for circuit in contrast.between:
                study.runner.run(circuit, terms.intervention)


def _finding(part: Part, margin: float) -> PartFinding:
    return PartFinding(part.name, _estimate(part.test.effect), margin, part.p, part.against)


def _estimate(effect: ClusterEffect) -> float:
    assert effect.estimate is not None, "the behaviour was tested before"
    return effect.estimate


def _evidence(
    study: Study, terms: ContrastTerms, tested: AllParts, moved: Sequence[Values],
    behaviour: Values, guards: tuple[Guard, ...], level: float,
) -> tuple[Evidence, ...]:  # fmt: skip
    name = terms.intervention.name if terms.mode != "restore" else "patch"
    assumptions = (*assumptions_of_pairs(name, study, declared=not terms.found), *terms.assumptions)
    accuracy = plain(study.share(study.runner.logits("clean"), "accuracy"))
    rows = []
    for contrast, part in zip(terms.contrasts, tested.parts, strict=True):
        effect, spread = part.test.effect, part.test.heterogeneity
        difference = moved[contrast.more] - moved[contrast.less]
        rows.append(
            Evidence(
                kind=terms.kind,
                label=contrast.name,
                circuit=tuple(str(s) for circuit in contrast.between for s in circuit.sites),
                intervention=name,
                metric=study.metric.name,
                effect=with_interval(_estimate(effect), part.test.interval),
                verdict=part_verdict(level, _finding(part, terms.margin), refutation=REFUTATION),
                threshold=terms.margin,
                direction="greater",
                p_effect=plain(part.p),
                method=part.test.method,
                clusters=effect.clusters,
                clusters_positive=spread.positive,
                worst_cluster=spread.worst,
                prompts=effect.prompts,
                accuracy=accuracy,
                moved=None,
                broken=None,
                model=study.identity,
                guards=guards,
                assumptions=assumptions,
                prompt_ids=study.pairs.ids,
                templates=tuple(study.labels),
                prompt_digests=study.digests,
                effects=tuple(plain(value) for value in difference),
                behaviours=tuple(plain(value) for value in behaviour),
            )
        )
    return tuple(rows)
