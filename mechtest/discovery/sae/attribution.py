"""How much of the behaviour does each feature carry, to first order?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float

from mechtest.discovery.sae.activations import Sequences
from mechtest.models import HookedMamba, HookPoint
from mechtest.sites import Site

__all__ = ["gradient_rows"]


def gradient_rows(
    model: HookedMamba,
    site: Site,
    part: Sequences,
    score: Callable[[torch.Tensor], torch.Tensor],
) -> Float[torch.Tensor, "row d_in"]:
    """Return the derivative of a score by the activations at the wanted positions, flattened.

    A state's derivative is the whole one: through the states that follow from it, too. Nothing is
    kept before the site, and no parameter gets a gradient.

    Args:
        model: The model.
        site: The hook.
        part: Sequences.
        score: From logits "sequence pos d_vocab" to one number.
    """
    nudges: dict[int, torch.Tensor] = {}

    def hook_for(key: int) -> Callable[[torch.Tensor, HookPoint], torch.Tensor]:
        def nudged(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
            del hook
            nudges[key] = torch.zeros_like(value).requires_grad_()
            return value + nudges[key]

        return nudged

    columns = part.wanted.any(0).nonzero().flatten().tolist()
    if site.spec.per_position:
        hooks = [(f"{site}.{column}", hook_for(column)) for column in columns]
    else:
        hooks = [(str(site), hook_for(0))]
    with torch.enable_grad(), _parameters_at_rest(model):
        logits = model.run_with_hooks(part.tokens, attention_mask=part.mask, fwd_hooks=hooks)
        score(logits).backward()
    if not site.spec.per_position:
        return _gradient(nudges[0]).flatten(2)[part.wanted]
    first = _gradient(nudges[columns[0]]).flatten(1)
    rows = first.new_zeros(*part.wanted.shape, first.shape[1])
    for column in columns:
        rows[:, column] = _gradient(nudges[column]).flatten(1)
    return rows[part.wanted]


def _gradient(nudge: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(nudge) if nudge.grad is None else nudge.grad


@contextmanager
def _parameters_at_rest(model: HookedMamba) -> Iterator[None]:
    awake = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in awake:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in awake:
            parameter.requires_grad = True
