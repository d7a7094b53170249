"""May these tensors be handed to code that trusts their addresses?

Shapes in annotations are only checked while tests run; a compiled kernel reads whatever is there.
So every argument passes here first, on its way to a pointer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mechtest.errors import ShapeError

__all__ = ["ScanArguments", "indices", "matrix", "planes", "refuse_rows", "same_plane"]


@dataclass(frozen=True, slots=True)
class ScanArguments:
    """What `scan_segments` was given, fit to be pointed at; see there."""

    x: torch.Tensor
    delta: torch.Tensor
    decay: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    h_start: torch.Tensor
    starts: torch.Tensor
    D: torch.Tensor | None
    gate: torch.Tensor | None
    given: torch.Tensor | None
    keep: torch.Tensor | None
    softplus: bool

    @classmethod
    def checked(
        cls,
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
        slots: torch.Tensor | None = None,
    ) -> ScanArguments:
        """Return the arguments with shapes, dtypes and layout checked.

        With `slots`, which say where in `h_start` each segment starts, there may be any number of
        start states.

        Raises:
            ShapeError: They do not go together.
        """
        (n_rows, width), n_state, n_segments = x.shape, decay.shape[0], len(starts) - 1
        ungated = D is None or gate is None
        if given is not None and given.shape != (n_segments,):
            raise ShapeError(
                "given has not one entry for each segment",
                given=tuple(given.shape),
                expected=str((n_segments,)),
            )
        if slots is not None:
            _check_slots(slots, n_segments, len(h_start))
        return cls(
            matrix("x", x, n_rows, width),
            matrix("delta", delta, n_rows, width),
            same_plane("decay", decay, n_state, width),
            matrix("B", B, n_rows, n_state),
            matrix("C", C, n_rows, n_state),
            planes(
                "h_start",
                h_start,
                n_segments if slots is None else len(h_start),
                n_state,
                width,
            ),
            indices(starts),
            None if ungated or D is None else same_plane("D", D, width),
            None if ungated or gate is None else matrix("gate", gate, n_rows, width),
            None if given is None else given.to("cpu", torch.bool).contiguous(),
            None if keep is None else indices(keep),
            softplus,
        )

    @property
    def n_keep(self) -> int:
        """How many states are wanted."""
        return 0 if self.keep is None else len(self.keep)

    def n_checkpoints(self, rows: int) -> int:
        """Return how many states lie inside segments when each of them is cut every `rows`."""
        return int(((self.starts.diff() - 1) // rows).sum())


def matrix(name: str, tensor: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return float32 rows of this shape whose last axis is contiguous; a copy if it is not."""
    _check(name, tensor, shape)
    if tensor.stride(-1) != 1 and tensor.shape[-1] != 1:
        return tensor.contiguous()
    return tensor


def same_plane(name: str, tensor: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return a float32 tensor of this shape without gaps; a copy if it has any."""
    _check(name, tensor, shape)
    return tensor.contiguous()


def planes(name: str, tensor: torch.Tensor, *shape: int) -> torch.Tensor:
    """Return float32 planes without gaps, any distance apart (0: one plane for all)."""
    _check(name, tensor, shape)
    if len(tensor) and not tensor[0].is_contiguous():
        return tensor.contiguous()
    return tensor


def indices(tensor: torch.Tensor) -> torch.Tensor:
    """Return row numbers as the kernels read them."""
    return tensor.to(device="cpu", dtype=torch.int64).contiguous()


def refuse_rows(code: int, starts: torch.Tensor, keep: torch.Tensor | None, n_rows: int) -> None:
    """Raise what a kernel found wrong with the rows it was pointed to.

    Raises:
        ShapeError: `starts` or `keep` do not describe rows that exist.
        MemoryError: No memory was left.
    """
    if code == 0:
        return
    if code == 1:
        raise ShapeError(
            f"starts does not cut {n_rows} rows into segments",
            given=starts.tolist(),
            expected=f"ascending row numbers from 0 to {n_rows}, no segment empty",
        )
    if code == 2:
        raise ShapeError(
            f"keep does not name rows of {n_rows}",
            given=None if keep is None else keep.tolist(),
            expected=f"ascending row numbers below {n_rows}, each once",
        )
    raise MemoryError("no memory for the scratch space of a kernel")


def _check_slots(slots: torch.Tensor, n_segments: int, n_states: int) -> None:
    inside = not len(slots) or 0 <= int(slots.min()) <= int(slots.max()) < n_states
    if slots.dtype is not torch.int64 or slots.shape != (n_segments,) or not inside:
        raise ShapeError(
            "slots do not say where each segment starts",
            given=f"{slots.dtype} {tuple(slots.shape)}",
            expected=f"int64 ({n_segments},), from 0 to {n_states - 1}",
        )


def _check(name: str, tensor: torch.Tensor, shape: Sequence[int]) -> None:
    if tensor.dtype is not torch.float32 or tensor.device.type != "cpu":
        raise ShapeError(
            f"{name} is not float32 on the CPU like the rows it goes with",
            given=f"{tensor.dtype} on {tensor.device}",
            next_step="bring all tensors of a call to one dtype and device",
        )
    if tensor.shape != tuple(shape):
        raise ShapeError(
            f"{name} has another shape than the tensors it goes with",
            given=tuple(tensor.shape),
            expected=str(tuple(shape)),
        )
