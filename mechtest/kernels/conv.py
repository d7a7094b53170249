"""What does the causal depthwise convolution give, starting from any window?

Written as a sum of shifted products in one fixed order, so that a prompt cut anywhere gives the
same bits as the whole: no GEMM or convolution library chooses an algorithm by length here.
"""

from __future__ import annotations

import torch
from jaxtyping import Float


def causal_conv(
    rows: Float[torch.Tensor, "batch pos d_inner"],
    weight: Float[torch.Tensor, "d_inner 1 d_conv"],
    bias: Float[torch.Tensor, " d_inner"] | None,
    window: Float[torch.Tensor, "batch window d_inner"],
) -> Float[torch.Tensor, "batch pos d_inner"]:
    """Convolve every channel with its own taps over the current and the d_conv-1 earlier rows.

    Args:
        rows: Inputs, one row a position.
        weight: Taps; the last one multiplies the current row.
        bias: Added to every row, or None.
        window: The d_conv-1 rows before the first one, oldest first (zeros at the start).

    Returns:
        One row a position, before any nonlinearity.

    Numerics: float32 within 1e-6 of `torch.nn.functional.conv1d`; float64 stays float64.
    Sources: Gu & Dao 2023, section 3.4 (the block); differs: an explicit initial window.
    """
    n_taps = weight.shape[-1]
    n_pos = rows.shape[1]
    padded = torch.cat([window, rows], dim=1)
    out = padded[:, :n_pos] * weight[:, 0, 0]
    for tap in range(1, n_taps):
        out = out + padded[:, tap : tap + n_pos] * weight[:, 0, tap]
    return out if bias is None else out + bias


def window_after(
    window: Float[torch.Tensor, "batch window d_inner"],
    rows: Float[torch.Tensor, "batch pos d_inner"],
) -> Float[torch.Tensor, "batch window d_inner"]:
    """Return the convolution window after `rows`: the last d_conv-1 rows seen, oldest first."""
    length = window.shape[1]
    # A copy of few rows, or a copy that lets go of all the others.
    seen = torch.cat([window, rows[:, -length:] if length else rows[:, :0]], dim=1)
    return seen[:, seen.shape[1] - length :].clone()
