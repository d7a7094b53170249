"""The matrix of hidden attention is the recurrence, on any weights, and a wrong one is refused."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.discovery.temporal import HiddenAttention, hidden_attention
from mechtest.discovery.temporal.attention_matrices import attention_matrices, identity_error
from mechtest.errors import ClaimInvalid, DiscoveryError, ShapeError
from mechtest.kernels.scan import selective_scan
from tests.assertions.zoo import prompts, prose
from tests.tiny import tiny_model, tiny_tokens


@settings(database=None, deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10**6),
    n_pos=st.integers(1, 12),
    channels=st.integers(1, 5),
    states=st.integers(1, 6),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_the_matrix_is_the_recurrence(seed, n_pos, channels, states, dtype):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    delta, A = draw(n_pos, channels).exp(), -draw(channels, states).exp()
    x, B, C = draw(n_pos, channels), draw(n_pos, states), draw(n_pos, states)
    D, start = draw(channels), torch.zeros(1, channels, states, dtype=dtype)
    y, _ = selective_scan(x[None], delta[None], A, B[None], C[None], start)
    output = y[0] + x * D
    made = attention_matrices(delta, A, B, C)
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    assert identity_error(made, x, D, output) < tolerance
    assert bool((made.triu(1) == 0).all())
    # One entry is found that is off by a hundredth of its row's terms, wherever it is.
    row, channel = seed % n_pos, seed % channels
    terms = made[channel, row].abs() @ x[:, channel].abs().double()
    terms += (D[channel] * x[row, channel]).abs()
    column = seed % (row + 1)
    made[channel, row, column] += 0.01 * terms / x[column, channel].abs()
    assert identity_error(made, x, D, output) > tolerance


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_it_holds_in_models_with_random_weights(dtype, tolerance):
    model = tiny_model(seed=3, dtype=dtype)
    for layer in (0, -1):
        found = hidden_attention(model, tiny_tokens(model), layer)
        assert 0 < found.error < tolerance
    assert found.about.settings["layer"] == 1


def test_what_the_model_did_not_compute_is_refused():
    model = tiny_model()
    tokens = tiny_tokens(model)
    scaled = ("blocks.0.hook_y", lambda value, hook: 1.01 * value)
    refused = pytest.raises(DiscoveryError, match="does not give what the model computed")
    with model.hooks(fwd_hooks=[scaled]), refused:
        hidden_attention(model, tokens, 0)
    with pytest.raises(DiscoveryError):
        hidden_attention(model, tokens, 0, tolerance=1e-12)


def test_signed_matrices_are_kept_where_asked(tmp_path):
    model = tiny_model()
    tokens = tiny_tokens(model, batch=2, n_pos=5)
    found = hidden_attention(model, tokens, 0, channels=[3, 1])
    assert found.matrices.shape == (2, 2, 5, 5)
    assert (found.matrices < 0).any()
    mean = np.abs(found.matrices).mean(1)
    below = np.tril_indices(5)
    shown = found.map.values.transpose(2, 0, 1)
    assert np.allclose(shown[:, *below], mean[:, *below], rtol=1e-12)
    assert np.isnan(shown[:, *np.triu_indices(5, 1)]).all()
    assert HiddenAttention.load(found.save(tmp_path / "a.json")) == found
    every = hidden_attention(model, tokens, 0, channels=range(16))
    assert np.allclose(
        hidden_attention(model, tokens, 0).map.values, every.map.values, equal_nan=True
    )


def test_prompts_of_different_lengths_are_aligned_at_their_end(tmp_path):
    found = hidden_attention(prose(), prompts(templates=3), 1)
    pairs = prompts(templates=3).discovery.encode(prose().tokenizer)
    assert pairs.padded
    for place in range(len(pairs)):
        alone = hidden_attention(prose(), pairs[place : place + 1].clean_tokens[
            :, -int(pairs.lengths[place]) :], 1)  # fmt: skip
        own = found.of_prompt(place)
        assert np.allclose(own.values, alone.map.values, rtol=1e-4, equal_nan=True)
        assert own.rows == alone.map.rows
        assert own.rows[0].startswith("0 ")
    assert "holds to" in found.lines()[-1]
    found.plot(tmp_path / "one.png", prompt=0)
    assert (tmp_path / "one.png").stat().st_size > 0


def test_a_text_will_do():
    found = hidden_attention(prose(), "The Amber Tower is in", 0)
    assert found.map.rows[-1].endswith("in")
    assert found.about.fitted_on.tokens


def test_bad_input_is_refused():
    whole = prompts(templates=2)
    with pytest.raises(ClaimInvalid):
        hidden_attention(prose(), whole.test, 0)
    with pytest.raises(ShapeError, match="no such layers"):
        hidden_attention(prose(), whole, 2)
    with pytest.raises(ShapeError, match="128 channels"):
        hidden_attention(prose(), whole, 0, channels=[128])
    with pytest.raises(ShapeError, match="rows of token ids"):
        hidden_attention(prose(), torch.zeros(2, 3), 0)
