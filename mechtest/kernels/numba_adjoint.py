"""How do gradients go back through a scan in numba: chunk by chunk, from checkpoints?

The same walk as in segments.c. Sums over channels, for the gradients of B and C, are the one place
where LLVM may reorder: their last bits can differ between processors, never between runs.
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from numba import njit

from mechtest.kernels.numba_kernels import CHUNK, copy_in, piece, ready
from mechtest.kernels.numba_math import COMPILE, ONE, ZERO, exp2, fma, sigmoid, silu

__all__ = ["SLAB", "adjoint"]

SLAB = 64
"""Channels of a block: a chunk of their states fits the cache next to the processor."""
LN_2 = np.float32(0.693147181)


@njit(fastmath={"reassoc", "nsz"}, **COMPILE)
@no_type_check
def dot(a: Any, i: int, b: Any, n: int) -> Any:
    """Return the product of row i of `a` and `b`, over n channels."""
    total = ZERO
    for e in range(n):
        total += a[i, e] * b[e]
    return total


@njit(**COMPILE)
@no_type_check
def rerun(
    states: Any, factors: Any, decay: Any, delta: Any, write: Any, B: Any, C: Any, y: Any,
    r: int, n: int, written: bool,
) -> None:  # fmt: skip
    """Take the states through a row again, keeping them and what they were multiplied by."""
    n_state = decay.shape[0]
    for e in range(n):
        y[r, e] = ZERO
    for i in range(n_state):
        b, c = B[i], C[i]
        if written:
            for e in range(n):
                factor = exp2(delta[r, e] * decay[i, e])
                factors[r * n_state + i, e] = factor
                value = fma(factor, states[r * n_state + i, e], write[r, e] * b)
                states[(r + 1) * n_state + i, e] = value
        else:
            for e in range(n):
                states[(r + 1) * n_state + i, e] = states[r * n_state + i, e]
        for e in range(n):
            y[r, e] = fma(c, states[(r + 1) * n_state + i, e], y[r, e])


@njit(**COMPILE)
@no_type_check
def back(
    states: Any, factors: Any, decay: Any, delta: Any, write: Any, B: Any, C: Any,
    d_state: Any, d_decay: Any, d_y: Any, d_write: Any, d_power: Any, d_B: Any, d_C: Any,
    r: int, n: int, written: bool,
) -> None:  # fmt: skip
    """Take the gradient of the states back through a row."""
    n_state = decay.shape[0]
    for e in range(n):
        d_write[e] = ZERO
        d_power[e] = ZERO
    for i in range(n_state):
        b, c = B[i], C[i]
        d_C[i] += dot(states, (r + 1) * n_state + i, d_y, n)
        for e in range(n):
            d_state[i, e] = fma(d_y[e], c, d_state[i, e])
        if written:
            d_B[i] += dot(d_state, i, write[r], n)
            for e in range(n):
                d = d_state[i, e]
                d_write[e] = fma(d, b, d_write[e])
                d = d * factors[r * n_state + i, e]
                d_state[i, e] = d
                exponent = d * states[r * n_state + i, e]
                d_power[e] = fma(exponent, decay[i, e], d_power[e])
                d_decay[i, e] = fma(exponent, delta[r, e], d_decay[i, e])


@njit(**COMPILE)
@no_type_check
def adjoint(
    x: Any, delta: Any, B: Any, C: Any, gate: Any, strides: Any, decay: Any, h_start: Any,
    starts: Any, D: Any, given: Any, keep: Any, use_softplus: bool, checkpoints: Any, d_out: Any,
    d_end: Any, d_kept: Any, d_x: Any, d_delta: Any, d_decay: Any, d_B: Any, d_C: Any,
    d_start: Any, d_D: Any, d_gate: Any,
) -> None:  # fmt: skip
    """Write all gradients; arrays of what is absent have no entries."""
    n_state, width = decay.shape
    states = np.empty(((CHUNK + 1) * n_state, SLAB), np.float32)
    factors = np.empty((CHUNK * n_state, SLAB), np.float32)
    local = np.empty((3, n_state, SLAB), np.float32)
    own, total, d = local[0], local[1], local[2]
    rows = np.empty((3, CHUNK, SLAB), np.float32)
    steps, write, y = rows[0], rows[1], rows[2]
    flat = np.empty((4, SLAB), np.float32)
    d_y, d_write, d_power, skipped = flat[0], flat[1], flat[2], flat[3]
    for left in range(0, width, SLAB):
        n = min(SLAB, width - left)
        checkpoint, keep_at = len(checkpoints), len(keep)
        copy_in(decay, left, n, own)
        total[:] = ZERO
        for s in range(len(starts) - 2, -1, -1):
            first, past = starts[s], starts[s + 1]
            if len(d_end):
                copy_in(d_end[s], left, n, d)
            else:
                d[:] = ZERO
            for chunk in range((past - first - 1) // CHUNK, -1, -1):
                begin = first + chunk * CHUNK
                until = min(begin + CHUNK, past)
                if chunk:
                    checkpoint -= 1
                    copy_in(checkpoints[checkpoint], left, n, states)
                else:
                    copy_in(h_start[s], left, n, states)
                untouched = chunk == 0 and len(given) > 0 and given[s]
                for t in range(begin, until):
                    r = t - begin
                    x_row = piece(x, strides[0], t, left, n)
                    delta_row = piece(delta, strides[1], t, left, n)
                    ready(x_row, delta_row, use_softplus, steps[r], write[r])
                    B_row = piece(B, strides[2], t, 0, n_state)
                    C_row = piece(C, strides[3], t, 0, n_state)
                    rerun(states, factors, own, steps, write, B_row, C_row, y, r, n,
                          r > 0 or not untouched)  # fmt: skip
                for t in range(until - 1, begin - 1, -1):
                    r = t - begin
                    if keep_at > 0 and keep[keep_at - 1] == t:
                        keep_at -= 1
                        if len(d_kept):
                            add(d_kept[keep_at], left, n, d)
                    x_row = piece(x, strides[0], t, left, n)
                    delta_row = piece(delta, strides[1], t, left, n)
                    B_row = piece(B, strides[2], t, 0, n_state)
                    C_row = piece(C, strides[3], t, 0, n_state)
                    for e in range(n):
                        d_y[e] = ZERO
                        skipped[e] = ZERO
                    if len(d_out):
                        d_y[:n] = d_out[t, left : left + n]
                    if len(D):
                        through_gate(
                            x_row, D[left : left + n], piece(gate, strides[4], t, left, n), y[r],
                            d_y, skipped, d_D[left : left + n], d_gate[t, left : left + n],
                        )  # fmt: skip
                    back(states, factors, own, steps, write, B_row, C_row, d, total, d_y, d_write,
                         d_power, d_B[t], d_C[t], r, n, r > 0 or not untouched)  # fmt: skip
                    finish(x_row, delta_row, use_softplus, steps[r], d_write, d_power, skipped,
                           d_x[t, left : left + n], d_delta[t, left : left + n])  # fmt: skip
            for i in range(n_state):
                for e in range(n):
                    d_start[s, i, left + e] = d[i, e]
        for i in range(n_state):
            for e in range(n):
                d_decay[i, left + e] = total[i, e] * LN_2


@njit(**COMPILE)
@no_type_check
def add(plane: Any, left: int, n: int, to: Any) -> None:
    """Add the states of a block of channels."""
    for i in range(plane.shape[0]):
        for e in range(n):
            to[i, e] += plane[i, left + e]


@njit(**COMPILE)
@no_type_check
def through_gate(
    x: Any, D: Any, gate: Any, y: Any, d_y: Any, skipped: Any, d_D: Any, d_gate: Any
) -> None:
    """Turn the gradient of a row of `out` into that of y, of x by the skip, of D and the gate."""
    for e in range(len(x)):
        opened = sigmoid(gate[e])
        slope = opened * fma(gate[e], ONE - opened, ONE)
        d_gate[e] = d_y[e] * fma(D[e], x[e], y[e]) * slope
        d_y[e] = d_y[e] * silu(gate[e])
        d_D[e] = fma(d_y[e], x[e], d_D[e])
        skipped[e] = d_y[e] * D[e]


@njit(**COMPILE)
@no_type_check
def finish(
    x: Any, delta: Any, use_softplus: bool, steps: Any, d_write: Any, d_power: Any, skipped: Any,
    d_x: Any, d_delta: Any,
) -> None:  # fmt: skip
    """Write the gradients of a row of x and delta."""
    for e in range(len(x)):
        d_x[e] = fma(d_write[e], steps[e], skipped[e])
        d_delta[e] = fma(d_write[e], x[e], d_power[e] * LN_2)
    if use_softplus:
        for e in range(len(x)):
            d_delta[e] *= sigmoid(delta[e])
