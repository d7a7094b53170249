"""What does the model do when a site goes through a sparse autoencoder?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64

from mechtest.discovery.sae.activations import Sequences
from mechtest.discovery.sae.autoencoder import SAE
from mechtest.models import HookedMamba, HookPoint
from mechtest.sites import Site

__all__ = ["Replacement", "logits_with", "losses_of", "reconstruction"]

Replacement = Callable[[torch.Tensor], torch.Tensor]
"""From activations "row d_in" to what stands in their place."""


@torch.no_grad()
def logits_with(
    model: HookedMamba, site: Site, part: Sequences, replacement: Replacement | None
) -> Float[torch.Tensor, "sequence pos d_vocab"]:
    """Return the logits with the wanted activations of a site replaced; None replaces nothing.

    An edited state is carried on: what follows is computed from it.
    """
    hooks = [] if replacement is None else _hooks(site, part, replacement)
    return model.run_with_hooks(part.tokens, attention_mask=part.mask, fwd_hooks=hooks)


def _hooks(
    site: Site, part: Sequences, replacement: Replacement
) -> list[tuple[str, Callable[[torch.Tensor, HookPoint], torch.Tensor]]]:
    def hook_for(
        mask: Bool[torch.Tensor, "..."],
    ) -> Callable[[torch.Tensor, HookPoint], torch.Tensor]:
        def replaced(value: torch.Tensor, hook: HookPoint) -> torch.Tensor:
            del hook
            rows = value[mask]
            out = value.clone()
            out[mask] = replacement(rows.flatten(1)).reshape(rows.shape).to(value)
            return out

        return replaced

    if not site.spec.per_position:
        return [(str(site), hook_for(part.wanted))]
    columns = part.wanted.any(0).nonzero().flatten().tolist()
    return [(f"{site}.{column}", hook_for(part.wanted[:, column])) for column in columns]


def losses_of(
    logits: Float[torch.Tensor, "sequence pos d_vocab"],
    tokens: Int64[torch.Tensor, "sequence pos"],
    part: Sequences,
) -> Float[torch.Tensor, " sequence"]:
    """Return the mean next-token cross-entropy of each sequence, in nats."""
    each = torch.nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2), tokens[:, 1:], reduction="none"
    )
    counts = part.mask[:, 1:] & part.mask[:, :-1]
    return (each * counts).sum(1) / counts.sum(1)


def reconstruction(sae: SAE) -> Replacement:
    """Return what the autoencoder puts in the place of activations."""
    return lambda rows: sae(rows.to(sae.W_dec))
