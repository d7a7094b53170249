"""How are the segment kernels run in C: which addresses go where, and over how many threads?

Channels are independent of each other in all of the heavy kernels, so threads take blocks of
channels and the result has the same bits for any number of them.
"""

from __future__ import annotations

import ctypes
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from mechtest.kernels.arguments import ScanArguments, indices, matrix, refuse_rows, same_plane
from mechtest.kernels.native_build import CannotBuildError, built_library
from mechtest.kernels.row_gradients import differentiable
from mechtest.kernels.scan_gradients import differentiable_scan
from mechtest.kernels.torch_backend import TorchBackend

__all__ = ["NativeBackend"]

_TORCH = TorchBackend()
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
BLOCK = 64
"""Channels that stay with one thread: four vectors of the widest kind."""
WORTH_A_THREAD = 1 << 21
"""Multiply-adds below which starting threads costs more than they save."""


SLAB = 256
"""Channels that the gradients of B and C are summed over before they leave a thread."""
CHUNK = 16
AT_ONCE = 32
"""Rows between checkpoints. These two are named so in segments.c."""


class _Scan(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("x", "delta", "decay", "B", "C", "h_start", "D", "gate")),
        *((f"{name}_stride", _INT) for name in ("x", "delta", "B", "C", "h", "gate")),
        *((name, _POINTER) for name in ("starts", "keep", "slots", "given")),
        *((name, _INT) for name in ("n_segments", "n_rows", "n_keep", "softplus")),
        *((name, _INT) for name in ("width", "n_state")),
        *((name, _POINTER) for name in ("out", "end", "kept", "checkpoints")),
    )


class _Gradients(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("out", "end", "kept")),
        *((name, _POINTER) for name in ("x", "delta", "decay", "B", "C", "h_start", "D", "gate")),
    )


class NativeBackend:
    """The segment kernels in C; see `mechtest.kernels.segments` for the arguments.

    Raises:
        CannotBuildError: There is no library for this machine, or it gives wrong numbers.
    """

    name = "native"

    def __init__(self) -> None:
        self._library = _loaded(built_library())
        _refuse_wrong_numbers(self)

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
        n_taps, n_segments = weight.shape[-1], len(starts) - 1
        rows = matrix("rows", rows, n_rows, width)
        weight = same_plane("weight", weight, width, 1, n_taps)
        bias = None if bias is None else same_plane("bias", bias, width)
        windows = matrix("windows", windows, n_segments, n_taps - 1, width)
        starts = indices(starts)
        out = rows.new_empty(n_rows, width)
        call = functools.partial(
            self._library.mt_conv,
            *(rows.data_ptr(), rows.stride(0), weight.data_ptr(), _address(bias)),
            *(windows.data_ptr(), windows.stride(0), windows.stride(1)),
            *(starts.data_ptr(), n_segments, n_rows, activate, out.data_ptr(), width, n_taps),
        )
        refuse_rows(_over_channels(call, width, n_rows * width * 16, BLOCK), starts, None, n_rows)
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

    def resume(
        self, scan: ScanArguments, slots: torch.Tensor | None, out: torch.Tensor
    ) -> torch.Tensor:
        """Write `out` and return kept states; no end states are made.

        Args:
            scan: `h_start` holds any number of states, where there are `slots`.
            slots: Which of them each segment starts from.
            out: "row d_inner", without gaps.
        """
        longest = int(np.diff(scan.starts.numpy()).max(initial=0))
        end = None
        if longest > AT_ONCE:  # a state has to wait somewhere between two parts of a segment
            end = scan.x.new_empty(len(scan.starts) - 1, *scan.decay.shape)
        kept = scan.x.new_empty(scan.n_keep, *scan.decay.shape)
        arguments = _scan_struct(scan, out, end, kept, None, slots=slots)
        call = functools.partial(self._library.mt_scan, ctypes.byref(arguments))
        code = _over_channels(call, out.shape[1], out.numel() * scan.decay.shape[0], BLOCK)
        refuse_rows(code, scan.starts, scan.keep, len(out))
        return kept

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
        n_checkpoints = scan.n_checkpoints(CHUNK) if with_checkpoints else 0
        out = scan.x.new_empty(scan.x.shape)
        end = scan.x.new_empty(scan.h_start.shape)
        kept, checkpoints = (
            scan.x.new_empty(count, *scan.decay.shape) for count in (scan.n_keep, n_checkpoints)
        )
        arguments = _scan_struct(scan, out, end, kept, checkpoints if with_checkpoints else None)
        call = functools.partial(self._library.mt_scan, ctypes.byref(arguments))
        code = _over_channels(call, out.shape[1], out.numel() * scan.decay.shape[0], BLOCK)
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
        (n_rows, width), n_state = scan.x.shape, scan.decay.shape[0]
        d_x, d_delta = (scan.x.new_empty(n_rows, width) for _ in range(2))
        d_gate = None if scan.gate is None else scan.x.new_empty(n_rows, width)
        d_D = None if scan.D is None else torch.zeros_like(scan.D)
        d_decay = torch.zeros_like(scan.decay)
        d_start = scan.x.new_empty(scan.h_start.shape)
        d_B, d_C = (scan.x.new_zeros(-(-width // SLAB), n_rows, n_state) for _ in range(2))
        gradients = _Gradients(
            *map(_address, (d_out, d_end, d_kept)),
            *map(_address, (d_x, d_delta, d_decay, d_B, d_C, d_start, d_D, d_gate)),
        )
        arguments = _scan_struct(scan, None, None, None, checkpoints)
        call = functools.partial(
            self._library.mt_scan_backward, ctypes.byref(arguments), ctypes.byref(gradients)
        )
        code = _over_channels(call, width, 2 * d_x.numel() * n_state, SLAB)
        refuse_rows(code, scan.starts, scan.keep, n_rows)
        return d_x, d_delta, d_decay, d_B.sum(0), d_C.sum(0), d_start, d_D, d_gate

    def gate(
        self, y: torch.Tensor, x: torch.Tensor, D: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        """Run `gate_rows`."""
        return differentiable(self._gate, _TORCH.gate, y, x, D, gate)

    def _gate(
        self, y: torch.Tensor, x: torch.Tensor, D: torch.Tensor, gate: torch.Tensor
    ) -> torch.Tensor:
        shape = y.shape
        y, x, gate = matrix("y", y, *shape), matrix("x", x, *shape), matrix("gate", gate, *shape)
        D = same_plane("D", D, shape[1])
        out = y.new_empty(shape)
        self._library.mt_gate(
            *(y.data_ptr(), y.stride(0), x.data_ptr(), x.stride(0), D.data_ptr()),
            *(gate.data_ptr(), gate.stride(0), out.data_ptr(), *shape),
        )
        return out

    def silu(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `silu_rows`."""
        return differentiable(self._silu, _TORCH.silu, rows)

    def _silu(self, rows: torch.Tensor) -> torch.Tensor:
        rows = matrix("rows", rows, *rows.shape)
        out = rows.new_empty(rows.shape)
        self._library.mt_silu(rows.data_ptr(), rows.stride(0), out.data_ptr(), *rows.shape)
        return out

    def softplus(self, rows: torch.Tensor) -> torch.Tensor:
        """Run `softplus_rows`."""
        return differentiable(self._softplus, _TORCH.softplus, rows)

    def _softplus(self, rows: torch.Tensor) -> torch.Tensor:
        rows = matrix("rows", rows, *rows.shape)
        out = rows.new_empty(rows.shape)
        self._library.mt_softplus(rows.data_ptr(), rows.stride(0), out.data_ptr(), *rows.shape)
        return out

    def rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """Run `rms_norm_rows`."""
        return differentiable(self._rms_norm, _TORCH.rms_norm, rows, weight, eps)

    def _rms_norm(self, rows: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        rows = matrix("rows", rows, *rows.shape)
        weight = same_plane("weight", weight, rows.shape[1])
        out = rows.new_empty(rows.shape)
        self._library.mt_rms_norm(
            *(rows.data_ptr(), rows.stride(0), weight.data_ptr(), eps, out.data_ptr(), *rows.shape)
        )
        return out


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _scan_struct(
    scan: ScanArguments, *results: torch.Tensor | None, slots: torch.Tensor | None = None
) -> _Scan:
    strided = (scan.x, scan.delta, scan.B, scan.C, scan.h_start)
    return _Scan(
        *map(_address, (scan.x, scan.delta, scan.decay, scan.B, scan.C)),
        *map(_address, (scan.h_start, scan.D, scan.gate)),
        *(tensor.stride(0) for tensor in strided),
        0 if scan.gate is None else scan.gate.stride(0),
        *map(_address, (scan.starts, scan.keep, slots, scan.given)),
        *(len(scan.starts) - 1, len(scan.x), scan.n_keep, scan.softplus),
        *(scan.x.shape[1], scan.decay.shape[0]),
        *map(_address, results),
    )


def _over_channels(call: functools.partial[int], width: int, work: int, block: int) -> int:
    """Call with ranges of channels, one a thread; return the largest code.

    Args:
        call: Takes the first channel and the one past the last.
        width: Channels there are.
        work: Multiply-adds of the whole call.
        block: What ranges start at multiples of.
    """
    n_threads = min(torch.get_num_threads(), -(-width // block), max(1, work // WORTH_A_THREAD))
    if n_threads <= 1:
        return call(0, width)
    share = -(-width // (n_threads * block)) * block
    ranges = [(first, min(first + share, width)) for first in range(0, width, share)]
    # A pool for each call: threads that live on would be lost in a forked process.
    with ThreadPoolExecutor(len(ranges)) as pool:
        codes = list(pool.map(lambda both: call(*both), ranges))
    return max(codes)


def _loaded(path: Path) -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(str(path))
        p, i = _POINTER, _INT
        library.mt_silu.argtypes = library.mt_softplus.argtypes = [p, i, p, i, i]
        library.mt_gate.argtypes = [p, i, p, i, p, p, i, p, i, i]
        library.mt_rms_norm.argtypes = [p, i, p, ctypes.c_float, p, i, i]
        library.mt_silu.restype = library.mt_softplus.restype = None
        library.mt_gate.restype = library.mt_rms_norm.restype = None
        library.mt_conv.argtypes = [p, i, p, p, p, i, i, p, i, i, ctypes.c_int, p, i, i, i, i]
        library.mt_scan.argtypes = [p, i, i]
        library.mt_scan_backward.argtypes = [p, p, i, i]
    except (OSError, AttributeError) as error:
        raise CannotBuildError(f"{path} cannot be loaded: {error}") from error
    return library


def _refuse_wrong_numbers(native: NativeBackend) -> None:
    """Compare a small run with torch: a compiler can be wrong, a file can be damaged."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    starts, width = torch.tensor([0, 3, 4]), 21
    x, gate = draw(4, 2 * width).split(width, 1)
    conv = (x, draw(width, 1, 4), draw(width), draw(2, 3, width), starts, True)
    norm = (x, draw(width), 1e-5)
    for n_state in (16, 3):
        scan = (x, draw(4, width), -draw(n_state, width).exp(), draw(4, n_state), draw(4, n_state))
        end = (draw(2, n_state, width), starts, draw(width), gate, None, starts[1:2], True)
        for name, arguments in (("conv", conv), ("rms_norm", norm), ("scan", (*scan, *end))):
            with torch.no_grad():
                ours, theirs = (getattr(b, name)(*arguments) for b in (native, _TORCH))
            for one, other in zip(ours, theirs, strict=True):
                if not torch.allclose(one, other, rtol=1e-4, atol=1e-4):
                    raise CannotBuildError(f"the compiled {name} gives wrong numbers")
