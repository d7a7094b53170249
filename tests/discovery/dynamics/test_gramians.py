"""Gramians are what inputs reach and outputs see, and Lyapunov's where nothing changes in time."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import solve_discrete_lyapunov

from mechtest.discovery.dynamics import Gramians, gramians
from mechtest.discovery.dynamics.gramian_matrices import (
    balanced_values,
    controllability,
    entropy_rank,
    observability,
    participation,
)
from mechtest.discovery.dynamics.mode_shares import coordinate_energy
from mechtest.discovery.dynamics.recurrence import Recurrence
from mechtest.errors import ClaimInvalid, PositionError, ShapeError
from mechtest.kernels.scan import selective_scan
from tests.assertions.zoo import prompts, prose

seeds = st.integers(0, 10**6)
quick = settings(database=None, deadline=None, max_examples=15)


def system(seed, n_pos=9, channels=3, states=4):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    delta, A = (draw(n_pos, channels) / 2 - 1).exp(), -draw(channels, states).exp()
    return delta, A, draw(n_pos, states), draw(n_pos, states)


@quick
@given(seeds)
def test_what_inputs_reach_is_the_sum_over_impulses(seed):
    delta, A, B, C = system(seed)
    reached = torch.zeros(3, 4, 4, dtype=torch.float64)
    start = torch.zeros(1, 3, 4, dtype=torch.float64)
    for token in range(9):
        x = torch.zeros(1, 9, 3, dtype=torch.float64)
        x[0, token] = 1
        _, h = selective_scan(x, delta[None], A, B[None], C[None], start)
        reached += h[0, :, :, None] * h[0, :, None, :]
    assert torch.allclose(controllability(delta, A, B), reached, rtol=1e-9, atol=1e-12)


@quick
@given(seeds)
def test_what_outputs_see_is_their_energy(seed):
    delta, A, B, C = system(seed)
    generator = torch.Generator().manual_seed(seed + 1)
    state = torch.randn(1, 3, 4, generator=generator, dtype=torch.float64)
    silent = torch.zeros(1, 8, 3, dtype=torch.float64)
    y, _ = selective_scan(silent, delta[None, 1:], A, B[None, 1:], C[None, 1:], state)
    energy = (state[0] @ C[0]).square() + y[0].square().sum(0)
    seen = observability(delta, A, C)
    form = torch.einsum("cn,cnm,cm->c", state[0], seen, state[0])
    assert torch.allclose(form, energy, rtol=1e-9)


@pytest.mark.parametrize("seed", range(2))
def test_lyapunov_is_the_limit_of_a_system_that_stays_as_it_is(seed):
    delta, A, B, C = (part[:1] if index != 1 else part for index, part in enumerate(system(seed)))
    long = 1500
    steps, into, out_of = (part.expand(long, -1) for part in (delta, B, C))
    reached, seen = controllability(steps, A, into), observability(steps, A, out_of)
    for channel in range(3):
        decay = np.diag((delta[0, channel] * A[channel]).exp().numpy())
        written = (delta[0, channel] * B[0]).numpy()
        limit = solve_discrete_lyapunov(decay, np.outer(written, written))
        assert np.allclose(reached[channel], limit, rtol=1e-8, atol=1e-12)
        limit = solve_discrete_lyapunov(decay.T, np.outer(C[0], C[0]))
        assert np.allclose(seen[channel], limit, rtol=1e-8, atol=1e-12)


@quick
@given(seeds)
def test_balanced_values_do_not_depend_on_coordinates(seed):
    delta, A, B, C = system(seed)
    reached, seen = controllability(delta[:5], A, B[:5]), observability(delta[4:], A, C[4:])
    found = balanced_values(reached, seen)
    product = torch.linalg.eigvals(reached @ seen).real.clamp(min=0)
    expected = product.sqrt().sort(descending=True).values
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6 * float(found.max()))
    # Other coordinates: Wc -> T Wc T', Wo -> T^-T Wo T^-1.
    generator = torch.Generator().manual_seed(seed)
    turn = torch.eye(4, dtype=torch.float64) + 0.2 * torch.randn(
        4, 4, generator=generator, dtype=torch.float64
    )
    back = torch.linalg.inv(turn)
    other = balanced_values(turn @ reached @ turn.T, back.T @ seen @ back)
    assert torch.allclose(other, found, rtol=1e-4, atol=1e-6 * float(found.max()))


@quick
@given(seeds)
def test_a_coordinates_energy_is_the_product_of_the_diagonals(seed):
    delta, A, B, C = system(seed)
    one = Recurrence(0, 0, delta, delta, A, B, C, delta[0])
    reached, seen = controllability(delta[:6], A, B[:6]), observability(delta[5:], A, C[5:])
    expected = reached.diagonal(dim1=1, dim2=2) * seen.diagonal(dim1=1, dim2=2)
    assert torch.allclose(coordinate_energy(one, 5), expected, rtol=1e-9)


def test_effective_ranks_count_equal_values():
    values = torch.tensor([[2.0, 2, 2, 0], [1, 0, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(participation(values), torch.tensor([3.0, 1, 0]).double())
    assert torch.allclose(entropy_rank(values), torch.tensor([3.0, 1, 0]).double())


def test_no_more_directions_than_tokens_on_either_side(tmp_path):
    whole = prompts(templates=2)
    last = gramians(prose(), whole, 0)
    assert np.allclose(last.participation, 1, rtol=1e-6)
    middle = gramians(prose(), whole, 0, cut=-3, channels=[5, 9])
    assert (middle.singular_values[:, 3:] < 1e-6 * middle.singular_values[:, :1]).all()
    assert (middle.participation <= 3 + 1e-6).all()
    assert (middle.participation > 1.05).all()
    first = gramians(prose(), whole, 0, cut=1, start=1, channels=[5])
    assert np.allclose(first.participation, 1, rtol=1e-6)
    assert list(middle.scores()) == ["blocks.0.hook_h@-3#5", "blocks.0.hook_h@-3#9"]
    assert Gramians.load(middle.save(tmp_path / "g.json")) == middle
    middle.plot(tmp_path / "g.png")
    assert "effective rank" in last.lines()[0]


def test_bad_input_is_refused():
    whole = prompts(templates=2)
    with pytest.raises(ClaimInvalid):
        gramians(prose(), whole.test, 0)
    for bad in ({"cut": -90}, {"cut": 2, "start": 3}, {"cut": -1, "end": -2}, {"end": 90}):
        with pytest.raises(PositionError, match="no such tokens"):
            gramians(prose(), whole, 0, **bad)
    with pytest.raises(ShapeError, match="128 channels"):
        gramians(prose(), whole, 0, channels=[])
