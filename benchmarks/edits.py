"""Which hook functions do the comparisons use? The same ones for every library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

HookFunction = Callable[..., torch.Tensor | None]


def changed_by(change: Callable[[torch.Tensor], torch.Tensor | None]) -> HookFunction:
    """Return a hook that applies a function of the value alone."""

    def edit(value: torch.Tensor, hook: Any) -> torch.Tensor | None:  # noqa: ARG001 - the protocol
        return change(value)

    return edit


def taken_from(cache: Mapping[str, torch.Tensor]) -> HookFunction:
    """Return a hook that puts another run's value in place."""

    def edit(_value: torch.Tensor, hook: Any) -> torch.Tensor:
        return cache[hook.name]

    return edit


def taken_at(position: int, cache: Mapping[str, torch.Tensor]) -> HookFunction:
    """Return a hook that edits one position in place, as the README's second example does."""

    def edit(value: torch.Tensor, hook: Any) -> torch.Tensor:
        value[:, position] = cache[hook.name][:, position]
        return value

    return edit
