"""In which order are states edited, where the state after one edit is edited again further on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mechtest.interventions.jobs import RowEdit

__all__ = ["Wave", "tails_of", "waves_of", "window_at"]


@dataclass(frozen=True, eq=False)
class Wave:
    """Edits of states no two of which are in one job.

    Attributes:
        rows: Rows whose state is edited, ascending.
        jobs: Their jobs.
        parts: Edits, which of their rows are meant, and where those stand among `rows`.
    """

    rows: torch.Tensor
    jobs: torch.Tensor
    parts: list[tuple[RowEdit, torch.Tensor, torch.Tensor]]


def waves_of(edits: Sequence[RowEdit]) -> list[Wave]:
    """Sort edits of states: the first of every job, the second, and so on."""
    if not edits:
        return []
    rows = torch.cat([edit.rows for edit in edits]).unique()
    jobs = torch.empty_like(rows)
    for edit in edits:
        jobs[torch.searchsorted(rows, edit.rows)] = edit.jobs
    begins = torch.ones(len(rows), dtype=torch.bool)
    begins[1:] = jobs[1:] != jobs[:-1]
    first = torch.where(begins, torch.arange(len(rows)), 0).cummax(0).values
    rank = torch.arange(len(rows)) - first
    waves = []
    for number in range(int(rank.max()) + 1):
        these = rows[rank == number]
        parts = []
        for edit in edits:
            inside = torch.isin(edit.rows, these).nonzero().flatten()
            if len(inside):
                parts.append((edit, inside, torch.searchsorted(these, edit.rows[inside])))
        waves.append(Wave(these, jobs[rank == number], parts))
    return waves


def tails_of(rows: torch.Tensor, ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all rows from each of `rows` to its end, and where each run starts among them."""
    lengths = ends - rows
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    of = torch.repeat_interleave(torch.arange(len(rows)), lengths)
    return rows[of] + torch.arange(int(starts[-1])) - starts[of], starts


def window_at(
    inner: torch.Tensor,
    rows: torch.Tensor,
    starts: torch.Tensor,
    windows: torch.Tensor,
    segment: torch.Tensor,
) -> torch.Tensor:
    """Return the window after each of `rows`: its last inputs, the segment's own window before."""
    length = windows.shape[1]
    offset = rows[:, None] - length + 1 + torch.arange(length)
    inside = offset >= starts[:, None]
    device = inner.device
    found = inner[offset.clamp(min=0).to(device)]
    behind = (offset - starts[:, None] + length).clamp(0, length - 1)
    before = windows[segment[:, None].to(device), behind.to(device)]
    return torch.where(inside[..., None].to(device), found, before)
