"""Which implementation of the segment kernels runs on this machine, for this device and dtype?"""

from __future__ import annotations

from typing import Protocol

import torch

__all__ = ["Backend", "backend_for"]


class Backend(Protocol):
    """One implementation; the arguments are those of `mechtest.kernels.segments`, in order."""

    name: str

    def conv(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        windows: torch.Tensor,
        starts: torch.Tensor,
        activate: bool,
    ) -> torch.Tensor:
        """Run `conv_segments`."""
        ...

    def scan(
        self,
        x: torch.Tensor,
        delta: torch.Tensor,
        decay: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        h_start: torch.Tensor,
        starts: torch.Tensor,
        D: torch.Tensor | None,
        gate: torch.Tensor | None,
        given: torch.Tensor | None,
        keep: torch.Tensor | None,
        softplus: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run `scan_segments`, without gradients."""
        ...

    def scan_with_gradient(
        self,
        x: torch.Tensor,
        delta: torch.Tensor,
        decay: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        h_start: torch.Tensor,
        starts: torch.Tensor,
        D: torch.Tensor | None,
        gate: torch.Tensor | None,
        given: torch.Tensor | None,
        keep: torch.Tensor | None,
        softplus: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run `scan_segments` so that gradients flow back to every tensor."""
        ...

    def silu(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `silu_rows`."""
        ...

    def softplus(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `softplus_rows`."""
        ...

    def rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Run `rms_norm_rows`."""
        ...


def backend_for(device: str, dtype: torch.dtype) -> Backend:
    """Return the fastest implementation that serves a device and dtype."""
    from mechtest.kernels.torch_backend import TorchBackend

    del device, dtype
    return TorchBackend()
