"""How do packed segments go through a scan kernel that knows no start state and no state read-out?

Such a kernel takes a rectangle "segment d_inner step" and starts from zero. Extra steps do the
rest, all of them exact:

- in front of each segment, d_state steps write its start state: step n has delta 2^-40 (no decay),
  x 2^40 h[n] and a B that is one at n;
- after a row whose state is wanted, d_state steps read it: step n has delta 0 (nothing is written,
  nothing decays) and a C that is one at n, so that its output is h[n], with its gradient;
- a first row that is only read, and the padding on the right, have delta 0 as well.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int

__all__ = ["MAX_ELEMENTS", "ScanInputs", "SegmentGroup", "group_segments", "scan_group", "take"]

MAX_ELEMENTS = 2**28
"""Largest tensor of one call (1 GiB of float32), unless a single segment is larger; well below the
32-bit offsets inside the kernels."""

KERNEL_CHUNK = 2048
"""Steps after which the kernel stores its states."""

SMALL_STEP = 2.0**-40
"""A power of two, so that x / SMALL_STEP * SMALL_STEP is x to the last bit."""


class ScanInputs(NamedTuple):
    """What the recurrence of all segments is run on, in the order of `scan_segments`.

    Attributes:
        x: Inputs of the recurrence.
        delta: Step sizes, after softplus.
        decay: As `prepare_decay` gives it, to the base 2.
        B: Input matrix of each row.
        C: Output matrix of each row.
        h_start: State before each segment.
        given: True where `h_start` is the state after the first row, which is then only read.
    """

    x: Float[torch.Tensor, "row d_inner"]
    delta: Float[torch.Tensor, "row d_inner"]
    decay: Float[torch.Tensor, "d_state d_inner"]
    B: Float[torch.Tensor, "row d_state"]
    C: Float[torch.Tensor, "row d_state"]
    h_start: Float[torch.Tensor, "segment d_state d_inner"]
    given: Bool[torch.Tensor, " segment"] | None


@dataclass(frozen=True, slots=True)
class SegmentGroup:
    """Segments that share one kernel call; all tensors are on the CPU.

    Attributes:
        segments: Which ones, ascending.
        rows: Their packed rows.
        owner: For each row, the index of its segment in `segments`.
        n_rows: Rows of each segment.
        is_short: True when these are too short for a kernel.
    """

    segments: Int[torch.Tensor, " group"]
    rows: Int[torch.Tensor, " row"]
    owner: Int[torch.Tensor, " row"]
    n_rows: Int[torch.Tensor, " group"]
    is_short: bool

    @property
    def last_rows(self) -> Int[torch.Tensor, " group"]:
        """The last packed row of each segment."""
        return self.rows[self.n_rows.cumsum(0) - 1]


def take(rows: torch.Tensor, index: Int[torch.Tensor, " taken"]) -> torch.Tensor:
    """Return rows[index] for an index on the CPU; all rows in their order are not copied."""
    if len(index) == len(rows) and torch.equal(index, torch.arange(len(rows))):
        return rows
    return rows[index.to(rows.device)]


def group_segments(
    starts: Int[torch.Tensor, " bounds"],
    read_rows: Int[torch.Tensor, " read"],
    d_inner: int,
    d_state: int,
    short: int,
) -> list[SegmentGroup]:
    """Return groups, each of them for one call: segments of similar length.

    Padding at most doubles a group: the numbers of steps of its segments lie between two
    neighbouring powers of two. Short segments are a group of their own, of any size.

    Args:
        starts: First row of each segment, and the number of rows at the end.
        read_rows: Rows whose states are read out, ascending.
        d_inner: Channels.
        d_state: States a channel.
        short: Segments of at most so many rows are short.
    """
    lengths = starts.diff()
    n_steps = lengths + d_state * (1 + torch.searchsorted(read_rows, starts).diff())
    size = (n_steps - 1).double().frexp().exponent  # the power of two that holds them
    size[lengths <= short] = 0
    groups = []
    for exponent in size.unique().tolist():
        members = (size == exponent).nonzero().flatten()
        if exponent == 0:
            groups.append(_group(members, starts, is_short=True))
            continue
        longest = int(n_steps[members].max())
        stored = d_state * -(-longest // KERNEL_CHUNK)
        at_once = max(1, MAX_ELEMENTS // (d_inner * max(longest, stored)))
        groups += [_group(part, starts, is_short=False) for part in members.split(at_once)]
    return groups


def _group(segments: torch.Tensor, starts: torch.Tensor, *, is_short: bool) -> SegmentGroup:
    n_rows = starts.diff()[segments]
    owner = torch.repeat_interleave(torch.arange(len(segments)), n_rows)
    within = torch.arange(len(owner)) - (n_rows.cumsum(0) - n_rows)[owner]
    return SegmentGroup(segments, starts[segments][owner] + within, owner, n_rows, is_short)


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where rows and read-outs stand in the rectangle; all tensors are on the GPU."""

    owner: torch.Tensor
    place: torch.Tensor
    read_owner: torch.Tensor
    read_place: torch.Tensor
    n_steps: int


def _lay_out(
    group: SegmentGroup, read_rows: torch.Tensor, d_state: int, device: torch.device
) -> _Layout:
    read = torch.searchsorted(group.rows, read_rows)
    width = torch.ones_like(group.rows)
    width[read] += d_state
    before = width.cumsum(0) - width
    first = group.n_rows.cumsum(0) - group.n_rows
    place = d_state + before - before[first][group.owner]
    n_steps = int((place + width).max())
    read_place = (place[read] + 1).unsqueeze(1) + torch.arange(d_state)
    return _Layout(
        group.owner.to(device),
        place.to(device),
        group.owner[read].unsqueeze(1).to(device),
        read_place.to(device),
        n_steps,
    )


def scan_group(
    kernel: Callable[..., Any],
    group: SegmentGroup,
    read_rows: Int[torch.Tensor, " read"],
    inputs: ScanInputs,
) -> tuple[
    Float[torch.Tensor, "group_row d_inner"],
    Float[torch.Tensor, "read d_state d_inner"],
    Float[torch.Tensor, "group d_state d_inner"],
]:
    """Run one group through the kernel.

    Args:
        kernel: `selective_scan_fn`.
        group: The segments to run.
        read_rows: Rows of the group whose states are read out, in any order.
        inputs: Those of all segments.

    Returns:
        (y of the group's rows, states read, end states). Gradients flow through the first two; the
        kernel has none for the end states.

    Sources: Gu & Dao 2023, section 3.3.2 (the kernel); the extra steps are ours.
    """
    d_state = len(inputs.decay)
    layout = _lay_out(group, read_rows, d_state, inputs.x.device)
    one_hot = torch.eye(d_state, dtype=inputs.x.dtype, device=inputs.x.device)

    def dense(rows: torch.Tensor) -> torch.Tensor:
        steps = rows.new_zeros(len(group.segments), rows.shape[1], layout.n_steps)
        steps.transpose(1, 2)[layout.owner, layout.place] = take(rows, group.rows)
        return steps

    x, delta, B, C = dense(inputs.x), dense(inputs.delta), dense(inputs.B), dense(inputs.C)
    x[:, :, :d_state] = take(inputs.h_start, group.segments).transpose(1, 2) / SMALL_STEP
    delta[:, :, :d_state] = SMALL_STEP
    B[:, :, :d_state] = one_hot
    C.transpose(1, 2)[layout.read_owner, layout.read_place] = one_hot
    if inputs.given is not None:
        only_read = take(inputs.given, group.segments).unsqueeze(1)
        delta[:, :, d_state] = delta[:, :, d_state].masked_fill(only_read, 0.0)
    A = (inputs.decay.T * math.log(2)).contiguous()
    out, last = kernel(x, delta, A, B, C, return_last_state=True)
    by_step = out.transpose(1, 2)
    return (
        by_step[layout.owner, layout.place],
        by_step[layout.read_owner, layout.read_place],
        last.transpose(1, 2),
    )
