"""Which weights does a block hold, and under which names?"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import nn

from mechtest.checkpoints import MambaCfg


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype to compute in: bfloat16 and float16 are too coarse for a recurrence."""
    return torch.promote_types(dtype, torch.float32)


class LinearView(NamedTuple):
    """A part of a fused projection under its MambaLens name."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None


class RMSNorm(nn.Module):
    """Root-mean-square norm with a weight; statistics in float32 or wider.

    Sources: Zhang & Sennrich 2019, section 3.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(
        self, x: Float[torch.Tensor, "batch pos d_model"]
    ) -> Float[torch.Tensor, "batch pos d_model"]:
        """Return x / rms(x) * weight."""
        wide = x.to(at_least_float32(x.dtype))
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (scaled * self.weight).to(x.dtype)


class MambaMixer(nn.Module):
    """The weights of one block, under the names the files use.

    Args:
        cfg: Shapes.
    """

    def __init__(self, cfg: MambaCfg) -> None:
        super().__init__()
        inner, rank, n_state = cfg.E, cfg.R, cfg.N
        self.in_proj = nn.Linear(cfg.d_model, 2 * inner, bias=cfg.bias)
        # Weights only: the convolution itself is a kernel that takes an initial window.
        self.conv1d = nn.Conv1d(inner, inner, cfg.d_conv, groups=inner, bias=cfg.conv_bias)
        self.x_proj = nn.Linear(inner, rank + 2 * n_state, bias=False)
        self.dt_proj = nn.Linear(rank, inner, bias=True)
        self.A_log = nn.Parameter(torch.zeros(inner, n_state))
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, cfg.d_model, bias=cfg.bias)
