"""On which prompts may a discovery tool look, and how big is the behaviour there?"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float

from mechtest.errors import ClaimInvalid, MetricError
from mechtest.interventions import Runner, runner_for_claim
from mechtest.models import HookedMamba
from mechtest.tasks import (
    ConfirmationPairs,
    DiscoveryPairs,
    EncodedPairs,
    Metric,
    PromptPairs,
    logit_difference,
)

__all__ = ["Behaviour", "behaviour_of", "discovery_half", "looking_runner", "mean_over_templates"]

SMALLEST_GAP = 1e-6
"""Smallest mean difference between the runs, in the metric's unit, that shares are taken of."""


def discovery_half(prompts: PromptPairs | DiscoveryPairs | EncodedPairs) -> DiscoveryPairs:
    """Return the half of the prompts that may be looked at.

    Raises:
        ClaimInvalid: Prompts that are kept for testing claims.
    """
    if isinstance(prompts, DiscoveryPairs):
        return prompts
    if isinstance(prompts, PromptPairs) and not isinstance(prompts, ConfirmationPairs):
        return prompts.discovery
    raise ClaimInvalid(
        "discovery looks at the discovery half of the prompts",
        given=repr(prompts),
        expected="prompts.discovery, or a whole collection (its discovery half is taken)",
    )


def looking_runner(
    model: HookedMamba, prompts: PromptPairs | DiscoveryPairs | EncodedPairs
) -> Runner:
    """Return a runner on the discovery half of the prompts.

    Raises:
        ClaimInvalid: Prompts that are kept for testing claims.
    """
    if isinstance(prompts, EncodedPairs):
        if prompts.side != "discovery":
            discovery_half(prompts)  # raises, with the sentence for it
        return runner_for_claim(model, prompts)
    return runner_for_claim(model, discovery_half(prompts).encode(model.tokenizer))


@dataclass(frozen=True, eq=False)
class Behaviour:
    """What the untouched model does.

    Attributes:
        metric: Reads logits.
        clean: The metric of each clean prompt.
        corrupted: Of each corrupted one.
        gap: Mean difference, templates weighted equally: what shares are taken of.
    """

    metric: Metric
    clean: Float[torch.Tensor, " prompt"]
    corrupted: Float[torch.Tensor, " prompt"]
    gap: float


@torch.no_grad()
def behaviour_of(runner: Runner, metric: Metric = logit_difference) -> Behaviour:
    """Return what the model does on the runner's prompts.

    Raises:
        MetricError: Clean and corrupted prompts score alike.
    """
    clean = metric(runner.logits("clean"), runner.pairs)
    corrupted = metric(runner.logits("corrupted"), runner.pairs)
    gap = mean_over_templates(clean - corrupted, runner.pairs)
    if not abs(gap) > SMALLEST_GAP:
        raise MetricError(
            "clean and corrupted prompts score alike, so there is no behaviour to take shares of",
            given=f"{metric.name} differs by {gap:.3g} {metric.unit}",
            expected="a model that does the task, and prompts that differ in what matters",
            next_step="look at prompts.explain(model.tokenizer)",
        )
    return Behaviour(metric, clean, corrupted, gap)


def mean_over_templates(values: Float[torch.Tensor, " prompt"], pairs: EncodedPairs) -> float:
    """Return the mean over templates of each template's mean."""
    cluster = torch.as_tensor(pairs.cluster, device=values.device)
    totals = torch.zeros(len(pairs.templates), dtype=torch.float64, device=values.device)
    counts = torch.zeros_like(totals)
    totals.index_add_(0, cluster, values.double())
    counts.index_add_(0, cluster, torch.ones_like(values, dtype=torch.float64))
    present = counts > 0
    return float((totals[present] / counts[present]).mean())
