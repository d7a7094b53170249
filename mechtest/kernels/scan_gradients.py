"""How do gradients flow back through a scan that kept no states on its way?

The forward pass leaves a checkpoint every few rows; the backward pass runs each chunk again from
its checkpoint and walks it from the end. Memory: the checkpoints, never rows times states.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch

from mechtest.kernels.arguments import ScanArguments
from mechtest.kernels.row_gradients import refuse_second_derivative

__all__ = ["HasAdjoint", "differentiable_scan"]


@runtime_checkable
class HasAdjoint(Protocol):
    """A backend with a hand-written backward pass."""

    def scan_checked(
        self, scan: ScanArguments, *, with_checkpoints: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return (out, end, kept, checkpoints)."""
        ...

    def adjoint(
        self,
        scan: ScanArguments,
        checkpoints: torch.Tensor,
        d_out: torch.Tensor | None,
        d_end: torch.Tensor | None,
        d_kept: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        """Return gradients of x, delta, decay, B, C, h_start, D and gate."""
        ...


def differentiable_scan(
    backend: HasAdjoint, *arguments: Any
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Run `scan_segments` over a backend so that gradients flow, once and not twice."""
    out, end, kept = _Scan.apply(backend, *arguments)
    return out, end, kept


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: HasAdjoint, *arguments: Any
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        scan = ScanArguments.checked(*arguments)
        out, end, kept, checkpoints = backend.scan_checked(scan, with_checkpoints=True)
        ctx.backend = backend
        ctx.others = (scan.starts, scan.given, scan.keep, scan.softplus)
        ctx.save_for_backward(
            *(scan.x, scan.delta, scan.decay, scan.B, scan.C, scan.h_start),
            *(scan.D, scan.gate, checkpoints),
        )
        ctx.set_materialize_grads(False)
        return out, end, kept

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        refuse_second_derivative()
        x, delta, decay, B, C, h_start, D, gate, checkpoints = ctx.saved_tensors
        starts, given, keep, softplus = ctx.others
        scan = ScanArguments(x, delta, decay, B, C, h_start, starts, D, gate, given, keep, softplus)
        whole = (None if each is None else each.contiguous() for each in gradients)
        found = ctx.backend.adjoint(scan, checkpoints, *whole)
        # Back in the order of the arguments: backend first, `starts` between, flags last.
        return None, *found[:6], None, *found[6:], None, None, None
