"""What does a sparse autoencoder lose, and which way does each kind learn?

In units in which activations have mean square 1 about their centre, so that a loss of 1 is that of
saying nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float

from mechtest.discovery.sae.autoencoder import SAEKind, few_largest

__all__ = ["Penalties", "SAELoss", "jump", "sae_loss"]

AUXILIARY = 1 / 32
"""Weight of the dead features' own loss (Gao et al. 2024, appendix A.2)."""


@dataclass(frozen=True)
class Penalties:
    """What keeps features few.

    Attributes:
        kind: Of the autoencoder.
        k: Features active at once (topk).
        l1: Price of a unit of activation (relu).
        l0: Price of an active feature (jumprelu).
        bandwidth: Width of the window in which a threshold feels its features (jumprelu).
    """

    kind: SAEKind
    k: int
    l1: float
    l0: float
    bandwidth: float


@dataclass(frozen=True, eq=False)
class SAELoss:
    """One batch.

    Attributes:
        loss: To be minimised.
        features: Of each row.
        error: What the reconstruction lacks.
    """

    loss: Float[torch.Tensor, ""]
    features: Float[torch.Tensor, "row d_sae"]
    error: Float[torch.Tensor, "row d_in"]


def sae_loss(
    weights: Mapping[str, torch.Tensor],
    rows: Float[torch.Tensor, "row d_in"],
    penalties: Penalties,
    *,
    warmth: float,
    dead: Bool[torch.Tensor, " d_sae"],
) -> SAELoss:
    """Return the loss of a batch.

    Args:
        weights: As those of `SAE`, but `log_threshold` for jumprelu.
        rows: Activations.
        penalties: What keeps features few.
        warmth: Share of the penalty that counts by now.
        dead: Features that have not been active for a while; topk lets them explain what the
            others leave.

    Sources: Bricken et al. 2023 (l1); Gao et al. 2024, sections 2.3 and A.2 (topk, dead features);
        Rajamanoharan et al. 2024, section 4 (jumprelu).
    """
    pre = (rows - weights["b_dec"]) @ weights["W_enc"] + weights["b_enc"]
    if penalties.kind == "topk":
        features, price = few_largest(pre, penalties.k), pre.new_zeros(())
    elif penalties.kind == "jumprelu":
        features, active = jump(pre, weights["log_threshold"].exp(), penalties.bandwidth)
        price = penalties.l0 * active.sum(1).mean()
    else:
        features = torch.relu(pre)
        price = penalties.l1 * features.sum(1).mean()
    error = rows - features @ weights["W_dec"] - weights["b_dec"]
    loss = error.square().sum(1).mean() + warmth * price
    if penalties.kind == "topk" and bool(dead.any()):
        loss = loss + AUXILIARY * _left_to_the_dead(weights, pre, error, dead)
    return SAELoss(loss, features, error)


def jump(
    pre: Float[torch.Tensor, "row d_sae"], threshold: Float[torch.Tensor, " d_sae"], width: float
) -> tuple[Float[torch.Tensor, "row d_sae"], Float[torch.Tensor, "row d_sae"]]:
    """Return features and which of them are active, with pseudo-derivatives by the threshold.

    Both are steps in the threshold. Their derivatives are taken as if the step were a ramp `width`
    wide: -threshold / width, and -1 / width, inside the window, 0 outside.

    Sources: Rajamanoharan et al. 2024, equations 11 and 12.
    """
    still = threshold.detach()
    window = ((pre.detach() - still).abs() < width / 2).to(pre) / width
    ramp = window * (threshold - still)  # 0, but for its derivative
    active = (pre.detach() > still).to(pre)
    return pre * active - still * ramp, active - ramp


def _left_to_the_dead(
    weights: Mapping[str, torch.Tensor], pre: torch.Tensor, error: torch.Tensor, dead: torch.Tensor
) -> torch.Tensor:
    """Return how badly dead features explain what living ones leave."""
    count = min(int(dead.sum()), max(1, error.shape[1] // 2))
    chosen = few_largest(pre.masked_fill(~dead, -torch.inf), count)
    return (error.detach() - chosen @ weights["W_dec"]).square().sum(1).mean()
