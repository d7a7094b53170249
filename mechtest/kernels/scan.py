"""What does the selective scan give, one position after the other?

This is the reference every faster kernel is compared with: float64 in, float64 out, and each state
can be seen and replaced on its way. With or without the discretized tensors in memory, the same
operations run in the same order, so the two ways agree to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from jaxtyping import Float

OnState = Callable[[int, torch.Tensor], torch.Tensor]


def discretize(
    delta: Float[torch.Tensor, "batch pos d_inner"],
    A: Float[torch.Tensor, "d_inner d_state"],
    B: Float[torch.Tensor, "batch pos d_state"],
) -> tuple[
    Float[torch.Tensor, "batch pos d_inner d_state"],
    Float[torch.Tensor, "batch pos d_inner d_state"],
]:
    """Return A_bar = exp(delta A) and B_bar = delta B (Euler, as all published models do).

    Sources: Gu & Dao 2023, section 2 and the released code; B_bar is not the zero-order hold.
    """
    return torch.exp(delta.unsqueeze(-1) * A), delta.unsqueeze(-1) * B.unsqueeze(2)


def selective_scan(
    x: Float[torch.Tensor, "batch pos d_inner"],
    delta: Float[torch.Tensor, "batch pos d_inner"],
    A: Float[torch.Tensor, "d_inner d_state"],
    B: Float[torch.Tensor, "batch pos d_state"],
    C: Float[torch.Tensor, "batch pos d_state"],
    h_start: Float[torch.Tensor, "batch d_inner d_state"],
    *,
    decays: Float[torch.Tensor, "batch pos d_inner d_state"] | None = None,
    writes: Float[torch.Tensor, "batch pos d_inner d_state"] | None = None,
    on_state: OnState | None = None,
) -> tuple[Float[torch.Tensor, "batch pos d_inner"], Float[torch.Tensor, "batch d_inner d_state"]]:
    """Run h_t = A_bar_t h_{t-1} + B_bar_t x_t and read y_t = h_t C_t.

    Args:
        x: Inputs of the recurrence.
        delta: Step sizes (positive).
        A: Continuous decay (negative).
        B: Input matrix of each position.
        C: Output matrix of each position.
        h_start: State before the first position.
        decays: A_bar, if the caller has it in memory (and may have edited it).
        writes: B_bar x, likewise.
        on_state: Called with (position, state); what it returns is the state from then on.

    Returns:
        (y, state after the last position).

    Numerics: computed in the inputs' dtype. Peak memory without `decays` and `writes` is a few
    states, not one a position.
    Sources: Gu & Dao 2023, algorithm 2.
    """
    # unbind, not indexing: the gradient of x[:, t] is a full-size tensor for every t.
    decay_at = _discretized_steps(delta, A) if decays is None else decays.unbind(1)
    write_at = _write_steps(delta, B, x) if writes is None else writes.unbind(1)
    h = h_start
    y = []
    steps = zip(decay_at, write_at, C.unbind(1), strict=True)
    for pos, (decay, write, read) in enumerate(steps):
        h = h * decay + write
        if on_state is not None:
            h = on_state(pos, h)
        y.append((h @ read.unsqueeze(-1)).squeeze(-1))
    return torch.stack(y, dim=1), h


def _discretized_steps(delta: torch.Tensor, A: torch.Tensor) -> Iterable[torch.Tensor]:
    return (torch.exp(step.unsqueeze(-1) * A) for step in delta.unbind(1))


def _write_steps(delta: torch.Tensor, B: torch.Tensor, x: torch.Tensor) -> Iterable[torch.Tensor]:
    steps = zip(delta.unbind(1), B.unbind(1), x.unbind(1), strict=True)
    return (
        (step.unsqueeze(-1) * into.unsqueeze(1)) * value.unsqueeze(-1)
        for step, into, value in steps
    )
