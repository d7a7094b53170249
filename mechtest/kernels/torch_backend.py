"""How are the segment kernels written in torch alone: on any device, in any dtype?

The fallback, and what the gradients of the others are compared with. Segments are sorted by length,
so that at step t those still running are the first ones, as in a packed sequence.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

__all__ = ["TorchBackend"]


class TorchBackend:
    """The segment kernels in torch; see `mechtest.kernels.segments` for the arguments."""

    name = "torch"

    def conv(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        windows: torch.Tensor,
        starts: torch.Tensor,
        activate: bool,
    ) -> torch.Tensor:
        """Run `conv_segments`: each tap gathers from rows with their windows in front."""
        n_before = windows.shape[1]
        lengths = starts.diff()
        segment = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        row = torch.arange(len(rows)) + (segment + 1) * n_before
        padded = rows.new_empty(len(rows) + windows.shape[0] * n_before, rows.shape[1])
        row = row.to(rows.device)
        padded[row] = rows
        first = (starts[:-1] + torch.arange(len(lengths)) * n_before).to(rows.device)
        for tap in range(n_before):
            padded[first + tap] = windows[:, tap]
        out = padded[row - n_before] * weight[:, 0, 0]
        for tap in range(1, n_before + 1):
            out = out + padded[row - n_before + tap] * weight[:, 0, tap]
        out = out if bias is None else out + bias
        return F.silu(out) if activate else out

    def scan(
        self,
        x: torch.Tensor,
        delta: torch.Tensor,
        decay: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        h_start: torch.Tensor,
        starts: torch.Tensor,
        D: torch.Tensor | None,
        gate: torch.Tensor | None,
        given: torch.Tensor | None,
        keep: torch.Tensor | None,
        softplus: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Run `scan_segments`, one position of all segments at a time."""
        if softplus:
            delta = F.softplus(delta)
        lengths, order = starts.diff().sort(descending=True, stable=True)
        first = starts[:-1][order]
        given_first = None if given is None else given[order.to(given.device)]
        h = h_start[order.to(h_start.device)]
        y_parts, row_parts, ends, kept = [], [], [], {}
        wanted = {} if keep is None else {int(row): None for row in keep}
        for step in range(int(lengths[0]) if len(lengths) else 0):
            running = int((lengths > step).sum())
            if running < len(h):
                ends.append(h[running:])
                h = h[:running]
            rows = first[:running] + step
            at = rows.to(x.device)
            stepped = h * torch.exp2(delta[at].unsqueeze(1) * decay) + (
                (delta[at] * x[at]).unsqueeze(1) * B[at].unsqueeze(2)
            )
            if step == 0 and given_first is not None:
                stepped = torch.where(given_first[:, None, None], h, stepped)
            h = stepped
            y_parts.append(torch.bmm(C[at].unsqueeze(1), h).squeeze(1))
            row_parts.append(at)
            if wanted:
                for place, row in enumerate(rows.tolist()):
                    if row in wanted:
                        kept[row] = h[place]
        ends.append(h)
        end = torch.cat(ends[::-1])[order.argsort().to(h.device)]
        y = torch.zeros_like(x).index_copy(0, torch.cat(row_parts), torch.cat(y_parts))
        if D is not None and gate is not None:
            y = self.gate(y, x, D, gate)
        states = [kept[row] for row in wanted]
        return y, end, torch.stack(states) if states else h_start.new_empty(0, *h_start.shape[1:])

    scan_with_gradient = scan

    def gate(
        self, y: torch.Tensor, x: torch.Tensor, D: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        """Run `gate_rows`."""
        return (y + D * x) * F.silu(gate)

    def silu(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `silu_rows`."""
        return F.silu(rows)

    def softplus(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `softplus_rows`."""
        return F.softplus(rows)

    def rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Run `rms_norm_rows`."""
        return rows * torch.rsqrt(rows.pow(2).mean(-1, keepdim=True) + eps) * weight
