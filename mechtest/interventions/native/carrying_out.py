"""How do the hooks of a model carry out an operator on a layer?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Bool

from mechtest.interventions.circuit import Circuit
from mechtest.interventions.native.operator import LayerRun, NativeOperator
from mechtest.interventions.plan import PlannedEdit, channel_mask
from mechtest.models import HookedMamba, HookPoint
from mechtest.models.layers import MambaMixer
from mechtest.sites.table import HOOKS_BY_NAME

__all__ = ["operator_hooks"]


@dataclass(eq=False)
class _LayerHooks:
    """One layer's part of an operator; what it has read, it holds until it has edited.

    Attributes:
        operator: What is done.
        layer: Block.
        mixer: Its weights.
        site: What the circuit names, without position.
        where: Prompts, positions and channels.
        real: False at padding.
        sender: Positions the operator names.
        touched: Set where an activation of a prompt was changed, unless None.
        apply: False looks and changes nothing, so that results agree to the last bit.
    """

    operator: NativeOperator
    layer: int
    mixer: MambaMixer
    site: str
    where: torch.Tensor
    real: torch.Tensor
    sender: torch.Tensor | None
    touched: torch.Tensor | None
    apply: bool
    _own: dict[str, torch.Tensor] = field(default_factory=dict)
    _twin: dict[str, torch.Tensor] = field(default_factory=dict)

    def pairs(self) -> Iterator[tuple[str, Callable]]:
        """Yield (hook name, function)."""
        changed = self.operator.hooks_changed
        for hook in self.operator.hooks_read:
            yield f"blocks.{self.layer}.{hook}", self._reading(hook)
        for hook in changed:
            yield f"blocks.{self.layer}.{hook}", self._editing(hook, last=hook == changed[-1])

    def _reading(self, hook: str) -> Callable:
        def read(value: torch.Tensor, point: HookPoint) -> None:
            del point
            self._own[hook], self._twin[hook] = self._halves(hook, value)

        return read

    def _editing(self, hook: str, *, last: bool) -> Callable:
        def edit(value: torch.Tensor, point: HookPoint) -> torch.Tensor | None:
            del point
            if not self.apply:
                return None
            old, other = self._halves(hook, value)
            here = LayerRun(
                self.site, self.mixer, self._own, self._twin, self.where, self.real, self.sender
            )
            new = self.operator.edited(hook, old, here)
            if self.touched is not None:
                self.touched |= (new != old).flatten(1).any(1)
            if last:  # one layer's activations at a time
                self._own, self._twin = {}, {}
            return torch.cat([new, other]) if self.operator.needs_twin else new

        return edit

    def _halves(self, hook: str, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what belongs to the run intervened in, and what to its twin below it."""
        if not self.operator.needs_twin or HOOKS_BY_NAME[hook].axes[0] != "batch":
            return value, value
        own, twin = value.chunk(2)
        return own, twin


def operator_hooks(
    operator: NativeOperator,
    model: HookedMamba,
    plan: Sequence[tuple[Circuit, PlannedEdit]],
    real: Bool[torch.Tensor, "batch pos"],
    sender: Bool[torch.Tensor, "batch pos"] | None,
    touched: Bool[torch.Tensor, " batch"] | None,
    *,
    apply: bool = True,
) -> list[tuple[str, Callable]]:
    """Return (hook name, function) pairs that carry out an operator on one batch.

    Edits of one layer are made at once, so that what several circuits name adds up to one place.
    Where the operator needs the twin, the batch holds the twin's prompts below its own.

    Memory: the activations the operator reads, of one layer at a time.

    Args:
        operator: What is done.
        model: The model.
        plan: Where, for the prompts of this batch.
        real: False at padding.
        sender: Positions the operator names.
        touched: Set where an activation of a prompt was changed, unless None.
        apply: False looks and changes nothing.

    Raises:
        ShapeError: Channels the model does not have.
    """
    where: dict[int, torch.Tensor] = {}
    sites: dict[int, str] = {}
    shape = torch.Size([model.cfg.E])
    if operator.site == "hook_A_bar":
        shape = torch.Size([model.cfg.E, model.cfg.N])
    for circuit, edit in plan:
        layer = edit.site.layer
        assert layer is not None
        channels = torch.ones(model.cfg.E, dtype=torch.bool)
        if circuit.channels is not None:
            channels = channel_mask(edit.site, circuit.channels, shape).flatten()
        place = edit.known_spots.mask.to(real.device).unsqueeze(-1) & channels.to(real.device)
        where[layer] = where[layer] | place if layer in where else place
        sites[layer] = edit.name
    found: list[tuple[str, Callable]] = []
    for layer, place in where.items():
        mixer = cast("MambaMixer", model.blocks[layer].mixer)
        hooks = _LayerHooks(
            operator, layer, mixer, sites[layer], place, real, sender, touched,
            apply,
        )  # fmt: skip
        found += hooks.pairs()
    return found
