"""The scan equals its formula, can be cut anywhere, and its two ways agree to the last bit."""

import itertools
import math

import pytest
import torch

from mechtest.kernels import discretize, selective_scan

SHAPES = list(itertools.product([1, 2, 3, 17], [1, 7], [1, 5, 33, 128], [1, 3, 16]))
"""Positions, batch, d_inner, d_state."""
SMALL = [(1, 1, 1, 1), (3, 2, 5, 3), (17, 1, 3, 2)]


def draw(n_pos, batch, d_inner, d_state, dtype=torch.float64):
    """Return x, delta, A, B, C, h_start with decays from weak to strong."""
    generator = torch.Generator().manual_seed(n_pos * 1000 + d_inner * 10 + d_state)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    return (
        normal(batch, n_pos, d_inner),
        torch.nn.functional.softplus(normal(batch, n_pos, d_inner)),
        -torch.exp(normal(d_inner, d_state)),
        normal(batch, n_pos, d_state),
        normal(batch, n_pos, d_state),
        normal(batch, d_inner, d_state),
    )


def formula(x, delta, A, B, C, h_start):
    """Return (y, states) of the recurrence with one Python number at a time."""
    batch, n_pos, d_inner = x.shape
    y = torch.zeros_like(x)
    states = torch.zeros(batch, n_pos, d_inner, A.shape[1], dtype=torch.float64)
    for b, c in itertools.product(range(batch), range(d_inner)):
        h = h_start[b, c].tolist()
        for t in range(n_pos):
            step, value = delta[b, t, c].item(), x[b, t, c].item()
            for n in range(A.shape[1]):
                h[n] = math.exp(step * A[c, n].item()) * h[n] + step * B[b, t, n].item() * value
                states[b, t, c, n] = h[n]
            y[b, t, c] = sum(h[n] * C[b, t, n].item() for n in range(A.shape[1]))
    return y, states


def recording(states):
    def on_state(position, h):
        states.append((position, h))
        return h

    return on_state


@pytest.mark.parametrize("shape", SMALL)
def test_equals_the_formula_at_every_state(shape):
    inputs = draw(*shape)
    seen = []
    y, h = selective_scan(*inputs, on_state=recording(seen))
    expected_y, expected_h = formula(*inputs)
    assert [position for position, _ in seen] == list(range(shape[0]))
    close = {"rtol": 0, "atol": 1e-12}
    torch.testing.assert_close(y, expected_y, **close)
    torch.testing.assert_close(torch.stack([h for _, h in seen], 1), expected_h, **close)
    assert torch.equal(h, seen[-1][1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_stepwise_and_materialised_agree_to_the_last_bit(shape, dtype):
    x, delta, A, B, C, h_start = draw(*shape, dtype=dtype)
    decays, into = discretize(delta, A, B)
    stepwise = selective_scan(x, delta, A, B, C, h_start)
    whole = selective_scan(x, delta, A, B, C, h_start, decays=decays, writes=into * x.unsqueeze(-1))
    assert torch.equal(stepwise[0], whole[0])
    assert torch.equal(stepwise[1], whole[1])


@pytest.mark.parametrize("shape", [(17, 7, 5, 3), (17, 1, 33, 16), (3, 2, 128, 1)])
def test_any_cut_gives_the_whole(shape):
    x, delta, A, B, C, h_start = draw(*shape)
    whole, end = selective_scan(x, delta, A, B, C, h_start)
    for cut in range(1, shape[0]):
        early = [part[:, :cut] for part in (x, delta, B, C)]
        late = [part[:, cut:] for part in (x, delta, B, C)]
        first, h = selective_scan(early[0], early[1], A, *early[2:], h_start)
        rest, h = selective_scan(late[0], late[1], A, *late[2:], h)
        torch.testing.assert_close(torch.cat([first, rest], 1), whole, rtol=0, atol=1e-12)
        torch.testing.assert_close(h, end, rtol=0, atol=1e-12)


def test_a_replaced_state_is_the_state_from_then_on():
    """Replacing h after position 2 with zeros starts the rest as if the text began there."""
    x, delta, A, B, C, h_start = draw(6, 2, 5, 3)
    zeros = torch.zeros_like(h_start)
    y, _ = selective_scan(x, delta, A, B, C, h_start, on_state=lambda t, h: zeros if t == 2 else h)
    before, _ = selective_scan(x, delta, A, B, C, h_start)
    fresh, _ = selective_scan(x[:, 3:], delta[:, 3:], A, B[:, 3:], C[:, 3:], zeros)
    assert torch.equal(y[:, :2], before[:, :2])
    assert torch.equal(y[:, 2], torch.zeros_like(y[:, 2]))
    torch.testing.assert_close(y[:, 3:], fresh, rtol=0, atol=1e-12)


def test_edited_decays_and_writes_are_used():
    x, delta, A, B, C, h_start = draw(4, 2, 5, 3)
    shape = (*delta.shape, A.shape[1])
    keep, nothing = torch.ones(shape, dtype=x.dtype), torch.zeros(shape, dtype=x.dtype)
    y, h = selective_scan(x, delta, A, B, C, h_start, decays=keep, writes=nothing)
    assert torch.equal(h, h_start)
    torch.testing.assert_close(y, torch.einsum("bdn,bln->bld", h_start, C))


def test_discretization_is_exponential_for_a_and_euler_for_b():
    _, delta, A, B, _, _ = draw(3, 2, 5, 3)
    decays, into = discretize(delta, A, B)
    assert decays[1, 2, 4, 0].item() == pytest.approx(math.exp(delta[1, 2, 4] * A[4, 0]), rel=1e-14)
    assert into[1, 2, 4, 0].item() == pytest.approx((delta[1, 2, 4] * B[1, 2, 0]).item(), rel=1e-14)


def test_the_inputs_dtype_is_kept():
    for dtype in (torch.float32, torch.float64):
        y, h = selective_scan(*draw(3, 1, 5, 3, dtype=dtype))
        assert (y.dtype, h.dtype) == (dtype, dtype)


@pytest.mark.parametrize("materialised", [False, True])
def test_gradients_are_those_of_finite_differences(materialised):
    inputs = [tensor.requires_grad_() for tensor in draw(3, 2, 2, 2)]

    def run(x, delta, A, B, C, h_start):
        if not materialised:
            return selective_scan(x, delta, A, B, C, h_start)
        decays, into = discretize(delta, A, B)
        writes = into * x.unsqueeze(-1)
        return selective_scan(x, delta, A, B, C, h_start, decays=decays, writes=writes)

    assert torch.autograd.gradcheck(run, inputs)
