"""What does one Mamba-1 block compute for packed rows, and where can rows be read and edited?

The same computation as `MambaBlock.forward`, in three stages that can each be entered with what an
unedited run had there: the projections before the convolution, those after it, and the recurrence.
Rows are visited at every hook of `mechtest.sites.table` that has positions; kernels that fuse a
hook away are taken apart where somebody looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int

from mechtest.kernels.segments import (
    conv_segments,
    gate_rows,
    past_skip,
    prepare_decay,
    resume_segments,
    rms_norm_rows,
    silu_rows,
    softplus_rows,
)
from mechtest.models.block import MambaBlock
from mechtest.models.workspace import Workspace

__all__ = ["ENTERED_BEFORE", "PACKED_HOOKS", "PackedBlock", "Steps", "Visit"]

Visit = Callable[[str, torch.Tensor], None]
"""Called with a hook's name and its rows, which it may change in place."""

ENTERED_BEFORE = {
    "hook_embed": 0,
    "hook_resid_pre": 0,
    "hook_layer_input": 0,
    "hook_normalized_input": 0,
    "mixer.in_proj.hook_out": 0,
    "hook_skip": 0,
    "hook_in_proj": 0,
    "hook_conv_state": 1,
    "hook_conv": 1,
    "hook_ssm_input": 1,
    "mixer.x_proj.hook_out": 1,
    "hook_delta_1": 1,
    "hook_delta_2": 1,
    "hook_B": 1,
    "hook_C": 1,
    "hook_delta": 1,
    "hook_h": 2,
    "hook_y": 2,
    "hook_ssm_output": 2,
    "hook_after_skip": 2,
    "hook_out_proj": 2,
    "hook_resid_post": 2,
}
"""Stage before which an edit of each hook has to enter: 0 the whole block, 1 from the convolution
on, 2 from the recurrence on."""

PACKED_HOOKS = frozenset(ENTERED_BEFORE)
"""Hooks whose rows can be visited; the others have no positions, or hold rows times states."""

FEWEST_ROWS = 32
"""Products of fewer rows go another way through the library and round otherwise: with rows of zeros
below them, a row's result is the same whatever else is computed with it."""

PASSED_BY = frozenset({"hook_embed", "hook_resid_pre", "hook_h"})
GATED = frozenset({"hook_y", "hook_ssm_output"})
BOTH_ENDS = frozenset(
    hook for hook, stage in ENTERED_BEFORE.items() if stage != 1 and hook not in PASSED_BY
)
"""Hooks at which every row of a block is needed, even where only the last position goes on."""


@dataclass(frozen=True, eq=False)
class Steps:
    """The recurrence's parameters, a row each.

    Attributes:
        x: Its inputs, "row d_inner".
        delta: Step sizes; before softplus if `raw`.
        B: "row d_state".
        C: "row d_state".
        raw: Whether softplus is still to be applied.
    """

    x: torch.Tensor
    delta: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    raw: bool

    def rows(self, index: torch.Tensor | slice) -> Steps:
        """Return some of the rows."""
        if isinstance(index, slice) and index.indices(len(self.x)) == (0, len(self.x), 1):
            return self
        x, delta, B, C = (part[index] for part in (self.x, self.delta, self.B, self.C))
        return Steps(x, delta, B, C, self.raw)


class PackedBlock:
    """One block's weights, and its computation in stages.

    Args:
        block: The block; its weights are used as they are now.
        looked_at: Hooks that are visited in this block.
        workspace: Where large results go.
    """

    def __init__(self, block: MambaBlock, looked_at: Collection[str], workspace: Workspace) -> None:
        self.cfg = block.cfg
        self.norm = block.norm
        self.mixer = block.mixer
        self.looked_at = frozenset(looked_at)
        self.workspace = workspace
        self._decay: torch.Tensor | None = None

    @property
    def decay(self) -> Float[torch.Tensor, "d_state d_inner"]:
        """A as the kernels take it."""
        if self._decay is None:
            self._decay = prepare_decay(-torch.exp(self.mixer.A_log))
        return self._decay

    def project_in(
        self, resid: Float[torch.Tensor, "row d_model"], fused: torch.Tensor, visit: Visit
    ) -> None:
        """Fill `fused` with the convolution's input, then the gate (stage 0).

        Args:
            resid: Residual stream.
            fused: "row 2*d_inner", or "row d_inner" to leave the gate out.
            visit: Called at every hook on the way.
        """
        layer_input = resid
        if "hook_layer_input" in self.looked_at:
            layer_input = resid.clone()  # the skip connection goes past this hook
            visit("hook_layer_input", layer_input)
        normed = rms_norm_rows(layer_input, self.norm.weight, self.norm.eps)
        visit("hook_normalized_input", normed)
        weight, bias = self.mixer.in_proj.weight, self.mixer.in_proj.bias
        width = fused.shape[1]
        linear(normed, weight[:width], None if bias is None else bias[:width], fused)
        if width < len(weight):
            return
        visit("mixer.in_proj.hook_out", fused)
        visit("hook_skip", fused[:, self.cfg.E :])
        visit("hook_in_proj", fused[:, : self.cfg.E])

    def convolve(
        self,
        inner: Float[torch.Tensor, "row d_inner"],
        windows: Float[torch.Tensor, "segment window d_inner"],
        starts: Int[torch.Tensor, " segment+1"],
        visit: Visit,
    ) -> Float[torch.Tensor, "row d_inner"]:
        """Return the input of the recurrence (first half of stage 1)."""
        taken_apart = "hook_conv" in self.looked_at
        conv = self.mixer.conv1d
        x = conv_segments(inner, conv.weight, conv.bias, windows, starts, activate=not taken_apart)
        if taken_apart:
            visit("hook_conv", x)
            x = silu_rows(x)
        visit("hook_ssm_input", x)
        return x

    def parameters(self, x: Float[torch.Tensor, "row d_inner"], into: Steps, visit: Visit) -> bool:
        """Fill B, C and delta of `into` (second half of stage 1); return whether delta is raw."""
        rank, n_state = self.cfg.R, self.cfg.N
        fused = self.workspace.take("x_proj", len(x), rank + 2 * n_state)
        linear(x, self.mixer.x_proj.weight, None, fused)
        visit("mixer.x_proj.hook_out", fused)
        low_rank = fused[:, :rank]
        visit("hook_delta_1", low_rank)
        linear(low_rank, self.mixer.dt_proj.weight, self.mixer.dt_proj.bias, into.delta)
        visit("hook_delta_2", into.delta)
        into.B.copy_(fused[:, rank : rank + n_state])
        visit("hook_B", into.B)
        into.C.copy_(fused[:, rank + n_state :])
        visit("hook_C", into.C)
        if "hook_delta" not in self.looked_at:
            return True
        into.delta.copy_(softplus_rows(into.delta))
        visit("hook_delta", into.delta)
        return False

    def recur(
        self,
        steps: Steps,
        gate: Float[torch.Tensor, "row d_inner"] | None,
        h_start: Float[torch.Tensor, "state d_state d_inner"],
        starts: Int[torch.Tensor, " boundary"],
        out: Float[torch.Tensor, "row d_inner"],
        *,
        slots: torch.Tensor | None = None,
        given: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
    ) -> Float[torch.Tensor, "kept d_state d_inner"]:
        """Run the recurrence into `out`, gated where `gate` is given and nobody looks in between.

        Args:
            steps: Its parameters.
            gate: Gate of each row.
            h_start: States to start from.
            starts: First row of each segment.
            out: Read-outs.
            slots: State each segment starts from; None is its own.
            given: See `mechtest.kernels.segments.scan_segments`.
            keep: Rows whose state is returned.
        """
        at_once = gate is not None and not self.looked_at & GATED
        return resume_segments(
            steps.x,
            steps.delta,
            self.decay,
            steps.B,
            steps.C,
            h_start,
            starts,
            out,
            slots=slots,
            D=self.mixer.D if at_once else None,
            gate=gate if at_once else None,
            given=given,
            keep=keep,
            softplus=steps.raw,
        )

    def gated(
        self, out: torch.Tensor, x: torch.Tensor, gate: torch.Tensor, visit: Visit
    ) -> Float[torch.Tensor, "row d_inner"]:
        """Return the gated read-out, finishing what `recur` left open."""
        if self.looked_at & GATED:
            visit("hook_y", out)
            out = past_skip(out, x, self.mixer.D)
            visit("hook_ssm_output", out)
            out = out * silu_rows(gate)
        visit("hook_after_skip", out)
        return out

    def add_to(
        self, resid: Float[torch.Tensor, "row d_model"], after_skip: torch.Tensor, visit: Visit
    ) -> None:
        """Project and add to the residual stream, in place."""
        weight, bias = self.mixer.out_proj.weight, self.mixer.out_proj.bias
        if "hook_out_proj" in self.looked_at:
            out = torch.empty_like(resid)
            linear(after_skip, weight, bias, out)
            visit("hook_out_proj", out)
            resid += out
        else:
            if len(resid) < FEWEST_ROWS:
                out = torch.empty_like(resid)
                linear(after_skip, weight, None, out)
                resid += out
            else:
                resid.addmm_(after_skip, weight.T)
            if bias is not None:
                resid += bias
        visit("hook_resid_post", resid)

    def last_gated(
        self, resid: torch.Tensor, x: torch.Tensor, out: torch.Tensor
    ) -> Float[torch.Tensor, "row d_inner"]:
        """Return the gated read-out of a few rows whose gate was not computed."""
        normed = rms_norm_rows(resid, self.norm.weight, self.norm.eps)
        width, bias = self.cfg.E, self.mixer.in_proj.bias
        gate = torch.empty_like(x)
        linear(
            normed, self.mixer.in_proj.weight[width:], None if bias is None else bias[width:], gate
        )
        return gate_rows(out, x, self.mixer.D, gate)


def linear(
    rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor
) -> None:
    """Write rows @ weight.T + bias into `out`, which may be no part of `rows`."""
    if len(rows) < FEWEST_ROWS:
        padded = rows.new_zeros(FEWEST_ROWS, rows.shape[1])
        padded[: len(rows)] = rows
        out.copy_(torch.nn.functional.linear(padded, weight, bias)[: len(rows)])
        return
    if bias is None:
        torch.mm(rows, weight.T, out=out)
    else:
        torch.addmm(bias, rows, weight.T, out=out)
