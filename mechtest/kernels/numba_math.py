"""What are 2^v, e^x, silu and softplus of one channel, so that LLVM makes vectors of the loops?

No branches, no library calls, and multiply-adds fused exactly where `fma` says so: a channel gets
the same bits in the vector part of a loop and in what is left over, alone or with others. The
formulas are those of vectors.h; the two need not agree to the last bit.
"""

from __future__ import annotations

from typing import Any, no_type_check

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

__all__ = ["COMPILE", "exp2", "fma", "sigmoid", "silu", "softplus"]

COMPILE: dict[str, Any] = {"cache": True, "nogil": True, "error_model": "numpy"}
# no_type_check: what checks shapes while tests run would wrap the functions, and numba the wrapper.

f32 = np.float32
ROUNDER = f32(12582912.0)
"""1.5 * 2^23: adding it leaves an integer in the low bits."""
ZERO, ONE, TWO = f32(0.0), f32(1.0), f32(2.0)
LOW, HIGH = f32(-126.0), f32(128.0)
E_LOW, E_HIGH = f32(-87.33), f32(89.0)
LOG2_E, LN2_HIGH, LN2_LOW = f32(1.44269504), f32(-0.693359375), f32(2.12194440e-4)
P6, P5, P4 = f32(1.53533620e-4), f32(1.33988750e-3), f32(9.61843692e-3)
P3, P2, P1 = f32(5.55033237e-2), f32(2.40226477e-1), f32(6.93147182e-1)
Q4, Q3, Q2 = f32(1.38146128e-3), f32(8.36871006e-3), f32(4.16683890e-2)
Q1, Q0 = f32(1.66665211e-1), f32(4.99999940e-1)
R4, R3, R2 = f32(2.42895577e-1), f32(2.14307408e-1), f32(2.86165967e-1)
R1, R0 = f32(3.99988884e-1), f32(6.66666755e-1)


@intrinsic
@no_type_check
def fma(typing_context: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once."""
    signature = types.float32(types.float32, types.float32, types.float32)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return signature, generate


@intrinsic
@no_type_check
def power_of_two(typing_context: Any, shifted: Any) -> Any:
    """Return 2^n for n + ROUNDER; infinity for n = 128."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        whole = ir.IntType(32)
        bits = builder.bitcast(arguments[0], whole)
        offset = ir.Constant(whole, int(ROUNDER.view(np.int32)) - 127)
        bits = builder.shl(builder.sub(bits, offset), ir.Constant(whole, 23))
        return builder.bitcast(bits, ir.FloatType())

    return types.float32(types.float32), generate


@njit(**COMPILE)
@no_type_check
def exp2(v: Any) -> Any:
    """Return 2^v: 0 below -126; a NaN fails every comparison and passes through."""
    lost = v < LOW
    v = HIGH if v > HIGH else v
    v = LOW if lost else v
    shifted = v + ROUNDER
    f = v - (shifted - ROUNDER)
    p = fma(fma(fma(fma(fma(P6, f, P5), f, P4), f, P3), f, P2), f, P1)
    value = fma(p, f, ONE) * power_of_two(shifted)
    return ZERO if lost else value


@njit(**COMPILE)
@no_type_check
def exp(x: Any) -> Any:
    """Return e^x: 0 below -87.3, infinity above 88.7."""
    lost = x < E_LOW
    x = E_HIGH if x > E_HIGH else x
    x = E_LOW if lost else x
    shifted = fma(x, LOG2_E, ROUNDER)
    n = shifted - ROUNDER
    r = fma(n, LN2_LOW, fma(n, LN2_HIGH, x))
    p = fma(fma(fma(fma(Q4, r, Q3), r, Q2), r, Q1), r, Q0)
    value = (fma(p, r * r, r) + ONE) * power_of_two(shifted)
    return ZERO if lost else value


@njit(**COMPILE)
@no_type_check
def sigmoid(x: Any) -> Any:
    """Return 1 / (1 + e^-x)."""
    return ONE / (ONE + exp(-x))


@njit(**COMPILE)
@no_type_check
def silu(x: Any) -> Any:
    """Return x / (1 + e^-x)."""
    return x / (ONE + exp(-x))


@njit(**COMPILE)
@no_type_check
def softplus(x: Any) -> Any:
    """Return max(x, 0) + log(1 + e^-|x|), the logarithm as 2 atanh(t / (2 + t))."""
    t = exp(-x if x > ZERO else x)
    s = t / (t + TWO)
    z = s * s
    p = fma(fma(fma(fma(R4, z, R3), z, R2), z, R1), z, R0)
    return fma(p * z, s, s + s) + (x if x > ZERO else ZERO)
