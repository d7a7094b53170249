"""How do gradients flow through kernels that autograd cannot look into?

For everything but the scan the time goes elsewhere, so the backward pass runs the torch version of
the kernel once more and differentiates that; values are the kernel's own in any case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mechtest.errors import InputError

__all__ = ["differentiable", "refuse_second_derivative", "wants_gradient"]

Kernel = Callable[..., torch.Tensor]


def wants_gradient(*tensors: torch.Tensor | None) -> bool:
    """Return whether autograd has to know what happens to these."""
    return torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in tensors
    )


def refuse_second_derivative() -> None:
    """Raise when a backward pass is to be differentiated itself: part of it would be missing.

    Raises:
        InputError: The backward pass was asked for with `create_graph=True`.
    """
    if torch.is_grad_enabled():
        raise InputError(
            "the compiled kernels cannot be differentiated twice",
            given="a backward pass with create_graph=True",
            expected="first derivatives, without create_graph",
            next_step="set MECHTEST_KERNELS=torch for this run, or use float64",
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
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        refuse_second_derivative()
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
