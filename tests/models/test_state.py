"""A prefix and the state it ends in are a complete cut: going on from there is going on."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.errors import NotCachedError, ShapeError
from mechtest.models import ModelState
from tests.tiny import tiny_model, tiny_tokens

TOLERANCE = {"float32": 1e-5, "float64": 1e-12}


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n_pos=st.integers(2, 12), d_conv=st.integers(2, 4), data=st.data())
def test_prefix_and_resume_equal_the_whole(dtype, seed, n_pos, d_conv, data):
    model = tiny_model(seed=seed, dtype=dtype, d_conv=d_conv)
    tokens = tiny_tokens(model, n_pos=n_pos, seed=seed)
    cut = data.draw(st.integers(1, n_pos - 1))
    with torch.no_grad():
        whole = model(tokens)
        first, state = model.run_with_state(tokens[:, :cut])
        second, end = model.run_with_state(tokens[:, cut:], state)
        _, whole_end = model.run_with_state(tokens)
    joined = torch.cat([first, second], dim=1)
    assert relative(joined, whole) <= TOLERANCE[dtype]
    for after, expected in zip(end, whole_end, strict=True):
        assert relative(after.h, expected.h) <= TOLERANCE[dtype]
        assert relative(after.conv, expected.conv) <= TOLERANCE[dtype]


def test_one_token_at_a_time_equals_the_whole():
    model = tiny_model(dtype="float64")
    tokens = tiny_tokens(model, n_pos=9)
    state, rows = None, []
    with torch.no_grad():
        for token in tokens.T:
            logits, state = model.run_with_state(token[:, None], state)
            rows.append(logits)
        assert relative(torch.cat(rows, dim=1), model(tokens)) <= 1e-12


@pytest.mark.parametrize("cut", [0, 3, 7])
def test_a_state_from_a_cache_is_the_state_of_the_prefix(cut):
    model = tiny_model(dtype="float64")
    tokens = tiny_tokens(model, n_pos=9)
    with torch.no_grad():
        whole, cache = model.run_with_cache(tokens, names_filter="blocks.*.state")
        rest, _ = model.run_with_state(tokens[:, cut + 1 :], ModelState.from_cache(cache, cut))
    assert relative(rest, whole[:, cut + 1 :]) <= 1e-12


def test_half_a_state_is_not_enough():
    """hook_h without the convolution window is no cut: resuming from it gives other logits."""
    model = tiny_model(dtype="float64")
    tokens = tiny_tokens(model, n_pos=9)
    with torch.no_grad():
        _, state = model.run_with_state(tokens[:, :5])
        maimed = ModelState(tuple(s._replace(conv=s.conv * 0) for s in state))
        rest, _ = model.run_with_state(tokens[:, 5:], maimed)
        whole = model(tokens)
    assert relative(rest, whole[:, 5:]) > 1e-3


def test_a_state_is_hooked_like_any_prompt():
    """In a resumed run positions count from its first token, and the start state has its hook."""
    model = tiny_model(dtype="float64")
    tokens = tiny_tokens(model, n_pos=6)
    with torch.no_grad():
        _, state = model.run_with_state(tokens[:, :4])
        seen = {}
        with model.hooks(
            fwd_hooks=[
                ("blocks.*.hook_h_start", lambda h, hook: seen.update({hook.name: h})),
                ("blocks.*.hook_h.1", lambda h, hook: seen.update({hook.name: h})),
            ]
        ):
            model.run_with_state(tokens[:, 4:], state)
        _, cache = model.run_with_cache(tokens)
    assert torch.equal(seen["blocks.1.hook_h_start"], state[1].h)
    assert relative(seen["blocks.1.hook_h.1"], cache["blocks.1.hook_h.5"]) <= 1e-12


def test_a_state_that_does_not_fit_raises():
    model = tiny_model()
    tokens = tiny_tokens(model, batch=2)
    _, state = model.run_with_state(tokens)
    with pytest.raises(ShapeError, match="does not fit"):
        model.run_with_state(tokens[:1], state)
    with pytest.raises(ShapeError, match="does not fit"):
        model.run_with_state(tokens, ModelState(state.layers[:1]))
    _, cache = model.run_with_cache(tokens, names_filter="blocks.*.hook_h")
    with pytest.raises(NotCachedError):
        ModelState.from_cache(cache, 2)
