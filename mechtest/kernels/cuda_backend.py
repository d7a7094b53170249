"""How do the segment kernels run on a GPU, over the kernels of mamba_ssm and causal_conv1d?

Each call that these cannot serve (another dtype, a package that is missing) runs in torch instead;
`scan_obstacle` and `conv_obstacle` say why. Only the recurrence and the convolution go through the
packages. Softplus, silu and the gate stay in torch, as steps of their own: done inside the kernels
they would differ in the last bits from the same steps done by a caller who needs what lies between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from mechtest.kernels.cuda_packages import GpuKernels, load_gpu_kernels
from mechtest.kernels.dense_scan import ScanInputs, SegmentGroup, group_segments, scan_group, take
from mechtest.kernels.torch_backend import TorchBackend

__all__ = ["CudaBackend"]

MAX_STATES = 256
CONV_TAPS = range(2, 5)
MAX_CONV_ROWS = 2**22 - 64
"""The grid of the convolution: 65535 blocks of 64 rows."""

STEPPED_ROWS = 4
"""Segments of at most so many rows go step by step in torch: the 2 d_state extra steps that the
kernel needs (see `mechtest.kernels.dense_scan`) would move more memory than the steps do."""


class CudaBackend:
    """The segment kernels on a GPU; see `mechtest.kernels.segments` for the arguments.

    Args:
        kernels: Functions to use in place of those of the installed packages.
        device_type: Device whose tensors they take; tensors elsewhere are computed in torch.

    Raises:
        MissingPackageError: A package is installed and cannot be loaded.

    Attributes:
        name: "cuda"; "cuda scan" or "cuda conv" where only that package is installed; "torch" where
            neither is.
    """

    def __init__(self, kernels: GpuKernels | None = None, device_type: str = "cuda") -> None:
        self._kernels = load_gpu_kernels() if kernels is None else kernels
        self._device_type = device_type
        self._torch = TorchBackend()
        present = [name for name, kernel in self._kernels._asdict().items() if kernel is not None]
        self.name = {0: "torch", 1: f"cuda {''.join(present)}", 2: "cuda"}[len(present)]

    def scan_obstacle(self, decay: torch.Tensor, *others: torch.Tensor) -> str | None:
        """Return why a scan over these tensors runs in torch, or None if the kernel takes it."""
        if self._kernels.scan is None:
            return "mamba_ssm is not installed"
        if decay.shape[0] > MAX_STATES:
            return f"d_state is {decay.shape[0]}, and the kernel has at most {MAX_STATES}"
        return self._tensor_obstacle(decay, *others)

    def conv_obstacle(
        self, rows: torch.Tensor, weight: torch.Tensor, windows: torch.Tensor, *others: torch.Tensor
    ) -> str | None:
        """Return why a convolution of these tensors runs in torch, or None."""
        if self._kernels.conv is None:
            return "causal_conv1d is not installed"
        if weight.shape[-1] not in CONV_TAPS:
            return f"d_conv is {weight.shape[-1]}, and the kernel has 2 to 4"
        n_rows = len(rows) + windows.shape[0] * windows.shape[1]
        if n_rows > MAX_CONV_ROWS or n_rows * rows.shape[1] >= 2**31:
            return f"{n_rows} rows of {rows.shape[1]} are more than the kernel can address"
        return self._tensor_obstacle(rows, weight, windows, *others)

    def _tensor_obstacle(self, *tensors: torch.Tensor) -> str | None:
        for tensor in tensors:
            if tensor.device.type != self._device_type:
                return f"a tensor is on {tensor.device.type}, not {self._device_type}"
            if tensor.dtype != torch.float32:
                return f"a tensor is {str(tensor.dtype).removeprefix('torch.')}, not float32"
        return None

    def conv(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        windows: torch.Tensor,
        starts: torch.Tensor,
        activate: bool,
    ) -> torch.Tensor:
        """Run `conv_segments`: one call for all segments, each behind its window.

        The kernel sees one long sequence. What it gives for a row of a window mixes two segments
        and is dropped; what it gives for any other row looks back no further than the window.
        """
        biases = () if bias is None else (bias,)
        kernel = self._kernels.conv
        if kernel is None or self.conv_obstacle(rows, weight, windows, *biases):
            return self._torch.conv(rows, weight, bias, windows, starts, activate)
        n_segments, n_before, d_inner = windows.shape
        segment = torch.repeat_interleave(torch.arange(n_segments), starts.diff())
        place = (torch.arange(len(rows)) + (segment + 1) * n_before).to(rows.device)
        first = starts[:-1] + torch.arange(n_segments) * n_before
        window_place = (first.unsqueeze(1) + torch.arange(n_before)).to(rows.device)
        behind = rows.new_empty(len(rows) + n_segments * n_before, d_inner)
        behind[place] = rows
        behind[window_place] = windows
        channels = behind.T if d_inner % 8 == 0 else behind.T.contiguous()
        out = kernel(channels.unsqueeze(0), weight[:, 0], bias, activation=None)[0].T[place]
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
        """Run `scan_segments`; the kernel gives the end states."""
        kernel = self._scan_kernel(decay, x, delta, B, C, h_start)
        if kernel is None:
            return self._torch.scan(
                x, delta, decay, B, C, h_start, starts, D, gate, given, keep, softplus
            )
        with torch.no_grad():
            delta = F.softplus(delta) if softplus else delta
            inputs = ScanInputs(x, delta, decay, B, C, h_start, _moved(given, x))
            y, end, kept = _scan_packed(kernel, inputs, starts, keep, differentiable=False)
            return _gated(y, x, D, gate), end, kept

    def scan_with_gradient(
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
        """Run `scan_segments`; end states are read out: the kernel's own have no gradient."""
        kernel = self._scan_kernel(decay, x, delta, B, C, h_start)
        if kernel is None:
            return self._torch.scan_with_gradient(
                x, delta, decay, B, C, h_start, starts, D, gate, given, keep, softplus
            )
        delta = F.softplus(delta) if softplus else delta
        inputs = ScanInputs(x, delta, decay, B, C, h_start, _moved(given, x))
        y, end, kept = _scan_packed(kernel, inputs, starts, keep, differentiable=True)
        return _gated(y, x, D, gate), end, kept

    def _scan_kernel(self, decay: torch.Tensor, *others: torch.Tensor) -> Callable[..., Any] | None:
        return None if self.scan_obstacle(decay, *others) else self._kernels.scan

    def silu(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `silu_rows`."""
        return F.silu(rows)

    def softplus(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `softplus_rows`."""
        return F.softplus(rows)

    def gate(
        self, y: torch.Tensor, x: torch.Tensor, D: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        """Run `gate_rows`."""
        return _gated(y, x, D, gate)

    def rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Run `rms_norm_rows`."""
        return self._torch.rms_norm(rows, weight, eps)


def _moved(given: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor | None:
    return None if given is None else given.to(like.device)


def _gated(
    y: torch.Tensor, x: torch.Tensor, D: torch.Tensor | None, gate: torch.Tensor | None
) -> torch.Tensor:
    return y if D is None or gate is None else (y + D * x) * F.silu(gate)


def _scan_packed(
    kernel: Callable[..., Any],
    inputs: ScanInputs,
    starts: torch.Tensor,
    keep: torch.Tensor | None,
    *,
    differentiable: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return (y, end states, kept states) of all segments, group by group."""
    d_state, d_inner = inputs.decay.shape
    last_rows = starts[1:] - 1
    wanted = last_rows.new_empty(0) if keep is None else keep
    inner = wanted[~torch.isin(wanted, last_rows)]
    read = torch.cat([inner, last_rows]).sort().values if differentiable else inner
    rows, state_rows, y, states = [], [], [], []
    for group in group_segments(starts, read, d_inner, d_state, STEPPED_ROWS):
        inner_here = inner[torch.isin(inner, group.rows)]
        if group.is_short:
            y_here, states_here = _by_steps(group, inner_here, inputs)
        else:
            y_here, states_here = _by_kernel(kernel, group, inner_here, inputs, differentiable)
        rows.append(group.rows)
        state_rows += [inner_here, group.last_rows]
        y.append(y_here)
        states.append(states_here)
    all_states, held = _joined(states), torch.cat(state_rows)
    return (
        take(_joined(y), torch.cat(rows).argsort()),
        take(all_states, _places(last_rows, held)),
        take(all_states, _places(wanted, held)),
    )


def _by_kernel(
    kernel: Callable[..., Any],
    group: SegmentGroup,
    inner: torch.Tensor,
    inputs: ScanInputs,
    differentiable: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (y of the group's rows, states after the rows `inner`, then the end states)."""
    if differentiable:
        return scan_group(kernel, group, torch.cat([inner, group.last_rows]), inputs)[:2]
    y, read, end = scan_group(kernel, group, inner, inputs)
    return y, torch.cat([read, end])


def _by_steps(
    group: SegmentGroup, inner: torch.Tensor, inputs: ScanInputs
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what `_by_kernel` does, from torch."""
    x, delta, B, C = (
        take(rows, group.rows) for rows in (inputs.x, inputs.delta, inputs.B, inputs.C)
    )
    h_start = take(inputs.h_start, group.segments)
    given = None if inputs.given is None else take(inputs.given, group.segments)
    starts = F.pad(group.n_rows.cumsum(0), (1, 0))
    keep = torch.searchsorted(group.rows, inner)
    y, end, kept = TorchBackend().scan_with_gradient(
        x, delta, inputs.decay, B, C, h_start, starts, None, None, given, keep, softplus=False
    )
    return y, torch.cat([kept, end])


def _joined(parts: list[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _places(sought: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Return where each of `sought` stands in `values`, which hold it once."""
    ordered = values.sort()
    return ordered.indices[torch.searchsorted(ordered.values, sought)]
