"""Stand-ins for the functions of mamba_ssm and causal_conv1d, on the CPU.

They compute from the definitions, one step after the other, and refuse whatever the packages
refuse: the checks are those of selective_scan.cpp (mamba_ssm 2.3.2) and causal_conv1d.cpp
(causal_conv1d 1.7.0), except that tensors must share a device instead of being on a GPU. Where the
packages would copy a tensor into another layout without a word, the stand-ins refuse too.
"""

import torch
import torch.nn.functional as F


class ScanStandIn:
    """`selective_scan_fn`; `shapes` keeps the shape of u of every call."""

    def __init__(self):
        self.shapes = []

    def __call__(
        self, u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False,
        return_last_state=False,
    ):  # fmt: skip
        assert D is None, "not modelled"
        assert z is None, "not modelled"
        assert delta_bias is None, "not modelled"
        assert not delta_softplus, "not modelled"
        self.shapes.append(tuple(u.shape))
        _check_scan(u, delta, A, B, C)
        out, last = _Scan.apply(u, delta, A, B, C)
        return (out, last) if return_last_state else out


def _check_scan(u, delta, A, B, C):
    batch, dim, seqlen = u.shape
    d_state = A.shape[1]
    dtypes = {tensor.dtype for tensor in (u, delta, B, C)}
    assert len(dtypes) == 1
    assert dtypes <= {torch.float32, torch.float16, torch.bfloat16}
    assert A.dtype == torch.float32
    assert len({tensor.device for tensor in (u, delta, A, B, C)}) == 1
    for tensor in (u, delta, B, C):
        assert tensor.stride(-1) == 1 or tensor.size(-1) == 1
    assert d_state <= 256
    assert delta.shape == (batch, dim, seqlen)
    assert A.shape == (dim, d_state)
    assert B.shape == (batch, d_state, seqlen)
    assert C.shape == (batch, d_state, seqlen)
    assert dim < 2**16, "the second axis of the grid"
    n_chunks = -(-seqlen // 2048)
    assert batch * dim * n_chunks * d_state < 2**31, "an int inside the kernel"


class _Scan(torch.autograd.Function):
    """Gradients for everything but what flows into the last state, as in mamba_ssm."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C):
        ctx.save_for_backward(u, delta, A, B, C)
        return _recur(u, delta, A, B, C)

    @staticmethod
    def backward(ctx, d_out, _d_last):
        with torch.enable_grad():
            inputs = [tensor.detach().requires_grad_() for tensor in ctx.saved_tensors]
            out, _ = _recur(*inputs)
            assert d_out.dtype == out.dtype
            assert d_out.shape == out.shape
            return torch.autograd.grad(out, inputs, d_out)


def _recur(u, delta, A, B, C):
    h = u.new_zeros(*u.shape[:2], A.shape[1])
    out = []
    steps = (tensor.unbind(2) for tensor in (u, delta, B, C))
    for value, step, into, out_of in zip(*steps, strict=True):
        h = torch.exp(step[..., None] * A) * h + (step * value)[..., None] * into[:, None]
        out.append((h * out_of[:, None]).sum(-1))
    return torch.stack(out, dim=2), h


class ConvStandIn:
    """`causal_conv1d_fn`; `layouts` says of every call whether it was channel-last."""

    def __init__(self):
        self.layouts = []

    def __call__(
        self, x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False,
        final_states_out=None, activation=None,
    ):  # fmt: skip
        assert seq_idx is None, "not modelled"
        assert initial_states is None, "not modelled"
        assert not return_final_states, "not modelled"
        assert final_states_out is None, "not modelled"
        assert activation in (None, "silu", "swish")
        self.layouts.append(_check_conv(x, weight, bias))
        before = F.pad(x, (weight.shape[1] - 1, 0))
        out = sum(
            before[:, :, tap : tap + x.shape[2]] * weight[:, tap, None]
            for tap in range(weight.shape[1])
        )
        out = out if bias is None else out + bias[:, None]
        return out if activation is None else F.silu(out)


def _check_conv(x, weight, bias):
    _, dim, seqlen = x.shape
    allowed = {torch.float32, torch.float16, torch.bfloat16}
    assert x.dtype in allowed
    assert weight.dtype in allowed
    assert weight.shape[0] == dim
    assert 2 <= weight.shape[1] <= 4
    assert x.stride(2) == 1 or x.stride(1) == 1
    channel_last = x.stride(1) == 1 and x.stride(2) > 1
    if channel_last:
        assert dim % 8 == 0
        assert x.stride(2) % 8 == 0
        assert x.stride(0) % 8 == 0
        assert -(-seqlen // 64) < 2**16, "the second axis of the grid"
    assert len({tensor.device for tensor in (x, weight)}) == 1
    if bias is not None:
        assert bias.dtype == weight.dtype
        assert bias.device == x.device
        assert bias.shape == (dim,)
        assert bias.stride(-1) == 1
    assert x.numel() < 2**32, "offsets inside the kernel"
    return "channel-last" if channel_last else "channel-first"
