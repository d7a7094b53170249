"""What does one Mamba-1 block compute, and where can one look in?

Each line of `forward` is one line of the computation graph with its hook, in MambaLens's order.
The fused projections stay whole, as the files have them, so that weights can be shared between
processes; the split weights MambaLens users know are views.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import nn

from mechtest.checkpoints import MambaCfg
from mechtest.kernels import (
    FUSED,
    ScanPath,
    causal_conv,
    choose_scan,
    compiled_for,
    discretize,
    selective_scan,
    window_after,
)
from mechtest.kernels.segments import conv_segments, past_skip, silu_rows, softplus_rows
from mechtest.models.fused_scan import Parameters, ScanInputs, scan_through_hooks, starts_of
from mechtest.models.hook_points import HookPoint, PositionHooks
from mechtest.models.layers import LinearView, MambaMixer, RMSNorm, at_least_float32
from mechtest.models.state import RecurrentState
from mechtest.sites.table import BLOCK_HOOKS


class MambaBlock(nn.Module):
    """One layer: norm, mixer, and the addition to the residual stream.

    Args:
        cfg: Shapes and constants.
        layer: Index of this block, for hook names.

    Attributes:
        last_scan: Name of the scan path the last forward pass took.
    """

    def __init__(self, cfg: MambaCfg, layer: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.layer = layer
        self.norm = RMSNorm(cfg.d_model, cfg.norm_eps)
        self.mixer = MambaMixer(cfg)
        self.last_scan = ""
        self.hooks: dict[str, HookPoint | PositionHooks] = {}
        for spec in BLOCK_HOOKS:
            name = f"blocks.{layer}.{spec.name}"
            point = PositionHooks(name) if spec.per_position else HookPoint(name)
            self.hooks[spec.name] = point
            if "." not in spec.name:
                setattr(self, spec.name, point)

    def _pass(self, hook: str, value: torch.Tensor) -> torch.Tensor:
        point = self.hooks[hook]
        assert isinstance(point, HookPoint)
        return point(value)

    def _pass_at(self, hook: str, position: int, value: torch.Tensor) -> torch.Tensor:
        point = self.hooks[hook]
        assert isinstance(point, PositionHooks)
        return point(position, value)

    def forward(
        self,
        resid: Float[torch.Tensor, "batch pos d_model"],
        *,
        mask: Bool[torch.Tensor, "batch pos"] | None = None,
        state: RecurrentState | None = None,
        fast_ssm: bool | None = None,
    ) -> tuple[Float[torch.Tensor, "batch pos d_model"], RecurrentState]:
        """Run the block.

        Args:
            resid: Residual stream entering the block.
            mask: False at padding; those rows reach neither the window nor the state.
            state: State to start from (zeros when None).
            fast_ssm: See `kernels.dispatch.choose_scan`.

        Returns:
            (residual stream leaving the block, state after the last position).
        """
        resid = self._pass("hook_resid_pre", resid)
        layer_input = self._pass("hook_layer_input", resid)
        normed = self._pass("hook_normalized_input", self.norm(layer_input))
        normed = normed.to(self.mixer.in_proj.weight.dtype)

        fused = self._pass("mixer.in_proj.hook_out", self.mixer.in_proj(normed))
        path = choose_scan(
            self._listened(),
            resid.device.type,
            fast_ssm,
            compiled=compiled_for(normed.device.type, normed.dtype),
        )
        self.last_scan = path.name
        inner, gate = fused.chunk(2, dim=-1)
        if path is not FUSED or self.hooks["hook_skip"].has_hooks:
            # torch's elementwise functions round differently on strided views: a hook that returns
            # a copy would change the last bit. And a cached half would keep the other one alive.
            gate = gate.contiguous()
        if path is not FUSED or self.hooks["hook_in_proj"].has_hooks:
            inner = inner.contiguous()
        skip = self._pass("hook_skip", gate)
        inner = _masked(self._pass("hook_in_proj", inner), mask)

        x, window = self._convolve(inner, None if state is None else state.conv, path)
        # Masked after the hooks: an edit at padding must not reach the window or the state.
        x = _masked(self._pass("hook_ssm_input", x), mask)

        recur = self._recur_fused if path is FUSED else self._recur
        after_skip, h = recur(x, skip, None if state is None else state.h, path)
        after_skip = self._pass("hook_after_skip", after_skip)
        out = self._pass("hook_out_proj", self.mixer.out_proj(after_skip.to(normed.dtype)))
        resid = self._pass("hook_resid_post", resid + out)
        return resid, RecurrentState(h, window)

    def _convolve(
        self, rows: torch.Tensor, window: torch.Tensor | None, path: ScanPath
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Convolve and activate, cutting the prompt where somebody may edit the window."""
        if window is None:
            window = rows.new_zeros(rows.shape[0], self.cfg.d_conv - 1, rows.shape[2])
        fused = path is FUSED
        listened = self.hooks["hook_conv"].has_hooks
        n_pos = rows.shape[1]
        windows = self.hooks["hook_conv_state"]
        assert isinstance(windows, PositionHooks)
        pieces, start = [], 0
        cuts = set(windows.edits_before(n_pos))
        for position in sorted(cuts | {n_pos - 1}):
            piece = rows[:, start : position + 1]
            pieces.append(
                self._convolved(piece, window, fused=fused, activate=fused and not listened)
            )
            reads = [read for read in windows.active(position) if read >= start]
            seen = torch.cat([window, piece], dim=1) if reads else piece
            for read in reads:  # a copy: a view would keep the whole prompt in a cache
                windows(read, seen[:, read + 1 - start :][:, : window.shape[1]].clone())
            window = windows(position, window_after(window, piece))
            start = position + 1
        conv = pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=1)
        if fused and not listened:
            return conv, window
        conv = self._pass("hook_conv", conv)
        return (silu_rows(conv.flatten(0, 1)).view_as(conv) if fused else F.silu(conv)), window

    def _convolved(
        self, piece: torch.Tensor, window: torch.Tensor, *, fused: bool, activate: bool
    ) -> torch.Tensor:
        """Convolve one piece of all prompts; the kernels activate it on the way if they may."""
        weight, bias = self.mixer.conv1d.weight, self.mixer.conv1d.bias
        if not fused:
            return causal_conv(piece, weight, bias, window)
        starts = starts_of(piece)
        rows = conv_segments(piece.flatten(0, 1), weight, bias, window, starts, activate=activate)
        return rows.view_as(piece)

    def _step(self, x: torch.Tensor, path: ScanPath) -> Parameters:
        """Derive the step's parameters from x; the step size before softplus where nobody looks."""
        compute = at_least_float32(x.dtype)
        rank, n_state = self.cfg.R, self.cfg.N
        A = self._pass("hook_A", -torch.exp(self.mixer.A_log.to(compute)))
        projected = self._pass("mixer.x_proj.hook_out", self.mixer.x_proj(x))
        parts = projected.split([rank, n_state, n_state], dim=-1)
        low_rank, into, out_of = (part.contiguous() for part in parts)
        delta_1 = self._pass("hook_delta_1", low_rank)
        delta_2 = self._pass("hook_delta_2", self.mixer.dt_proj(delta_1)).to(compute)
        B = self._pass("hook_B", into).to(compute)
        C = self._pass("hook_C", out_of).to(compute)
        raw = path is FUSED and not self.hooks["hook_delta"].has_hooks
        if raw:
            return Parameters(A, B, C, delta_2, raw)
        softplus = softplus_rows if path is FUSED else F.softplus
        delta = softplus(delta_2.flatten(0, 1)).view_as(delta_2)
        return Parameters(A, B, C, self._pass("hook_delta", delta), raw)

    def _recur(
        self, x: torch.Tensor, skip: torch.Tensor, h_start: torch.Tensor | None, path: ScanPath
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the scan in torch, one position after the other."""
        compute = at_least_float32(x.dtype)
        step = self._step(x, path)
        decays = writes = None
        if path.materializes:
            decays, into_state = discretize(step.delta, step.A, step.B)
            decays = self._pass("hook_A_bar", decays)
            into_state = self._pass("hook_B_bar", into_state)
            writes = into_state * x.to(compute).unsqueeze(-1)
            writes = self._pass("hook_ssm_write", writes)
        if h_start is None:
            h_start = x.new_zeros(x.shape[0], x.shape[2], self.cfg.N, dtype=compute)
        y, h = selective_scan(
            x.to(compute),
            step.delta,
            step.A,
            step.B,
            step.C,
            self._pass("hook_h_start", h_start.to(compute)),
            decays=decays,
            writes=writes,
            on_state=lambda position, h: self._pass_at("hook_h", position, h),
        )
        y = self._pass("hook_y", y)
        ssm_output = self._pass("hook_ssm_output", y + x * self.mixer.D.to(y.dtype))
        return ssm_output * F.silu(skip), h

    def _recur_fused(
        self, x: torch.Tensor, skip: torch.Tensor, h_start: torch.Tensor | None, path: ScanPath
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Run the scan in the segment kernels, gated at once where nobody looks in between."""
        step = self._step(x, path)
        if h_start is None:
            h_start = x.new_zeros(x.shape[0], x.shape[2], self.cfg.N)
        h_start = self._pass("hook_h_start", h_start)
        states = self.hooks["hook_h"]
        assert isinstance(states, PositionHooks)
        if not (self.hooks["hook_y"].has_hooks or self.hooks["hook_ssm_output"].has_hooks):
            inputs = ScanInputs(x, step, self.mixer.D, skip)
            return scan_through_hooks(inputs, h_start, states)
        y, h = scan_through_hooks(ScanInputs(x, step, None, None), h_start, states)
        y = self._pass("hook_y", y)
        ssm_output = self._pass("hook_ssm_output", past_skip(y, x, self.mixer.D))
        return ssm_output * silu_rows(skip.flatten(0, 1)).view_as(skip), h

    def _listened(self) -> frozenset[str]:
        return frozenset(name for name, point in self.hooks.items() if point.has_hooks)

    # --- weights under their MambaLens names: views, no copies -----------------------------------

    @property
    def in_proj(self) -> LinearView:
        """Projection to the convolution's input, [d_inner, d_model]."""
        return self._rows(self.mixer.in_proj, 0, self.cfg.E)

    @property
    def skip_proj(self) -> LinearView:
        """Projection to the gate, [d_inner, d_model]."""
        return self._rows(self.mixer.in_proj, self.cfg.E, 2 * self.cfg.E)

    @property
    def conv1d(self) -> nn.Conv1d:
        """Taps [d_inner, 1, d_conv] and bias."""
        return self.mixer.conv1d

    @property
    def W_delta_1(self) -> LinearView:
        """Low-rank step-size projection, [dt_rank, d_inner]."""
        return self._rows(self.mixer.x_proj, 0, self.cfg.R)

    @property
    def W_delta_2(self) -> nn.Linear:
        """Projection from dt_rank to d_inner, with bias."""
        return self.mixer.dt_proj

    @property
    def W_B(self) -> LinearView:
        """Input-matrix projection, [d_state, d_inner]."""
        return self._rows(self.mixer.x_proj, self.cfg.R, self.cfg.R + self.cfg.N)

    @property
    def W_C(self) -> LinearView:
        """Output-matrix projection, [d_state, d_inner]."""
        first = self.cfg.R + self.cfg.N
        return self._rows(self.mixer.x_proj, first, first + self.cfg.N)

    @property
    def A_log(self) -> nn.Parameter:
        """Logarithm of the negated decay, [d_inner, d_state]."""
        return self.mixer.A_log

    @property
    def W_D(self) -> nn.Parameter:
        """Weight of the direct path, [d_inner]."""
        return self.mixer.D

    @property
    def out_proj(self) -> nn.Linear:
        """Projection back to the residual stream, [d_model, d_inner]."""
        return self.mixer.out_proj

    @staticmethod
    def _rows(linear: nn.Linear, start: int, stop: int) -> LinearView:
        bias = None if linear.bias is None else linear.bias[start:stop]
        return LinearView(linear.weight[start:stop], bias)


def _masked(rows: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return rows if mask is None else rows * mask.unsqueeze(-1).to(rows.dtype)
