"""What has to hold before a number means what it seems to?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mechtest.assertions.question import Measured, Question
from mechtest.assertions.study import Study, Values
from mechtest.errors import BehaviourAbsentError, ClaimInvalid
from mechtest.interventions import Circuit, Runner, Subspace, runner_for_claim
from mechtest.models import HookedMamba
from mechtest.records import Guard
from mechtest.stats import (
    behaviour_test,
    cluster_effect,
    derived_seed,
    effect_interval,
    effect_test,
    reaches,
)
from mechtest.tasks import logit_difference

__all__ = [
    "BEHAVIOUR_LEVEL",
    "changed_share",
    "not_too_much",
    "require_behaviour",
    "require_no_cut",
    "visible_part",
    "whole_component",
]

CUT_TOLERANCE = 1e-4
"""Largest deviation, as a share of the largest behaviour, at which an edit is "everything"."""

BEHAVIOUR_LEVEL = 0.05
"""Level at which there has to be a behaviour, whatever the claim's own."""

TWIN_PROMPTS = 64
GATED = "hook_after_skip"
SINGULAR = 1e-3
"""Cosine with what is read below which a claimed direction counts as unread."""

MOST = 0.9
"""Share of prompts that an edit has to change before its small effect says anything."""


def require_behaviour(
    question: Question, *, seed: int, claim: str, min_accuracy: float
) -> tuple[Guard, Guard]:
    """Return guards that say the model does the task and the twin prompts undo it.

    Raises:
        BehaviourAbsentError: It does not, or they do not: there is nothing to take a share of.
    """
    study = question.study
    there = question.behaviour()
    found = behaviour_test(
        cluster_effect(there, there, study.labels), seed=seed, claim=claim, level=BEHAVIOUR_LEVEL
    )
    accuracy = study.share(study.runner.logits("clean"), "accuracy")
    if not found.present:
        raise BehaviourAbsentError(
            f"behaviour absent: {found.reason}",
            given=f"{study.tested!r} in {study.model.source}",
            expected=f"{study.metric.name} that is higher on clean than on corrupted prompts",
            next_step="check that this model does the task: prompts.explain(model.tokenizer)",
        )
    if accuracy < min_accuracy:
        raise BehaviourAbsentError(
            f"behaviour absent: the model answers {accuracy:.0%} of the clean prompts right",
            given=f"{study.tested!r} in {study.model.source}",
            expected=f"at least {min_accuracy:.0%} (min_accuracy)",
            next_step="claim it of a checkpoint that has learned the task, or lower min_accuracy",
        )
    unit = study.metric.unit
    return (
        Guard(
            "behaviour",
            passed=True,
            detail=f"clean minus floor is {found.mean:.3g} {unit}, p {found.p:.2g}",
        ),
        Guard(
            "accuracy",
            passed=True,
            detail=f"the model answers {accuracy:.0%} of the clean prompts right",
        ),
    )


def require_no_cut(question: Question, circuit: Circuit, *, seed: int, claim: str) -> Guard:
    """Return a guard that says the effect is not forced by the architecture.

    The same edit is made in a twin with fresh random weights. Where it moves everything there too,
    on every prompt, the circuit cuts the graph: any model would show the effect.

    Raises:
        ClaimInvalid: The circuit is a cut.
    """
    study = question.study
    twin = HookedMamba(
        study.model.cfg,
        tokenizer=study.model.tokenizer,
        seed=derived_seed(seed, claim, "random twin") % 2**31,
    )
    keep = np.linspace(0, len(study.pairs) - 1, min(TWIN_PROMPTS, len(study.pairs))).astype(int)
    small = _TwinStudy(study, runner_for_claim(twin, study.pairs[np.unique(keep)]))
    asked = Question(small, question.mode, question.intervention, question.circuit)
    measured = asked.measure([circuit])
    largest = float(np.abs(measured.behaviour).max())
    off = float(np.abs(measured.moved_part - measured.behaviour).max())
    if largest > 0 and off <= CUT_TOLERANCE * largest:
        raise ClaimInvalid(
            f"cut: {circuit.name} cuts the model in two, so this effect is 1 in any model",
            given=f"in a twin with random weights the same edit moves all of the behaviour, to "
            f"{off / largest:.1g}",
            expected="a circuit that leaves another path from the changed tokens to the answer",
            next_step="claim one layer, fewer positions, or a subspace",
        )
    return Guard(
        "no cut",
        passed=True,
        detail="in a twin with random weights the same edit leaves a remainder",
    )


class _TwinStudy(Study):
    """The same prompts in another model."""

    def __init__(self, study: Study, runner: Runner) -> None:
        self.model, self.metric = runner.model, logit_difference
        self.tested, self.looked_at, self.duplicates = study.tested, None, 0
        self.runner = runner


def whole_component(
    question: Question, claimed: Measured, circuit: Circuit, level: float, delta: float,
    *, seed: int, claim: str,
) -> Guard:  # fmt: skip
    """Return whether patching the whole site does at least (1 - delta) of what its subspace does.

    A subspace can work by waking a pathway that patching the whole component leaves asleep: then it
    is not how the model does the task.

    Null hypothesis: the whole site's effect is at most (1 - delta) of the subspace's.
    Exchange unit: the sign of a template's score.
    Sources: Makelov et al. 2023 (interpretability illusion of subspace patching).
    """
    whole = question.measure([Circuit(*[str(site) for site in circuit.sites])])
    return _not_less(
        "illusion", "the whole site", whole, claimed, question, level, delta, seed, claim
    )


def visible_part(
    question: Question, claimed: Measured, circuit: Circuit, level: float, delta: float,
    *, seed: int, claim: str, scale: Values | None = None,
) -> Guard | None:  # fmt: skip
    """Return whether the part of the subspace that the output projection reads does the work.

    The edit reads and writes along the claimed directions projected on the rows of the projection's
    weight, so that what it never reads plays no part. Both are taken in coordinates divided by
    `scale`, in which the claim is a projection: in others the unread part would leave a share of
    what it reads on the rows.

    Only for sites that feed the output projection: it maps d_inner to d_model dimensions, so half
    of that space is never read. None elsewhere.

    Null hypothesis, exchange unit and sources: as `whole_component`.
    """
    site = circuit.sites[0]
    if site.hook != GATED or site.layer is None or circuit.subspace is None:
        return None
    mixer: Any = question.study.model.blocks[site.layer].mixer
    weight = mixer.out_proj.weight.detach().double()
    spread = torch.ones(weight.shape[1], dtype=torch.float64)
    if scale is not None:
        spread = torch.as_tensor(scale, dtype=torch.float64)
    rows = torch.linalg.svd(weight * spread, full_matrices=False).Vh
    claimed_frame = torch.linalg.qr(circuit.subspace.basis.double() / spread[:, None]).Q
    seen = rows.T @ (rows @ claimed_frame)
    if float(torch.linalg.svdvals(seen).min()) < SINGULAR:
        return Guard(
            "illusion (unread part)",
            passed=False,
            detail="illusion: the output projection reads nothing of some claimed direction",
        )
    visible = Subspace.spanned_by(seen * spread[:, None], spread)
    part = question.measure([circuit.with_subspace(visible)])
    return _not_less(
        "illusion (unread part)", "the part that is read downstream", part, claimed, question,
        level, delta, seed, claim,
    )  # fmt: skip


def _not_less(
    name: str, what: str, part: Measured, claimed: Measured, question: Question,
    level: float, delta: float, seed: int, claim: str,
) -> Guard:  # fmt: skip
    labels = question.study.labels
    ratio = cluster_effect(part.moved_part, claimed.moved_part, labels)
    if ratio.estimate is None:
        return Guard(
            name, passed=None, detail="the subspace has no positive effect to compare with"
        )
    found = effect_test(ratio, 1 - delta, level, seed=seed, claim=f"{claim}|{name}")
    wide = effect_interval(ratio, 0.95, seed=seed, claim=f"{claim}|{name}")
    detail = f"{what} has {ratio.estimate:.3g} of the subspace's effect (at least {1 - delta:g})"
    if reaches(found.p, level):
        return Guard(name, passed=True, detail=detail, p=found.p)
    if wide.high is not None and wide.high < 1 - delta:
        return Guard(name, passed=False, detail=f"illusion: {detail}", p=found.p)
    return Guard(name, passed=None, detail=f"{detail}: not settled, p {found.p:.3g}", p=found.p)


def not_too_much(
    study: Study, measured: Measured, margin: float, level: float, refutation: float, *, seed: int,
    claim: str,
) -> Guard:  # fmt: skip
    """Return whether an effect is shown to lie below 1 + `margin`, the other side of "the same".

    Null hypothesis: the effect is at least 1 + `margin`.
    Exchange unit, exactness: as `mechtest.stats.effect_test`.

    Args:
        study: For templates.
        measured: What the circuit did.
        margin: A share of the behaviour.
        level: Level of the claim; the guard's p is a part of the claim's.
        refutation: The claim's rate of false "refuted", of which this way takes a quarter.
        seed: Root seed.
        claim: What random draws are keyed by.
    """
    effect = measured.effect(study)
    assert effect.estimate is not None, "the behaviour was tested before"
    key, most = f"{claim}|equivalent", 1 + margin
    found = effect_test(effect, most, level, seed=seed, claim=key, alternative="less")
    wide = effect_interval(effect, 1 - refutation / 2, seed=seed, claim=key)
    detail = f"the effect {effect.estimate:.3g} against at most {most:g}: p {found.p:.2g}"
    if reaches(found.p, level):
        return Guard("equivalent", passed=True, detail=detail, p=found.p)
    above = wide.low is not None and wide.low > most
    return Guard("equivalent", passed=False if above else None, detail=detail, p=found.p)


def changed_share(measured: Measured, *, absence: bool) -> Guard:
    """Return which share of the prompts the edit changed at all (it raised if none was).

    An effect that is shared out over prompts where nothing was edited is small for that reason, so
    an absence cannot be concluded from it.
    """
    share = float(measured.run.changed.double().mean())
    detail = f"the edit changed activations of {share:.0%} of the prompts"
    if absence and share < MOST:
        return Guard("changed", passed=None, detail=f"{detail}, too few to call an effect absent")
    return Guard("changed", passed=True, detail=detail)
