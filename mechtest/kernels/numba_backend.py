"""How are the segment kernels run by numba, where there is no C compiler?

The same row gets the same bits however it is packed and cut and with any number of threads, as in
C; the two backends differ from each other in the last bits.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

from mechtest.kernels.arguments import ScanArguments, indices, matrix, refuse_rows, same_plane
from mechtest.kernels.row_gradients import differentiable
from mechtest.kernels.scan_gradients import differentiable_scan
from mechtest.kernels.torch_backend import TorchBackend

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["NumbaBackend"]

_TORCH = TorchBackend()
BLOCK = 128
"""Threads take multiples of the block of channels that the loops take."""
WORTH_A_THREAD = 1 << 20


@contextmanager
def _widest_vectors() -> Iterator[None]:
    """Let LLVM use the widest vectors there are while numba reads its settings.

    It prefers half of them on some processors, which costs these loops a tenth or more. Settings of
    the user's own, or of a numba that is there already, stay.
    """
    names = ("NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES")
    if "numba" in sys.modules or any(name in os.environ for name in names):
        yield
        return
    import llvmlite.binding as llvm

    features = llvm.get_host_cpu_features().flatten()
    if "+avx512f" not in features:
        yield
        return
    values = (llvm.get_host_cpu_name(), f"{features},-prefer-256-bit")
    os.environ.update(zip(names, values, strict=True))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]


with _widest_vectors():
    from mechtest.kernels import numba_adjoint, numba_kernels


class NumbaBackend:
    """The segment kernels in numba; see `mechtest.kernels.segments` for the arguments."""

    name = "numba"

    def conv(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        windows: torch.Tensor,
        starts: torch.Tensor,
        activate: bool,
    ) -> torch.Tensor:
        """Run `conv_segments`."""
        return differentiable(
            self._conv, _TORCH.conv, rows, weight, bias, windows, starts, activate
        )

    def _conv(
        self,
        rows: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        windows: torch.Tensor,
        starts: torch.Tensor,
        activate: bool,
    ) -> torch.Tensor:
        n_rows, width = rows.shape
        n_taps = weight.shape[-1]
        rows = matrix("rows", rows, n_rows, width)
        taps = same_plane("weight", weight, width, 1, n_taps)[:, 0].T.contiguous()
        bias = rows.new_empty(0) if bias is None else same_plane("bias", bias, width)
        windows = same_plane("windows", windows, len(starts) - 1, n_taps - 1, width)
        starts = indices(starts)
        out = rows.new_empty(n_rows, width)
        others = map(_array, (taps, bias, windows, starts))
        code = numba_kernels.conv(*_flat(rows), *others, bool(activate), _array(out))
        refuse_rows(code, starts, None, n_rows)
        return out

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
        """Run `scan_segments`, without gradients."""
        given_to = ScanArguments.checked(
            x, delta, decay, B, C, h_start, starts, D, gate, given, keep, softplus
        )
        out, end, kept, _ = self.scan_checked(given_to, with_checkpoints=False)
        return out, end, kept

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
        """Run `scan_segments` so that gradients flow back to every tensor."""
        return differentiable_scan(
            self, x, delta, decay, B, C, h_start, starts, D, gate, given, keep, softplus
        )

    def scan_checked(
        self, scan: ScanArguments, *, with_checkpoints: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return (out, end, kept, checkpoints): with them, the backward pass can start."""
        n_checkpoints = scan.n_checkpoints(numba_kernels.CHUNK) if with_checkpoints else 0
        out = scan.x.new_empty(scan.x.shape)
        end = scan.x.new_empty(scan.h_start.shape)
        kept, checkpoints = (
            scan.x.new_empty(count, *scan.decay.shape) for count in (scan.n_keep, n_checkpoints)
        )
        arrays = _arrays(scan)
        results = [_array(tensor) for tensor in (out, end, kept, checkpoints)]
        width = out.shape[1]

        def run(first: int) -> int:
            code: int = numba_kernels.scan(*arrays, first, min(first + share, width), *results)
            return code

        n_threads = max(1, out.numel() * len(scan.decay) // WORTH_A_THREAD)
        n_threads = min(torch.get_num_threads(), -(-width // BLOCK), n_threads)
        share = -(-width // (n_threads * BLOCK)) * BLOCK
        if n_threads == 1:
            code = run(0)
        else:
            with ThreadPoolExecutor(n_threads) as pool:
                code = max(pool.map(run, range(0, width, share)))
        refuse_rows(code, scan.starts, scan.keep, len(out))
        return out, end, kept, checkpoints if with_checkpoints else None

    def adjoint(
        self,
        scan: ScanArguments,
        checkpoints: torch.Tensor,
        d_out: torch.Tensor | None,
        d_end: torch.Tensor | None,
        d_kept: torch.Tensor | None,
    ) -> tuple[torch.Tensor | None, ...]:
        """Return gradients of x, delta, decay, B, C, h_start, D and gate."""
        width = scan.x.shape[1]
        d_x, d_delta, d_gate = (scan.x.new_empty(scan.x.shape) for _ in range(3))
        d_decay, d_start = (scan.x.new_empty(t.shape) for t in (scan.decay, scan.h_start))
        d_B, d_C = (scan.x.new_zeros(scan.B.shape) for _ in range(2))
        d_D = scan.x.new_zeros(width)
        no_rows, no_states = scan.x.new_empty(0, width), scan.x.new_empty(0, *scan.decay.shape)
        from_above = (
            no_rows if d_out is None else d_out,
            no_states if d_end is None else d_end,
            no_states if d_kept is None else d_kept,
        )
        below = (d_x, d_delta, d_decay, d_B, d_C, d_start, d_D, d_gate)
        numba_adjoint.adjoint(*_arrays(scan), *map(_array, (checkpoints, *from_above, *below)))
        gated = scan.D is not None
        return *below[:6], d_D if gated else None, d_gate if gated else None

    def gate(
        self, y: torch.Tensor, x: torch.Tensor, D: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        """Run `gate_rows`."""
        return differentiable(self._gate, _TORCH.gate, y, x, D, gate)

    def _gate(
        self, y: torch.Tensor, x: torch.Tensor, D: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        shape = y.shape
        rows = (matrix(name, each, *shape) for name, each in (("y", y), ("x", x), ("gate", gate)))
        y, x, gate = rows
        D = same_plane("D", D, shape[1])
        out = y.new_empty(shape)
        numba_kernels.gate_all(*_flat(y), *_flat(x), _array(D), *_flat(gate), _array(out))
        return out

    def silu(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `silu_rows`."""
        return differentiable(self._silu, _TORCH.silu, rows)

    def _silu(self, rows: torch.Tensor) -> torch.Tensor:
        out = rows.new_empty(rows.shape)
        numba_kernels.silu_all(*_flat(matrix("rows", rows, *rows.shape)), _array(out))
        return out

    def softplus(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `softplus_rows`."""
        return differentiable(self._softplus, _TORCH.softplus, rows)

    def _softplus(self, rows: torch.Tensor) -> torch.Tensor:
        out = rows.new_empty(rows.shape)
        numba_kernels.softplus_all(*_flat(matrix("rows", rows, *rows.shape)), _array(out))
        return out

    def rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Run `rms_norm_rows`."""
        return differentiable(self._rms_norm, _TORCH.rms_norm, rows, weight, eps)

    def _rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        rows = matrix("rows", rows, *rows.shape)
        weight = same_plane("weight", weight, rows.shape[1])
        out = rows.new_empty(rows.shape)
        numba_kernels.norm_all(*_flat(rows), _array(weight), _float32(eps), _array(out))
        return out


def _array(tensor: torch.Tensor) -> Any:
    return tensor.detach().numpy()


def _float32(value: float) -> Any:
    return torch.tensor(value, dtype=torch.float32).numpy()[()]


def _flat(rows: torch.Tensor) -> tuple[Any, int]:
    """Return all of the memory from the first row to the last, and the stride of the rows."""
    span = (rows.shape[0] - 1) * rows.stride(0) + rows.shape[1] if rows.numel() else 0
    return _array(rows.as_strided((span,), (1,))), rows.stride(0)


def _arrays(scan: ScanArguments) -> tuple[Any, ...]:
    """Return the arguments of the loops; what is absent has no entries."""
    x = scan.x
    gate = x.new_empty(0, x.shape[1]) if scan.gate is None else scan.gate
    rows, strides = zip(*map(_flat, (x, scan.delta, scan.B, scan.C, gate)), strict=True)
    D = x.new_empty(0) if scan.D is None else scan.D
    given = torch.empty(0, dtype=torch.bool) if scan.given is None else scan.given
    keep = scan.starts[:0] if scan.keep is None else scan.keep
    others = (scan.decay, scan.h_start.contiguous(), scan.starts, D, given, keep)
    return *rows, strides, *map(_array, others), bool(scan.softplus)
