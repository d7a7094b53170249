"""What does an unedited run leave behind, for edits to go on from and to put in?"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int64

from mechtest.interventions.plan import PlannedEdit
from mechtest.sites import Site

__all__ = ["BaseNeeds", "BaseRun"]

REMEMBERED = 32 * 2**20
"""Bytes of gathered activations kept for the next control at the same place."""


@dataclass(frozen=True, eq=False)
class BaseNeeds:
    """What is to be kept of an unedited run.

    Attributes:
        resid: Layers whose entering residual stream is kept, at all positions.
        states: Positions whose recurrent state and window are kept, in all layers.
        reads: Hooks that are read, and where.
    """

    resid: frozenset[int]
    states: Bool[torch.Tensor, "prompt pos"]
    reads: dict[Site, Bool[torch.Tensor, "prompt pos"]]

    def covers(self, other: BaseNeeds) -> bool:
        """Whether everything `other` asks for is kept here."""
        return (
            self.resid >= other.resid
            and bool((self.states | ~other.states).all())
            and all(
                site in self.reads and bool((self.reads[site] | ~where).all())
                for site, where in other.reads.items()
            )
        )

    def of_prompts(self, start: int, stop: int) -> BaseNeeds:
        """Return what is needed of some of the prompts."""
        reads = {site: where[start:stop] for site, where in self.reads.items()}
        return BaseNeeds(self.resid, self.states[start:stop], reads)

    def joined(self, other: BaseNeeds) -> BaseNeeds:
        """Return what covers both."""
        reads = dict(self.reads)
        for site, where in other.reads.items():
            reads[site] = reads[site] | where if site in reads else where
        return BaseNeeds(self.resid | other.resid, self.states | other.states, reads)


@dataclass(frozen=True, eq=False)
class BaseRun:
    """What was kept of an unedited run over a batch of prompts.

    Attributes:
        needs: What was asked for.
        starts: First packed row of each prompt's tokens, and the number of rows at the end.
        first: Column of each prompt's first token.
        resid: Entering residual stream by layer, "row d_model".
        h: States by layer, "slot d_state d_inner"; slot 0 is the state before any token.
        windows: Convolution windows by layer, "slot window d_inner"; likewise.
        slots: Slot of the state after each position, -1 where it was not kept. Column 0 stands for
            the start of the prompt, column p+1 for position p.
        values: Activations by site, "place ...", at the places `needs.reads` says, in order.
        last: Residual stream after the last layer, at the last position, "prompt d_model".
    """

    needs: BaseNeeds
    starts: Int64[torch.Tensor, " prompt+1"]
    first: Int64[torch.Tensor, " prompt"]
    resid: dict[int, Float[torch.Tensor, "row d_model"]]
    h: list[Float[torch.Tensor, "slot d_state d_inner"]]
    windows: list[Float[torch.Tensor, "slot window d_inner"]]
    slots: Int64[torch.Tensor, "prompt pos+1"]
    values: dict[Site, torch.Tensor]
    last: Float[torch.Tensor, "prompt d_model"]
    _read: dict[int, tuple[PlannedEdit, torch.Tensor]] = field(default_factory=dict)

    def rows(
        self, prompt: Int64[torch.Tensor, " row"], column: Int64[torch.Tensor, " row"]
    ) -> Int64[torch.Tensor, " row"]:
        """Return the packed rows of some tokens."""
        return self.starts[prompt] + column - self.first[prompt]

    def slot_before(
        self, prompt: Int64[torch.Tensor, " row"], column: Int64[torch.Tensor, " row"]
    ) -> Int64[torch.Tensor, " row"]:
        """Return the slots of the states a run from `column` on starts from."""
        at_start = column == self.first[prompt]
        return torch.where(at_start, 0, self.slots[prompt, column])

    def read(self, planned: PlannedEdit) -> torch.Tensor:
        """Return the activations at the places of an edit, "place ..."."""
        known = self._read.get(id(planned))
        if known is None:
            known = self._read[id(planned)] = (planned, self._gathered(planned))
            while sum(_bytes(value) for _, value in self._read.values()) > REMEMBERED:
                if len(self._read) == 1:
                    break
                self._read.pop(next(iter(self._read)))
        return known[1]

    def _gathered(self, planned: PlannedEdit) -> torch.Tensor:
        assert planned.where is not None
        prompt, column = planned.places
        if planned.site.hook == "hook_h":
            slot = self.slots[prompt, column + 1].to(self.h[0].device)
            layer = planned.site.layer
            assert layer is not None
            # A view: what is put in elementwise then stays in the kernels' order.
            return self.h[layer][slot].transpose(1, 2)
        if planned.site.hook == "hook_conv_state":
            slot = self.slots[prompt, column + 1].to(self.h[0].device)
            layer = planned.site.layer
            assert layer is not None
            return self.windows[layer][slot]
        kept = self.needs.reads[planned.site].cpu()
        place = torch.full(kept.shape, -1)
        place[kept] = torch.arange(int(kept.sum()))
        values = self.values[planned.site]
        return values[place[prompt, column].to(values.device)]


def _bytes(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()
