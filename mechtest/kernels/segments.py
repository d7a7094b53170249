"""How is a Mamba's mixer run over packed rows: pieces of many prompts, each from its own state?

Rows of different prompts, positions and interventions stand below one another in one matrix, cut
into segments of consecutive positions. Each segment starts from a convolution window and a state of
its own, so that a run can go on from the middle of a prompt without repeating what came before.

States are kept "d_state d_inner" here, lanes over channels; hooks show them the other way round.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int

from mechtest.kernels.arguments import ScanArguments
from mechtest.kernels.backends import Backend, Resumes, backend_for

__all__ = [
    "ScannedSegments",
    "compiled_for",
    "conv_segments",
    "gate_rows",
    "past_skip",
    "prepare_decay",
    "resume_segments",
    "rms_norm_rows",
    "scan_segments",
    "silu_rows",
    "softplus_rows",
]

LOG2_E = 1.4426950408889634


class ScannedSegments(NamedTuple):
    """What a scan over packed rows gives.

    Attributes:
        out: y; with `D` and `gate`, (y + D x) silu(gate).
        end: State after the last row of each segment.
        kept: States after the rows asked for, in their order.
    """

    out: Float[torch.Tensor, "row d_inner"]
    end: Float[torch.Tensor, "segment d_state d_inner"]
    kept: Float[torch.Tensor, "kept d_state d_inner"]


def prepare_decay(
    A: Float[torch.Tensor, "d_inner d_state"],
) -> Float[torch.Tensor, "d_state d_inner"]:
    """Return A as the kernels take it: transposed, and times log2(e), for powers of two."""
    return (A * LOG2_E).T.contiguous()


def conv_segments(
    rows: Float[torch.Tensor, "row d_inner"],
    weight: Float[torch.Tensor, "d_inner 1 d_conv"],
    bias: Float[torch.Tensor, " d_inner"] | None,
    windows: Float[torch.Tensor, "segment window d_inner"],
    starts: Int[torch.Tensor, " segment+1"],
    *,
    activate: bool = True,
) -> Float[torch.Tensor, "row d_inner"]:
    """Convolve every channel causally within each segment; then silu, unless told otherwise.

    Args:
        rows: Inputs; the last axis is contiguous, rows may be strided (half of a fused projection).
        weight: Taps; the last one multiplies the current row.
        bias: Added to every row, or None.
        windows: The d_conv-1 rows before each segment, oldest first.
        starts: First row of each segment, and the number of rows at the end (int64, on the CPU);
            no segment is empty.
        activate: False gives what comes before silu; `silu_rows` of it is the same to the last bit.
    """
    backend = _backend(rows)
    return backend.conv(rows, weight, bias, windows, starts, activate)


def scan_segments(
    x: Float[torch.Tensor, "row d_inner"],
    delta: Float[torch.Tensor, "row d_inner"],
    decay: Float[torch.Tensor, "d_state d_inner"],
    B: Float[torch.Tensor, "row d_state"],
    C: Float[torch.Tensor, "row d_state"],
    h_start: Float[torch.Tensor, "segment d_state d_inner"],
    starts: Int[torch.Tensor, " segment+1"],
    *,
    D: Float[torch.Tensor, " d_inner"] | None = None,
    gate: Float[torch.Tensor, "row d_inner"] | None = None,
    given: Bool[torch.Tensor, " segment"] | None = None,
    keep: Int[torch.Tensor, " kept"] | None = None,
    softplus: bool = False,
) -> ScannedSegments:
    """Run h = 2^(delta decay) h + (delta x) B and read y = h C within each segment.

    Args:
        x: Inputs of the recurrence.
        delta: Step sizes, or with `softplus` what they are the softplus of.
        decay: From `prepare_decay`.
        B: Input matrix of each row (rows may be strided).
        C: Output matrix of each row (rows may be strided).
        h_start: State before each segment.
        starts: As for `conv_segments`.
        D: Skip weights; given together with `gate` or not at all.
        gate: What silu gates the output with (rows may be strided).
        given: True where `h_start` is the state AFTER the segment's first row: that row is only
            read. For going on from an edited state.
        keep: Rows whose state is wanted, ascending (int64, on the CPU).
        softplus: Apply softplus to `delta` first; the same to the last bit as `softplus_rows`.

    Numerics: float32 within 1e-5 of float64 at any length the tests have; float64 stays float64.
    With `D` and `gate`, the same to the last bit as `gate_rows` of the result without.
    Memory: never a tensor of rows times states.
    Sources: Gu & Dao 2023, algorithm 2 and section 3.3.2 (the fused kernel).
    """
    wants_gradient = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad
        for tensor in (x, delta, decay, B, C, h_start, D, gate)
    )
    backend = _backend(x)
    run = backend.scan_with_gradient if wants_gradient else backend.scan
    return ScannedSegments(
        *run(x, delta, decay, B, C, h_start, starts, D, gate, given, keep, softplus)
    )


def resume_segments(
    x: Float[torch.Tensor, "row d_inner"],
    delta: Float[torch.Tensor, "row d_inner"],
    decay: Float[torch.Tensor, "d_state d_inner"],
    B: Float[torch.Tensor, "row d_state"],
    C: Float[torch.Tensor, "row d_state"],
    h_start: Float[torch.Tensor, "state d_state d_inner"],
    starts: Int[torch.Tensor, " boundary"],
    out: Float[torch.Tensor, "row d_inner"],
    *,
    slots: Int[torch.Tensor, " segment"] | None = None,
    D: Float[torch.Tensor, " d_inner"] | None = None,
    gate: Float[torch.Tensor, "row d_inner"] | None = None,
    given: Bool[torch.Tensor, " segment"] | None = None,
    keep: Int[torch.Tensor, " kept"] | None = None,
    softplus: bool = False,
) -> Float[torch.Tensor, "kept d_state d_inner"]:
    """Run `scan_segments` without gradients, and without what many segments would only copy.

    Args:
        x: As for `scan_segments`, and likewise:
        delta: Step sizes.
        decay: From `prepare_decay`.
        B: Input matrix.
        C: Output matrix.
        h_start: States to start from; several segments may start from one.
        starts: First row of each segment, and the number of rows.
        out: Where the read-outs go.
        slots: Which state each segment starts from; None is its own.
        D: Skip weights.
        gate: What gates the output.
        given: Where the state is the one after the first row.
        keep: Rows whose state is wanted.
        softplus: Whether `delta` is to go through softplus.

    Returns:
        The states asked for by `keep`; end states are not made.
    """
    backend = _backend(x)
    if isinstance(backend, Resumes) and out.is_contiguous():
        slots = None if slots is None else slots.cpu().contiguous()
        checked = ScanArguments.checked(
            x, delta, decay, B, C, h_start, starts, D, gate, given, keep, softplus, slots
        )
        return backend.resume(checked, slots, out)
    own = h_start if slots is None else h_start[slots.to(h_start.device)]
    found, _, kept = backend.scan(
        x, delta, decay, B, C, own, starts, D, gate, given, keep, softplus
    )
    out.copy_(found)
    return kept


def gate_rows(
    y: Float[torch.Tensor, "row d_inner"],
    x: Float[torch.Tensor, "row d_inner"],
    D: Float[torch.Tensor, " d_inner"],
    gate: Float[torch.Tensor, "row d_inner"],
) -> Float[torch.Tensor, "row d_inner"]:
    """Return (y + D x) silu(gate), as the fused scan does it."""
    return _backend(y).gate(y, x, D, gate)


def past_skip(
    y: Float[torch.Tensor, "*rows d_inner"],
    x: Float[torch.Tensor, "*rows d_inner"],
    D: Float[torch.Tensor, " d_inner"],
) -> Float[torch.Tensor, "*rows d_inner"]:
    """Return y + D x, which the fused scan computes on its way to the gate.

    Compiled kernels round this sum once; so does it here, by way of float64.
    """
    if y.device.type != "cpu" or not compiled_for("cpu", y.dtype):
        return y + D * x
    return (y.double() + D.double() * x.double()).to(y.dtype)


def compiled_for(device: str, dtype: torch.dtype) -> bool:
    """Return whether more than torch runs for a device and dtype."""
    return backend_for(device, dtype).name != "torch"


def silu_rows(rows: Float[torch.Tensor, "row d_inner"]) -> Float[torch.Tensor, "row d_inner"]:
    """Return silu, as the fused kernels do it."""
    return _backend(rows).silu(rows)


def softplus_rows(rows: Float[torch.Tensor, "row d_inner"]) -> Float[torch.Tensor, "row d_inner"]:
    """Return softplus, as the fused scan does it."""
    return _backend(rows).softplus(rows)


def rms_norm_rows(
    rows: Float[torch.Tensor, "row d_model"], weight: Float[torch.Tensor, " d_model"], eps: float
) -> Float[torch.Tensor, "row d_model"]:
    """Return rows / rms(rows) * weight.

    Sources: Zhang & Sennrich 2019, section 3.
    """
    return _backend(rows).rms_norm(rows, weight, eps)


def _backend(like: torch.Tensor) -> Backend:
    return backend_for(like.device.type, like.dtype)
