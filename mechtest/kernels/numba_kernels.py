"""How are the segment kernels computed where there is no C compiler: loops that LLVM makes vectors?

Channels go in blocks, so that the states of a block stay in the cache while all rows pass. The
innermost loops run over the channels of a block and over local arrays only.
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

from mechtest.kernels.numba_math import COMPILE, ONE, ZERO, exp2, fma, silu, softplus

__all__ = [
    "CHUNK",
    "conv",
    "copy_in",
    "gate_all",
    "norm_all",
    "piece",
    "ready",
    "scan",
    "silu_all",
    "softplus_all",
]

BLOCK = 128
CHUNK = 16
"""Rows between checkpoints."""


@njit(**COMPILE)
@no_type_check
def refused(starts: Any, n_rows: int, keep: Any) -> int:
    """Return 1 for starts that cut nothing, 2 for rows to keep that do not exist, else 0."""
    if starts[0] != 0 or starts[-1] != n_rows:
        return 1
    for s in range(len(starts) - 1):
        if starts[s + 1] <= starts[s]:
            return 1
    for k in range(len(keep)):
        if keep[k] < 0 or keep[k] >= n_rows or (k > 0 and keep[k] <= keep[k - 1]):
            return 2
    return 0


@njit(**COMPILE)
@no_type_check
def piece(flat: Any, stride: int, t: int, left: int, n: int) -> Any:
    """Return n channels of row t: one type for rows of any stride, so that numba compiles once."""
    first = t * stride + left
    return flat[first : first + n]


@njit(**COMPILE)
@no_type_check
def silu_all(rows: Any, stride: int, out: Any) -> None:
    """Write silu of every entry."""
    for t in range(out.shape[0]):
        row = piece(rows, stride, t, 0, out.shape[1])
        for e in range(len(row)):
            out[t, e] = silu(row[e])


@njit(**COMPILE)
@no_type_check
def softplus_all(rows: Any, stride: int, out: Any) -> None:
    """Write softplus of every entry."""
    for t in range(out.shape[0]):
        row = piece(rows, stride, t, 0, out.shape[1])
        for e in range(len(row)):
            out[t, e] = softplus(row[e])


@njit(**COMPILE)
@no_type_check
def gate_all(
    y: Any, y_stride: int, x: Any, x_stride: int, D: Any, gate: Any, gate_stride: int, out: Any
) -> None:
    """Write (y + D x) silu(gate)."""
    n_rows, width = out.shape
    for t in range(n_rows):
        y_row, x_row = piece(y, y_stride, t, 0, width), piece(x, x_stride, t, 0, width)
        gate_row = piece(gate, gate_stride, t, 0, width)
        for e in range(width):
            out[t, e] = fma(D[e], x_row[e], y_row[e]) * silu(gate_row[e])


@njit(**COMPILE)
@no_type_check
def norm_all(rows: Any, stride: int, weight: Any, eps: Any, out: Any) -> None:
    """Write rows / rms(rows) * weight; sums go by 16 lanes, in one order for all rows."""
    n_rows, width = out.shape
    lanes = np.empty(16, np.float32)
    for t in range(n_rows):
        row = piece(rows, stride, t, 0, width)
        lanes[:] = ZERO
        for first in range(0, width - 15, 16):
            for i in range(16):
                lanes[i] = fma(row[first + i], row[first + i], lanes[i])
        for e in range(width // 16 * 16, width):
            lanes[e % 16] = fma(row[e], row[e], lanes[e % 16])
        total = ZERO
        for i in range(16):
            total += lanes[i]
        scale = ONE / np.sqrt(total / np.float32(width) + eps)
        for e in range(width):
            out[t, e] = row[e] * scale * weight[e]


@njit(**COMPILE)
@no_type_check
def conv(
    rows: Any, stride: int, taps: Any, bias: Any, windows: Any, starts: Any, activate: bool,
    out: Any,
) -> int:  # fmt: skip
    """Write the convolution; `taps` is "d_conv d_inner", `bias` has no entries for none."""
    n_rows, width = out.shape
    bad = refused(starts, n_rows, starts[:0])
    if bad:
        return bad
    n_taps = taps.shape[0]
    for s in range(len(starts) - 1):
        for t in range(starts[s], starts[s + 1]):
            to = out[t]
            for j in range(n_taps):
                source = t - (n_taps - 1) + j
                if source >= starts[s]:
                    row = piece(rows, stride, source, 0, width)
                else:
                    row = windows[s, t - starts[s] + j]
                add_tap(row, taps[j], to, j == 0)
            if len(bias):
                for e in range(width):
                    to[e] += bias[e]
            if activate:
                for e in range(width):
                    to[e] = silu(to[e])
    return 0


@njit(**COMPILE)
@no_type_check
def add_tap(row: Any, tap: Any, to: Any, is_first: bool) -> None:
    """Add a row times its tap; the first one starts the sum."""
    if is_first:
        for e in range(len(to)):
            to[e] = row[e] * tap[e]
    else:
        for e in range(len(to)):
            to[e] = fma(row[e], tap[e], to[e])


@njit(**COMPILE)
@no_type_check
def step(
    h: Any, decay: Any, delta: Any, write: Any, B: Any, C: Any, y: Any, n: int, written: bool
) -> None:
    """Take the states of a block of n channels through a row; y is what is read."""
    for e in range(n):
        y[e] = ZERO
    for i in range(h.shape[0]):
        b, c = B[i], C[i]
        if written:
            for e in range(n):
                value = fma(exp2(delta[e] * decay[i, e]), h[i, e], write[e] * b)
                h[i, e] = value
                y[e] = fma(c, value, y[e])
        else:
            for e in range(n):
                y[e] = fma(c, h[i, e], y[e])


@njit(**COMPILE)
@no_type_check
def scan(
    x: Any, delta: Any, B: Any, C: Any, gate: Any, strides: Any, decay: Any, h_start: Any,
    starts: Any, D: Any, given: Any, keep: Any, use_softplus: bool, first_channel: int,
    past_channel: int, out: Any, end: Any, kept: Any, checkpoints: Any,
) -> int:  # fmt: skip
    """Write the scan of channels [first, past); `D`, `given` have no entries for none."""
    n_state = decay.shape[0]
    bad = refused(starts, out.shape[0], keep)
    if bad:
        return bad
    h, factors = np.empty((n_state, BLOCK), np.float32), np.empty((n_state, BLOCK), np.float32)
    local = np.empty((3, BLOCK), np.float32)
    d, w, y = local[0], local[1], local[2]
    for left in range(first_channel, past_channel, BLOCK):
        n = min(BLOCK, past_channel - left)
        keep_at = checkpoint = 0
        copy_in(decay, left, n, factors)
        for s in range(len(starts) - 1):
            copy_in(h_start[s], left, n, h)
            for t in range(starts[s], starts[s + 1]):
                x_row = piece(x, strides[0], t, left, n)
                ready(x_row, piece(delta, strides[1], t, left, n), use_softplus, d, w)
                B_row, C_row = (
                    piece(B, strides[2], t, 0, n_state),
                    piece(C, strides[3], t, 0, n_state),
                )
                written = t > starts[s] or len(given) == 0 or not given[s]
                step(h, factors, d, w, B_row, C_row, y, n, written)
                to = out[t, left : left + n]
                if len(D):
                    gate_row, D_row = piece(gate, strides[4], t, left, n), D[left : left + n]
                    for e in range(n):
                        to[e] = fma(D_row[e], x_row[e], y[e]) * silu(gate_row[e])
                else:
                    for e in range(n):
                        to[e] = y[e]
                if keep_at < len(keep) and keep[keep_at] == t:
                    copy_out(h, kept[keep_at], left, n)
                    keep_at += 1
                passed = t + 1 - starts[s]
                if len(checkpoints) and passed % CHUNK == 0 and t + 1 < starts[s + 1]:
                    copy_out(h, checkpoints[checkpoint], left, n)
                    checkpoint += 1
            copy_out(h, end[s], left, n)
    return 0


@njit(**COMPILE)
@no_type_check
def ready(x: Any, delta: Any, use_softplus: bool, steps: Any, write: Any) -> None:
    """Write the step sizes of a row and what they multiply B with."""
    if use_softplus:
        for e in range(len(x)):
            steps[e] = softplus(delta[e])
    else:
        for e in range(len(x)):
            steps[e] = delta[e]
    for e in range(len(x)):
        write[e] = steps[e] * x[e]


@njit(**COMPILE)
@no_type_check
def copy_in(plane: Any, left: int, n: int, to: Any) -> None:
    """Read the states of a block."""
    for i in range(plane.shape[0]):
        row = plane[i, left : left + n]
        for e in range(n):
            to[i, e] = row[e]


@njit(**COMPILE)
@no_type_check
def copy_out(h: Any, plane: Any, left: int, n: int) -> None:
    """Write the states of a block to their place."""
    for i in range(h.shape[0]):
        row = plane[i, left : left + n]
        for e in range(n):
            row[e] = h[i, e]
