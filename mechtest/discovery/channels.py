"""Which channels of a site matter most, one by one?"""

from __future__ import annotations

import torch

from mechtest.errors import ClaimInvalid, ShapeError
from mechtest.interventions import Circuit, Intervention, ResampleAblation, runner_for_claim
from mechtest.interventions.sweep_places import channels_of
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import DiscoveryPairs, Metric, logit_difference

__all__ = ["find_channels"]

LOGITS = 2**24
"""So many logits are held at once: 64 MiB in float32."""


@torch.no_grad()
def find_channels(
    model: HookedMamba,
    site: str,
    prompts: DiscoveryPairs,
    *,
    count: int,
    intervention: Intervention | None = None,
    metric: Metric = logit_difference,
    name: str | None = None,
) -> Circuit:
    """Return the channels of a site whose ablation, one at a time, costs the metric most.

    One by one is blind to channels that matter only together.

    Args:
        model: The model.
        site: For example `blocks.1.state@last`.
        prompts: `prompts.discovery`.
        count: Channels to keep.
        intervention: `ResampleAblation()` by default.
        metric: Reads logits.
        name: How reports call the circuit.

    Returns:
        A circuit with the fingerprints of the prompts it was found on.

    Raises:
        ClaimInvalid: Prompts that are not the discovery half.
        ShapeError: More channels than the site has.
        NothingChangedError: The site does not differ between the runs.

    Sources: Michel et al. 2019 (ablating heads one by one).
    """
    if not isinstance(prompts, DiscoveryPairs):
        raise ClaimInvalid(
            "circuits are looked for on the discovery half of the prompts",
            given=repr(prompts),
            expected="prompts.discovery",
        )
    runner = runner_for_claim(model, prompts.encode(model.tokenizer))
    clean = metric(runner.logits("clean"), runner.pairs)
    ablation = intervention or ResampleAblation()
    there = channels_of(model, Site.parse(site))
    if not 0 < count < there:
        raise ShapeError(
            f"{site} has {there} channels",
            given=f"count={count}",
            expected=f"1 to {there - 1}",
        )
    runner.run(Circuit(site), ablation)  # raises where the whole site changes nothing
    each = [[Circuit(site, channels=[channel])] for channel in range(there)]
    at_once = max(1, LOGITS // runner.logits("clean").numel())
    effects = [
        float((clean - metric(logits, runner.pairs)).mean())
        for start in range(0, there, at_once)
        for logits in runner.logits_after(each[start : start + at_once], ablation)
    ]
    order = sorted(range(there), key=lambda channel: -effects[channel])
    return Circuit(
        site,
        channels=order[:count],
        name=name or f"{count} channels of {site}",
        fitted_on=runner.pairs.fingerprints,
    )
