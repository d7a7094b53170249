"""The convolution equals its formula and torch's, and gives the same bits however it is cut."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from mechtest.kernels import causal_conv, window_after

SHAPES = [
    (1, 1, 1, 4),
    (1, 2, 5, 4),
    (7, 3, 1, 2),
    (1, 17, 33, 4),
    (7, 17, 5, 3),
    (2, 5, 128, 4),
    (3, 4, 8, 1),
]
"""Batch, positions, d_inner, d_conv."""


def draw(batch, n_pos, d_inner, d_conv, dtype=torch.float64):
    generator = torch.Generator().manual_seed(n_pos * 100 + d_inner)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    return (
        normal(batch, n_pos, d_inner),
        normal(d_inner, 1, d_conv),
        normal(d_inner),
        normal(batch, d_conv - 1, d_inner),
    )


def formula(rows, weight, bias, window):
    """Return the convolution with one Python number at a time."""
    batch, n_pos, d_inner = rows.shape
    n_taps = weight.shape[2]
    seen = [window[b].tolist() + rows[b].tolist() for b in range(batch)]
    return torch.tensor(
        [
            [
                [
                    sum(seen[b][t + k][c] * weight[c, 0, k].item() for k in range(n_taps))
                    + (0.0 if bias is None else bias[c].item())
                    for c in range(d_inner)
                ]
                for t in range(n_pos)
            ]
            for b in range(batch)
        ],
        dtype=torch.float64,
    )


@pytest.mark.parametrize("shape", SHAPES[:5])
@pytest.mark.parametrize("has_bias", [True, False])
def test_equals_the_formula(shape, has_bias):
    rows, weight, bias, window = draw(*shape)
    bias = bias if has_bias else None
    torch.testing.assert_close(
        causal_conv(rows, weight, bias, window),
        formula(rows, weight, bias, window),
        rtol=0,
        atol=1e-13,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
def test_equals_torch_from_an_empty_window(shape, dtype, atol):
    rows, weight, bias, window = draw(*shape, dtype=dtype)
    d_inner, d_conv = shape[2:]
    padded = F.pad(rows.transpose(1, 2), (d_conv - 1, 0))
    torch.testing.assert_close(
        causal_conv(rows, weight, bias, torch.zeros_like(window)),
        F.conv1d(padded, weight, bias, groups=d_inner).transpose(1, 2),
        rtol=0,
        atol=atol,
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_cut_gives_the_same_bits(shape, dtype):
    rows, weight, bias, window = draw(*shape, dtype=dtype)
    whole = causal_conv(rows, weight, bias, window)
    for cut in range(1, shape[1]):
        first, rest = rows[:, :cut], rows[:, cut:]
        between = window_after(window, first)
        pieces = [
            causal_conv(first, weight, bias, window),
            causal_conv(rest, weight, bias, between),
        ]
        assert torch.equal(torch.cat(pieces, dim=1), whole), cut
        assert torch.equal(window_after(between, rest), window_after(window, rows))


@given(st.integers(0, 9), st.integers(1, 6))
def test_the_window_is_the_last_rows_seen(n_pos, d_conv):
    """Also when fewer rows came than the window holds: older ones stay in it."""
    rows = torch.arange(n_pos, dtype=torch.float64).reshape(1, n_pos, 1)
    window = -torch.arange(d_conv - 1, 0, -1, dtype=torch.float64).reshape(1, d_conv - 1, 1)
    seen = [*window.flatten().tolist(), *rows.flatten().tolist()]
    expected = seen[len(seen) - (d_conv - 1) :]
    assert window_after(window, rows).flatten().tolist() == expected


def test_no_row_reaches_an_earlier_one():
    rows, weight, bias, window = draw(2, 6, 3, 4)
    before = causal_conv(rows, weight, bias, window)
    edited = rows.clone()
    edited[:, 3] += 1
    changed = (causal_conv(edited, weight, bias, window) != before).any(-1).all(0)
    assert changed.tolist() == [False, False, False, True, True, True]


def test_gradients_are_those_of_finite_differences():
    inputs = [tensor.requires_grad_() for tensor in draw(2, 3, 3, 4)]
    assert torch.autograd.gradcheck(causal_conv, inputs)
