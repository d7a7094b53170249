"""What does an unedited run leave behind, for edits to go on from and to put in?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int64

from mechtest.interventions.plan import Tokens
from mechtest.sites import Site

__all__ = ["STATE_HOOKS", "BaseNeeds", "BaseRun"]

STATE_HOOKS = frozenset({"hook_h", "hook_conv_state"})
"""Hooks of what a run goes on from."""

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


def stacked_needs(parts: Sequence[BaseNeeds]) -> BaseNeeds:
    """Return what runs need together whose prompts stand below one another."""
    sites = dict.fromkeys(site for part in parts for site in part.reads)
    reads = {
        site: torch.cat([part.reads.get(site, torch.zeros_like(part.states)) for part in parts])
        for site in sites
    }
    resid = frozenset[int]().union(*(part.resid for part in parts))
    return BaseNeeds(resid, torch.cat([part.states for part in parts]), reads)


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
    _read: dict[tuple[Site, int], tuple[Tokens, torch.Tensor]] = field(default_factory=dict)

    @property
    def kept(self) -> list[torch.Tensor]:
        """Every activation that was kept."""
        return [*self.resid.values(), *self.h, *self.windows, *self.values.values(), self.last]

    def part(self, start: int, stop: int, needs: BaseNeeds) -> BaseRun:
        """Return the run of some of the prompts; what it holds are views.

        Args:
            start: First prompt.
            stop: One past the last.
            needs: What is to be kept of it, no more than was kept of the whole.
        """
        rows = slice(int(self.starts[start]), int(self.starts[stop]))
        values = {}
        for site in needs.reads:
            counts = self.needs.reads[site].sum(1).cumsum(0)
            before = int(counts[start - 1]) if start else 0
            values[site] = self.values[site][before : int(counts[stop - 1])]
        kept = BaseNeeds(
            needs.resid,
            self.needs.states[start:stop],
            {site: self.needs.reads[site][start:stop] for site in needs.reads},
        )
        return BaseRun(
            kept, self.starts[start : stop + 1] - rows.start, self.first[start:stop],
            {layer: self.resid[layer][rows] for layer in needs.resid}, self.h, self.windows,
            self.slots[start:stop], values, self.last[start:stop],
        )  # fmt: skip

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

    def slot_before_row(self, row: Int64[torch.Tensor, " row"]) -> Int64[torch.Tensor, " row"]:
        """Return the slots of the states before some packed rows."""
        prompt = self.prompt_of_row[row]
        return self.slot_before(prompt, row - self.starts[prompt] + self.first[prompt])

    @cached_property
    def prompt_of_row(self) -> Int64[torch.Tensor, " row"]:
        """Prompt of each packed row."""
        return torch.repeat_interleave(torch.arange(len(self.first)), self.starts.diff())

    def read(self, site: Site, tokens: Tokens) -> torch.Tensor:
        """Return the activations of a site at some tokens, "token ..."."""
        key = (site, id(tokens))
        if key not in self._read:
            value = self._gathered(site, tokens)
            held = _bytes(value) + sum(_bytes(one) for _, one in self._read.values())
            while held > REMEMBERED and self._read:
                held -= _bytes(self._read.pop(next(iter(self._read)))[1])
            self._read[key] = (tokens, value)  # held, so that its id stays its own
        return self._read[key][1]

    def _gathered(self, site: Site, tokens: Tokens) -> torch.Tensor:
        if site.hook in STATE_HOOKS:
            assert site.layer is not None
            slot = self.slots[tokens.prompt, tokens.column + 1].to(self.last.device)
            if site.hook == "hook_conv_state":
                return self.windows[site.layer][slot]
            # A view: what is put in elementwise then stays in the kernels' order.
            return self.h[site.layer][slot].transpose(1, 2)
        kept = self.needs.reads[site].cpu()
        place = torch.full(kept.shape, -1)
        place[kept] = torch.arange(int(kept.sum()))
        values = self.values[site]
        return values[place[tokens.prompt, tokens.column].to(values.device)]


def _bytes(value: torch.Tensor) -> int:
    return value.numel() * value.element_size()
