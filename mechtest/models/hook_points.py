"""What happens at one hook: who is called, with what, and what comes back?

A hook point is a named identity. A hook function gets a copy of the tensor, so that editing it in
place changes this point and nothing that was cached or computed before it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch

from mechtest.errors import HookOutputError, SiteNotReachedError

HookFunction = Callable[..., "torch.Tensor | None"]
Direction = Literal["fwd", "bwd"]
Index = tuple[int | slice | list[int], ...]


@dataclass(eq=False)
class HookHandle:
    """One function on one hook point.

    Attributes:
        fn: Called as `fn(tensor, hook)`; a returned tensor replaces the value, None keeps it.
        is_permanent: Survives `reset_hooks` unless that asks for permanent ones too.
        level: Nesting depth of the context that installed it.
        index: Indices of the part the function sees, None for the whole tensor.
        reads_only: The function only looks: it gets the value itself, and its result is ignored.
        fired: How often it was called.
    """

    fn: HookFunction
    is_permanent: bool = False
    level: int | None = None
    index: Index | None = None
    reads_only: bool = False
    fired: int = 0
    by_keyword: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        # Readers take the point by position; looking is slow, and a cache has hundreds of them.
        self.by_keyword = not self.reads_only and _takes_keyword_hook(self.fn)

    def call(self, value: torch.Tensor, point: HookPoint) -> torch.Tensor:
        """Run the function on `value` and return the value from here on."""
        self.fired += 1
        part = value if self.index is None else value[self.index]
        if self.reads_only:
            self._run(part, point)
            return value
        part = part.clone()
        returned = self._run(part, point)
        out = part if returned is None else checked_hook_output(returned, part, point.name)
        if self.index is None:
            return out
        edited = value.clone()
        edited[self.index] = out
        return edited

    def _run(self, part: torch.Tensor, point: HookPoint) -> object:
        return self.fn(part, hook=point) if self.by_keyword else self.fn(part, point)


class HookPoint:
    """A named identity in the computation, as in TransformerLens.

    Args:
        name: Full name, for example `blocks.1.hook_h.7`.

    Attributes:
        fwd_hooks: Handles called in the forward pass, in order.
        bwd_hooks: Handles called with the gradient of this value.
        ctx: Scratch space for hook functions.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.fwd_hooks: list[HookHandle] = []
        self.bwd_hooks: list[HookHandle] = []
        self.ctx: dict[str, Any] = {}

    @property
    def has_hooks(self) -> bool:
        """True when anybody listens, in either direction."""
        return bool(self.fwd_hooks or self.bwd_hooks)

    def layer(self) -> int:
        """Return the layer this hook belongs to.

        Raises:
            ValueError: A hook of the model, not of a block.
        """
        parts = self.name.split(".")
        if parts[0] != "blocks":
            raise ValueError(f"{self.name} belongs to no layer")
        return int(parts[1])

    def handles(self, direction: Direction) -> list[HookHandle]:
        """Return the handles of one direction (the list itself)."""
        return self.fwd_hooks if direction == "fwd" else self.bwd_hooks

    def add_hook(
        self,
        hook: HookFunction,
        dir: Direction = "fwd",  # noqa: A002 - TransformerLens's keyword
        is_permanent: bool = False,
        level: int | None = None,
        prepend: bool = False,
    ) -> HookHandle:
        """Install `hook(tensor, hook)` here.

        Args:
            hook: Called with the value (or its gradient for `dir="bwd"`) and this point.
            dir: `fwd` or `bwd`.
            is_permanent: Keep it through `reset_hooks`.
            level: Nesting depth, for contexts.
            prepend: Call it before those already here.
        """
        handle = HookHandle(hook, is_permanent=is_permanent, level=level)
        self.install(handle, dir, prepend=prepend)
        return handle

    def add_perma_hook(self, hook: HookFunction, dir: Direction = "fwd") -> HookHandle:  # noqa: A002
        """Install a hook that `reset_hooks` leaves in place."""
        return self.add_hook(hook, dir=dir, is_permanent=True)

    def install(self, handle: HookHandle, direction: Direction, *, prepend: bool = False) -> None:
        """Put a prepared handle here."""
        handles = self.handles(direction)
        handles.insert(0 if prepend else len(handles), handle)

    def remove(self, handle: HookHandle) -> None:
        """Take one handle out, wherever it is."""
        for handles in (self.fwd_hooks, self.bwd_hooks):
            if handle in handles:
                handles.remove(handle)

    def remove_hooks(
        self,
        dir: Literal["fwd", "bwd", "both"] = "fwd",  # noqa: A002 - TransformerLens's keyword
        including_permanent: bool = False,
        level: int | None = None,
    ) -> None:
        """Take hooks out: all of a direction, or only those of one nesting depth."""
        for direction in ("fwd", "bwd") if dir == "both" else (dir,):
            handles = self.handles(direction)
            handles[:] = [
                handle
                for handle in handles
                if (handle.is_permanent and not including_permanent)
                or (level is not None and handle.level != level)
            ]

    def clear_context(self) -> None:
        """Empty `ctx`."""
        self.ctx = {}

    def __call__(self, value: torch.Tensor) -> torch.Tensor:
        """Pass `value` through every forward hook and register the backward ones."""
        for handle in self.fwd_hooks:
            value = handle.call(value, self)
        return self._watch_gradient(value) if self.bwd_hooks else value

    def _watch_gradient(self, value: torch.Tensor) -> torch.Tensor:
        if not torch.is_grad_enabled():
            raise SiteNotReachedError(
                f"a backward hook on {self.name} can never fire: gradients are off",
                given="bwd_hooks inside torch.no_grad() or inference_mode()",
                next_step="run with gradients enabled, then call .backward() on the result",
            )
        if not value.requires_grad:  # a constant, such as the zero state at the start
            value = value.detach().requires_grad_()
        # A fresh alias: the same tensor may pass several points, each with its own gradient.
        value = value.view_as(value)
        # The handles of this very pass: backward usually runs after the context has closed.
        handles = tuple(self.bwd_hooks)

        def run(grad: torch.Tensor) -> torch.Tensor:
            for handle in handles:
                grad = handle.call(grad, self)
            return grad

        value.register_hook(run)
        return value

    def __repr__(self) -> str:
        return f"HookPoint({self.name!r}, fwd={len(self.fwd_hooks)}, bwd={len(self.bwd_hooks)})"


class PositionHooks:
    """The hook points of one per-position hook: `hook_h.0`, `hook_h.1`, made when first named.

    Args:
        name: Name without a position, for example `blocks.1.hook_h`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.points: dict[int, HookPoint] = {}

    def at(self, position: int) -> HookPoint:
        """Return the hook point of one position."""
        if position not in self.points:
            self.points[position] = HookPoint(f"{self.name}.{position}")
        return self.points[position]

    @property
    def has_hooks(self) -> bool:
        """True when anybody listens at any position."""
        return any(point.has_hooks for point in self.points.values())

    def active(self, n_pos: int) -> list[int]:
        """Return the positions below `n_pos` where anybody listens, ascending."""
        return sorted(p for p, point in self.points.items() if p < n_pos and point.has_hooks)

    def edits_before(self, n_pos: int) -> list[int]:
        """Return the positions below `n_pos` where somebody may change the value or its gradient.

        The others only read, so what comes after them need not wait.
        """
        return [
            position
            for position in self.active(n_pos)
            if self.points[position].bwd_hooks
            or not all(handle.reads_only for handle in self.points[position].fwd_hooks)
        ]

    def __call__(self, position: int, value: torch.Tensor) -> torch.Tensor:
        """Pass `value` through the hooks of one position."""
        point = self.points.get(position)
        return value if point is None else point(value)


def checked_hook_output(out: object, value: torch.Tensor, name: str) -> torch.Tensor:
    """Return `out` if it can stand where `value` stood; raise HookOutputError otherwise."""
    if not isinstance(out, torch.Tensor):
        raise HookOutputError(
            f"the hook on {name} returned {type(out).__name__}",
            given=type(out).__name__,
            expected="a tensor, or None to keep the value",
        )
    same = (out.shape, out.dtype, out.device) == (value.shape, value.dtype, value.device)
    if not same:
        raise HookOutputError(
            f"the hook on {name} returned a tensor that does not fit",
            given=f"{tuple(out.shape)} {out.dtype} on {out.device}",
            expected=f"{tuple(value.shape)} {value.dtype} on {value.device}",
            next_step="prompts of different lengths? patch position by position, with equal shapes",
        )
    return out


def _takes_keyword_hook(fn: HookFunction) -> bool:
    try:
        return "hook" in inspect.signature(fn).parameters
    except (TypeError, ValueError):  # builtins without a signature
        return False
