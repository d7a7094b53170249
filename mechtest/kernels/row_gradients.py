"""How do gradients flow through kernels that autograd cannot look into?

For everything but the scan the time goes elsewhere, so the backward pass runs the torch version of
the kernel once more and differentiates that; values are the kernel's own in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

__all__ = ["differentiable", "wants_gradient"]

Kernel = Callable[..., torch.Tensor]


def wants_gradient(*tensors: torch.Tensor | None) -> bool:
    """Return whether autograd has to know what happens to these."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def differentiable(run: Kernel, reference: Kernel, *arguments: Any) -> torch.Tensor:
    """Return `run(*arguments)`; its gradients are those of `reference`."""
    if not wants_gradient(*(each for each in arguments if isinstance(each, torch.Tensor))):
        return run(*arguments)
    out: torch.Tensor = _AsReference.apply(run, reference, *arguments)
    return out


class _AsReference(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, run: Kernel, reference: Kernel, *arguments: Any) -> torch.Tensor:
        ctx.reference = reference
        ctx.others = [None if isinstance(each, torch.Tensor) else each for each in arguments]
        ctx.places = [n for n, each in enumerate(arguments) if isinstance(each, torch.Tensor)]
        ctx.save_for_backward(*(arguments[place] for place in ctx.places))
        return run(*arguments)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        arguments = list(ctx.others)
        wanted = []
        for place, saved in zip(ctx.places, ctx.saved_tensors, strict=True):
            arguments[place] = saved.detach()
            if ctx.needs_input_grad[place + 2]:
                arguments[place].requires_grad_()
                wanted.append(place)
        with torch.enable_grad():
            out = ctx.reference(*arguments)
        found = torch.autograd.grad(out, [arguments[place] for place in wanted], gradient)
        back: list[torch.Tensor | None] = [None] * (len(arguments) + 2)
        for place, value in zip(wanted, found, strict=True):
            back[place + 2] = value
        return tuple(back)
