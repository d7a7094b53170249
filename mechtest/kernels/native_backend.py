"""How are the segment kernels run in C: which addresses go where, and over how many threads?

Channels are independent of each other in all of the heavy kernels, so threads take blocks of
channels and the result has the same bits for any number of them.
"""

from __future__ import annotations

import ctypes
import functools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from mechtest.kernels.arguments import indices, matrix, planes, refuse_rows, same_plane
from mechtest.kernels.native_build import CannotBuildError, built_library
from mechtest.kernels.row_gradients import differentiable
from mechtest.kernels.torch_backend import TorchBackend

__all__ = ["NativeBackend"]

_TORCH = TorchBackend()
_POINTER, _INT = ctypes.c_void_p, ctypes.c_int64
BLOCK = 64
"""Channels that stay with one thread: four vectors of the widest kind."""
WORTH_A_THREAD = 1 << 21
"""Multiply-adds below which starting threads costs more than they save."""


class _Scan(ctypes.Structure):
    _fields_ = (
        *((name, _POINTER) for name in ("x", "delta", "decay", "B", "C", "h_start", "D", "gate")),
        *((f"{name}_stride", _INT) for name in ("x", "delta", "B", "C", "h", "gate")),
        *((name, _POINTER) for name in ("starts", "keep", "given")),
        *((name, _INT) for name in ("n_segments", "n_rows", "n_keep", "softplus")),
        *((name, _INT) for name in ("width", "n_state")),
        *((name, _POINTER) for name in ("out", "end", "kept")),
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
        refuse_rows(_over_channels(call, width, n_rows * width * 16), starts, None, n_rows)
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
        (n_rows, width), (n_state, _) = x.shape, decay.shape
        n_segments = len(starts) - 1
        x, delta = matrix("x", x, n_rows, width), matrix("delta", delta, n_rows, width)
        B, C = matrix("B", B, n_rows, n_state), matrix("C", C, n_rows, n_state)
        decay = same_plane("decay", decay, n_state, width)
        h_start = planes("h_start", h_start, n_segments, n_state, width)
        starts = indices(starts)
        if D is None or gate is None:
            D = gate = None
        else:
            D, gate = same_plane("D", D, width), matrix("gate", gate, n_rows, width)
        given = None if given is None else given.to("cpu", torch.bool).contiguous()
        keep = None if keep is None else indices(keep)
        n_keep = 0 if keep is None else len(keep)
        out = x.new_empty(n_rows, width)
        end = x.new_empty(n_segments, n_state, width)
        kept = x.new_empty(n_keep, n_state, width)
        strides = [tensor.stride(0) for tensor in (x, delta, B, C, h_start)]
        inputs = (x, delta, decay, B, C, h_start, D, gate)
        arguments = _Scan(
            *map(_address, inputs),
            *(*strides, 0 if gate is None else gate.stride(0)),
            *map(_address, (starts, keep, given)),
            *(n_segments, n_rows, n_keep, softplus, width, n_state),
            *map(_address, (out, end, kept)),
        )
        call = functools.partial(self._library.mt_scan, ctypes.byref(arguments))
        code = _over_channels(call, width, n_rows * width * n_state)
        refuse_rows(code, starts, keep, n_rows)
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
        return _TORCH.scan_with_gradient(
            x, delta, decay, B, C, h_start, starts, D, gate, given, keep, softplus
        )

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


def _over_channels(call: functools.partial[int], width: int, work: int) -> int:
    """Call with ranges of channels, one a thread; return the first code that is not 0."""
    n_threads = min(torch.get_num_threads(), -(-width // BLOCK), max(1, work // WORTH_A_THREAD))
    if n_threads <= 1:
        return call(0, width)
    share = -(-width // (n_threads * BLOCK)) * BLOCK
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
