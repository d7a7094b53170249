"""How do the segment kernels serve hooks on single states?

States that are only read are kept on the way. Where one may be edited, the scan stops, and goes on
from what the hook returned; the position's own read-out is then taken from the new state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float

from mechtest.kernels.segments import ScannedSegments, prepare_decay, scan_segments
from mechtest.models.hook_points import PositionHooks

__all__ = ["Parameters", "ScanInputs", "rows_of", "scan_through_hooks", "starts_of"]


class Parameters(NamedTuple):
    """What a step of the recurrence is made of; `delta` comes before softplus where `raw`."""

    A: Float[torch.Tensor, "d_inner d_state"]
    B: Float[torch.Tensor, "batch pos d_state"]
    C: Float[torch.Tensor, "batch pos d_state"]
    delta: Float[torch.Tensor, "batch pos d_inner"]
    raw: bool


@dataclass(frozen=True, eq=False)
class ScanInputs:
    """Inputs of the recurrence for a batch of prompts.

    Attributes:
        x: "batch pos d_inner".
        step: See `Parameters`.
        D: Skip weights, None to give y alone.
        gate: "batch pos d_inner", None likewise.
    """

    x: torch.Tensor
    step: Parameters
    D: torch.Tensor | None
    gate: torch.Tensor | None


def scan_through_hooks(
    inputs: ScanInputs,
    h_start: Float[torch.Tensor, "batch d_inner d_state"],
    states: PositionHooks,
) -> tuple[Float[torch.Tensor, "batch pos d_inner"], Float[torch.Tensor, "batch d_inner d_state"]]:
    """Run the recurrence past the hooks of its states.

    Returns:
        (read-outs, gated if `inputs` has a gate; state after the last position).
    """
    batch, n_pos, width = inputs.x.shape
    decay = prepare_decay(inputs.step.A)
    cuts = states.edits_before(n_pos)
    h = h_start.transpose(1, 2).contiguous()
    outs = []
    for number, (start, end) in enumerate(zip([0, *cuts], [*cuts, n_pos - 1], strict=True)):
        given = number > 0
        reads = [p for p in states.active(n_pos) if start + given <= p <= end and p not in cuts]
        scanned = _piece(inputs, decay, h, slice(start, end + 1), reads, given=given)
        kept = scanned.kept.view(batch, len(reads), *h.shape[1:])
        for index, position in enumerate(reads):
            states(position, kept[:, index].transpose(1, 2).contiguous())
        out, h = scanned.out.view(batch, -1, width), scanned.end
        if number < len(cuts):
            h = states(end, h.transpose(1, 2).contiguous()).transpose(1, 2).contiguous()
            out = out[:, :-1]
        outs.append(out)
    out = outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)
    return out, h.transpose(1, 2).contiguous()


def _piece(
    inputs: ScanInputs,
    decay: torch.Tensor,
    h: torch.Tensor,
    part: slice,
    reads: list[int],
    *,
    given: bool,
) -> ScannedSegments:
    """Run some positions of all prompts; `given` says that `h` is the state after the first."""

    def rows(value: torch.Tensor) -> torch.Tensor:
        return value[:, part].flatten(0, 1)

    x, step = inputs.x, inputs.step
    batch = len(x)
    return scan_segments(
        rows(x),
        rows(step.delta),
        decay,
        rows(step.B),
        rows(step.C),
        h,
        starts_of(x[:, part]),
        D=inputs.D,
        gate=None if inputs.gate is None else rows(inputs.gate),
        given=torch.ones(batch, dtype=torch.bool, device=x.device) if given else None,
        keep=rows_of(x[:, part], [position - part.start for position in reads]),
        softplus=step.raw,
    )


def starts_of(value: Float[torch.Tensor, "batch pos width"]) -> torch.Tensor:
    """Return where each prompt starts once batch and position are one axis."""
    batch, n_pos = value.shape[:2]
    return torch.arange(0, batch * n_pos + 1, n_pos)


def rows_of(value: torch.Tensor, positions: list[int]) -> torch.Tensor:
    """Return the rows of some positions of every prompt, ascending."""
    batch, n_pos = value.shape[:2]
    first = torch.arange(0, batch * n_pos, n_pos)
    return (first[:, None] + torch.tensor(positions, dtype=torch.int64)).flatten()
