"""What can inputs up to a token put into a channel's state, and what does the output see of it?"""

from __future__ import annotations

import torch
from jaxtyping import Float

__all__ = ["balanced_values", "controllability", "entropy_rank", "observability", "participation"]


def controllability(
    delta: Float[torch.Tensor, "pos channel"],
    A: Float[torch.Tensor, "channel d_state"],
    B: Float[torch.Tensor, "pos d_state"],
) -> Float[torch.Tensor, "channel d_state d_state"]:
    """Return Wc = sum_k Phi(end, k) B_bar_k B_bar_k^T Phi(end, k)^T, at the last of these tokens.

    B_bar_k = delta_k B_k takes input x_k into the state, and Phi(end, k) = prod_{j=k+1..end}
    A_bar_j carries it on; both are a channel's own, and Phi is diagonal. x^T Wc^-1 x is the least
    energy of inputs that reach state x.

    Args:
        delta: Step sizes of some channels, from the first token that may write on.
        A: Their continuous decay.
        B: Input matrix of each token.

    Numerics: float64.
    Sources: Kailath 1980, section 9.2 (time-variant Gramians).
    """
    steps, decay, into = delta.double(), A.double(), B.double()
    held = steps.new_zeros(len(decay), decay.shape[1], decay.shape[1])
    for token in range(len(steps)):
        kept = torch.exp(steps[token, :, None] * decay)
        written = steps[token, :, None] * into[token]
        held = kept[:, :, None] * held * kept[:, None, :]
        held = held + written[:, :, None] * written[:, None, :]
    return held


def observability(
    delta: Float[torch.Tensor, "pos channel"],
    A: Float[torch.Tensor, "channel d_state"],
    C: Float[torch.Tensor, "pos d_state"],
) -> Float[torch.Tensor, "channel d_state d_state"]:
    """Return Wo = sum_k Phi(k, start)^T C_k^T C_k Phi(k, start), at the first of these tokens.

    x^T Wo x is the energy of the outputs y_k, k >= start, that state x at the first token causes.

    Args:
        delta: Step sizes of some channels, from the token whose state is meant on; the first one's
            plays no part, since the state is the one after it.
        A: Their continuous decay.
        C: Output matrix of each token.

    Numerics: float64.
    Sources: Kailath 1980, section 9.2.
    """
    steps, decay, out_of = delta.double(), A.double(), C.double()
    seen = steps.new_zeros(len(decay), decay.shape[1], decay.shape[1])
    for token in reversed(range(len(steps))):
        seen = seen + out_of[token, :, None] * out_of[token, None, :]
        if token:
            kept = torch.exp(steps[token, :, None] * decay)
            seen = kept[:, :, None] * seen * kept[:, None, :]
    return seen


def balanced_values(
    reach: Float[torch.Tensor, "channel d_state d_state"],
    seen: Float[torch.Tensor, "channel d_state d_state"],
) -> Float[torch.Tensor, "channel d_state"]:
    """Return the balanced (Hankel) singular values of each channel, the largest first.

    The roots of the eigenvalues of Wc Wo: what each direction of the state carries from inputs
    before to outputs after, whatever coordinates it is written in.

    Sources: Moore 1981, section 3; Glover 1984.
    """
    # Through a root of Wc the product is symmetric, and rounding makes no complex eigenvalues.
    values, axes = torch.linalg.eigh(reach)
    root = axes * values.clamp(min=0).sqrt()[:, None, :]
    inner = root.transpose(1, 2) @ seen @ root
    found = torch.linalg.eigvalsh((inner + inner.transpose(1, 2)) / 2)
    return found.clamp(min=0).sqrt().flip(1)


def participation(
    values: Float[torch.Tensor, "*some value"],
) -> Float[torch.Tensor, "*some"]:
    """Return (sum v)^2 / sum v^2, between 1 and the number of values; 0 where all are 0."""
    squares = values.square().sum(-1)
    ratio = values.sum(-1).square() / squares.clamp(min=1e-300)
    return torch.where(squares > 0, ratio, torch.zeros_like(ratio))


def entropy_rank(values: Float[torch.Tensor, "*some value"]) -> Float[torch.Tensor, "*some"]:
    """Return exp of the entropy of the values' shares; 0 where all are 0.

    Sources: Roy & Vetterli 2007 (effective rank).
    """
    total = values.sum(-1)
    shares = values / total.clamp(min=1e-300).unsqueeze(-1)
    entropy = torch.special.entr(shares).sum(-1)
    return torch.where(total > 0, entropy.exp(), torch.zeros_like(total))
