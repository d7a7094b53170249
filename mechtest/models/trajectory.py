"""How are the states of one layer run again, from the last one that is known?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from mechtest.kernels.segments import prepare_decay, scan_segments


@dataclass(eq=False)
class Trajectory:
    """The parameters of one layer's recurrence, and its states at some positions.

    Attributes:
        x: Inputs "batch pos d_inner", as the recurrence used them.
        delta: Step sizes.
        A: Continuous decay "d_inner d_state".
        B: Input matrix "batch pos d_state".
        h_start: State before the first position.
        packed: Run the segment kernels' arithmetic instead of the step-by-step scan's.
        states: States known, by position.
    """

    x: torch.Tensor
    delta: torch.Tensor
    A: torch.Tensor
    B: torch.Tensor
    h_start: torch.Tensor
    packed: bool
    states: dict[int, torch.Tensor] = field(default_factory=dict)

    def nearest(self, position: int) -> tuple[int, torch.Tensor]:
        """Return the last known position up to `position` (-1 is the start) and its state."""
        at = max((known for known in self.states if known <= position), default=-1)
        return at, self.h_start if at < 0 else self.states[at]

    def run_on(self, after: int, h: torch.Tensor, wanted: Sequence[int]) -> Iterator[torch.Tensor]:
        """Yield the states "batch d_inner d_state" at ascending positions behind `after`."""
        if self.packed:
            yield from self._run_packed(after, h, wanted)
            return
        remaining = iter(wanted)
        target = next(remaining, None)
        position = after
        while target is not None:
            position += 1
            delta = self.delta[:, position].unsqueeze(-1)
            into_state = delta * self.B[:, position].unsqueeze(1)
            h = h * torch.exp(delta * self.A) + into_state * self.x[:, position].unsqueeze(-1)
            if position == target:
                yield h
                target = next(remaining, None)

    def _run_packed(
        self, after: int, h: torch.Tensor, wanted: Sequence[int]
    ) -> Iterator[torch.Tensor]:
        if not wanted:
            return
        n_pos, batch = wanted[-1] - after, len(h)
        x, delta, B = (
            part[:, after + 1 : wanted[-1] + 1].reshape(batch * n_pos, -1)
            for part in (self.x, self.delta, self.B)
        )
        keep = torch.tensor([p - after - 1 for p in wanted])
        keep = (torch.arange(0, batch * n_pos, n_pos).unsqueeze(1) + keep).flatten()
        starts = torch.arange(0, batch * n_pos + 1, n_pos)
        start = h.transpose(1, 2).contiguous()
        kept = scan_segments(x, delta, prepare_decay(self.A), B, B, start, starts, keep=keep).kept
        for h_t in kept.view(batch, len(wanted), *kept.shape[1:]).unbind(1):
            yield h_t.transpose(1, 2).contiguous()
