"""Which channels of a site matter most, one by one?"""

from __future__ import annotations

import torch

from mechtest.errors import ClaimInvalid, NothingChangedError, ShapeError
from mechtest.interventions import Circuit, Intervention, ResampleAblation, runner_for_claim
from mechtest.models import HookedMamba
from mechtest.tasks import DiscoveryPairs, Metric, logit_difference

__all__ = ["find_channels"]


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
    effects: list[float] = []
    while True:
        try:
            run = runner.run(Circuit(site, channels=[len(effects)]), ablation)
        except NothingChangedError:
            effects.append(0.0)
            continue
        except ShapeError:
            break  # one past the last channel
        effects.append(float((clean - metric(run.logits, runner.pairs)).mean()))
    if not 0 < count < len(effects):
        raise ShapeError(
            f"{site} has {len(effects)} channels",
            given=f"count={count}",
            expected=f"1 to {len(effects) - 1}",
        )
    order = sorted(range(len(effects)), key=lambda channel: -effects[channel])
    return Circuit(
        site,
        channels=order[:count],
        name=name or f"{count} channels of {site}",
        fitted_on=runner.pairs.fingerprints,
    )
