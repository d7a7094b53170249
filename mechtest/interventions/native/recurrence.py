"""What does a changed recurrence read out, and how much of it is the change?

h_t = A_bar_t h_{t-1} + w_t with w_t = Delta_t B_t x_t, read as y_t = C_t h_t. Everything here is a
difference to that, computed beside it step by step: where nothing is changed it is exactly zero,
whichever kernel computed y itself.

Memory: one or two states "batch d_inner d_state" and one result "batch pos d_inner", whatever the
number of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float

from mechtest.interventions.native.operator import LayerRun
from mechtest.models.layers import at_least_float32

__all__ = ["RECURRENCE_HOOKS", "ChangeStep", "Recurrence"]

RECURRENCE_HOOKS = ("hook_ssm_input", "hook_A", "hook_B", "hook_C", "hook_delta")
"""What a recurrence is made of."""

ChangeStep = Callable[[int, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Called with (position, decay, write), "batch d_inner d_state"; returns what they become."""


@dataclass(frozen=True, eq=False)
class Recurrence:
    """The parameters of one layer's recurrence, from the first token on.

    Attributes:
        x: Inputs, zero at padding.
        delta: Step sizes.
        A: Continuous decay (negative).
        B: Input matrix.
        C: Output matrix.
    """

    x: Float[torch.Tensor, "batch pos d_inner"]
    delta: Float[torch.Tensor, "batch pos d_inner"]
    A: Float[torch.Tensor, "d_inner d_state"]
    B: Float[torch.Tensor, "batch pos d_state"]
    C: Float[torch.Tensor, "batch pos d_state"]

    @classmethod
    def of(cls, here: LayerRun, values: Mapping[str, torch.Tensor] | None = None) -> Recurrence:
        """Return the recurrence of a layer in this pass, or of other values of its hooks."""
        values = here.own if values is None else values
        compute = at_least_float32(values["hook_ssm_input"].dtype)
        x, A, B, C, delta = (values[hook].to(compute) for hook in RECURRENCE_HOOKS)
        return cls(here.masked(x), delta, A, B, C)

    def step(self, pos: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (decay, write) of one position, "batch d_inner d_state" each."""
        delta = self.delta[:, pos].unsqueeze(-1)
        write = delta * self.B[:, pos].unsqueeze(1) * self.x[:, pos].unsqueeze(-1)
        return torch.exp(delta * self.A), write

    def read(self, pos: int, h: torch.Tensor) -> torch.Tensor:
        """Return C h at one position, "batch d_inner"."""
        return (h @ self.C[:, pos].unsqueeze(-1)).squeeze(-1)

    def changed_readout(self, change: ChangeStep) -> Float[torch.Tensor, "batch pos d_inner"]:
        """Return what y gains when decays and writes are others."""
        h = self.x.new_zeros(*self.x[:, 0].shape, self.A.shape[1])
        gained = torch.zeros_like(h)
        found = []
        for pos in range(self.x.shape[1]):
            decay, write = self.step(pos)
            new_decay, new_write = change(pos, decay, write)
            gained = new_decay * gained + (new_decay - decay) * h + (new_write - write)
            h = decay * h + write
            found.append(self.read(pos, gained))
        return torch.stack(found, dim=1)

    def carried_readout(
        self, states: Recurrence | None = None
    ) -> Float[torch.Tensor, "batch pos d_inner"]:
        """Return C_t A_bar_t h_{t-1}: what y owes to the state that is carried in.

        Args:
            states: Take h from this recurrence; decays and C stay this one's.
        """
        carried = (self if states is None else states)._states_before()
        return torch.stack(
            [self.read(pos, self.step(pos)[0] * h) for pos, h in enumerate(carried)], dim=1
        )

    def own_readout(self) -> Float[torch.Tensor, "batch pos d_inner"]:
        """Return C_t w_t: what y owes to the position itself."""
        return torch.stack(
            [self.read(pos, self.step(pos)[1]) for pos in range(self.x.shape[1])], dim=1
        )

    def _states_before(self) -> Iterator[torch.Tensor]:
        h = self.x.new_zeros(*self.x[:, 0].shape, self.A.shape[1])
        for pos in range(self.x.shape[1]):
            yield h
            decay, write = self.step(pos)
            h = decay * h + write
