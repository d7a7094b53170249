"""At which layers and positions does an ablation change the answer?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mechtest.errors import ClaimInvalid, MetricError, NothingChangedError
from mechtest.interventions import (
    Circuit,
    Intervention,
    ResampleAblation,
    plan_edits,
    runner_for_claim,
)
from mechtest.models import HookedMamba
from mechtest.records import EffectMap
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Metric, logit_difference

__all__ = ["map_effects"]

SMALLEST_GAP = 1e-6
"""Smallest mean difference between the runs, in the metric's unit, that shares are taken of."""


@torch.no_grad()
def map_effects(
    model: HookedMamba,
    prompts: DiscoveryPairs,
    hook: str = "state",
    *,
    positions: Sequence[str] = (),
    intervention: Intervention | None = None,
    metric: Metric = logit_difference,
) -> EffectMap:
    """Ablate one hook at every layer and named position, and return the effects as a table.

    Args:
        model: The model.
        prompts: `prompts.discovery`: a map is for finding, not for testing.
        hook: Hook name inside a block, or `state`.
        positions: Positions in the notation of sites (`S2`, `S2+1`, `last`); by default every role
            that all prompts have, in order, and the last token.
        intervention: `ResampleAblation()` by default.
        metric: Reads logits.

    Returns:
        Layers by positions: (clean - ablated) / (clean - corrupted), means over prompts. A place
        where nothing changes has no number. Columns bear the word of the first prompt, too.

    Raises:
        ClaimInvalid: Prompts that are not the discovery half.
        MetricError: No difference between clean and corrupted prompts.
    """
    if not isinstance(prompts, DiscoveryPairs):
        raise ClaimInvalid(
            "maps are drawn on the discovery half of the prompts",
            given=repr(prompts),
            expected="prompts.discovery",
        )
    runner = runner_for_claim(model, prompts.encode(model.tokenizer))
    chosen = list(positions) or _roles(runner.pairs)
    ablation = intervention or ResampleAblation()
    clean = metric(runner.logits("clean"), runner.pairs)
    gap = (clean - metric(runner.logits("corrupted"), runner.pairs)).mean()
    if not abs(float(gap)) > SMALLEST_GAP:
        raise MetricError(
            "clean and corrupted prompts score alike, so there is no behaviour to take shares of",
            given=f"{metric.name} differs by {float(gap):.3g} {metric.unit}",
            expected="a model that does the task, and prompts that differ in what matters",
            next_step="look at prompts.explain(model.tokenizer)",
        )
    rows = []
    for layer in range(model.cfg.n_layer):
        row: list[float | None] = []
        for position in chosen:
            try:
                run = runner.run(Circuit(f"blocks.{layer}.{hook}@{position}"), ablation)
            except NothingChangedError:
                row.append(None)
                continue
            moved = (clean - metric(run.logits, runner.pairs)).mean()
            row.append(float(f"{float(moved / gap):.7g}"))
        rows.append(tuple(row))
    return EffectMap(
        title=f"{ablation.name} of {hook}, {len(runner.pairs)} discovery prompts",
        rows=tuple(f"layer {layer}" for layer in range(model.cfg.n_layer)),
        columns=tuple(chosen),
        values=tuple(rows),
        tokens=_tokens(model, runner.pairs, chosen),
    )


def _tokens(model: HookedMamba, pairs: EncodedPairs, positions: Sequence[str]) -> tuple[str, ...]:
    """Return the tokens that stand at some positions of the first clean prompt."""
    words = model.to_str_tokens(pairs.clean_tokens[0])
    found = []
    for position in positions:
        (edit,) = plan_edits(model.resolver, Circuit(f"blocks.0.hook_resid_pre@{position}"), pairs)
        columns = edit.known_spots.mask[0].nonzero().flatten().tolist()
        found.append(" ".join(words[column].strip() for column in columns))
    return tuple(found)


def _roles(pairs: EncodedPairs) -> list[str]:
    """Return the roles that every prompt has, in the order they stand in the first one."""
    everywhere = [
        (int(pairs.role_positions[0, index]), role)
        for index, role in enumerate(pairs.roles)
        if bool((pairs.role_positions[:, index] >= 0).all())
    ]
    return [role for _, role in sorted(everywhere)]
