"""Which tokens does a channel of the recurrence read, written as a matrix?"""

from __future__ import annotations

import torch
from jaxtyping import Float

__all__ = ["attention_matrices", "identity_error"]


def attention_matrices(
    delta: Float[torch.Tensor, "pos channel"],
    A: Float[torch.Tensor, "channel d_state"],
    B: Float[torch.Tensor, "pos d_state"],
    C: Float[torch.Tensor, "pos d_state"],
) -> Float[torch.Tensor, "channel pos pos"]:
    """Return M with y_i = sum_j M_ij x_j, for each channel.

    M_ij = C_i (prod_{k=j+1..i} A_bar_k) B_bar_j for j <= i, and 0 for later tokens. Rows are the
    tokens that read, columns the tokens that are read. Signed, and not normalized: no softmax.

    Args:
        delta: Step sizes of some channels.
        A: Their continuous decay, negative.
        B: Input matrix of each token.
        C: Output matrix of each token.

    Numerics: float64, whatever comes in; products of decays are exponentials of sums.
    Memory: three "channel pos pos" at once, never one with d_state.
    Sources: Ali et al. 2024, section 3 (hidden attention), with D left out.
    """
    steps, decay, into, out_of = (part.double() for part in (delta, A, B, C))
    total = steps.cumsum(0).T  # channel pos
    between = (total[:, :, None] - total[:, None, :]).clamp(min=0)
    made = torch.zeros_like(between)
    for state in range(decay.shape[1]):
        kept = torch.exp(decay[:, state, None, None] * between)
        made += kept * (out_of[:, state, None] * into[None, :, state])
    return (made * steps.T[:, None, :]).tril()


def identity_error(
    matrices: Float[torch.Tensor, "channel pos pos"],
    x: Float[torch.Tensor, "pos channel"],
    D: Float[torch.Tensor, " channel"],
    output: Float[torch.Tensor, "pos channel"],
) -> float:
    """Return how far M x + D x is from what the model computed, relative to its terms.

    The largest |difference| / (sum_j |M_ij| |x_j| + |D x_i|) over tokens and channels: what
    rounding can make of a sum, whatever cancels in it. A token whose terms are all 0 has to be 0.
    """
    wide, direct = x.double().T, (x.double() * D.double()).T
    made = (matrices @ wide[:, :, None]).squeeze(-1) + direct
    terms = (matrices.abs() @ wide.abs()[:, :, None]).squeeze(-1) + direct.abs()
    difference = (made - output.double().T).abs()
    smallest = torch.finfo(torch.float64).tiny
    return float((difference / terms.clamp(min=smallest)).max())
