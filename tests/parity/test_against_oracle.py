"""Every hook of the float64 model equals an independent numpy computation to 1e-12."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.checkpoints import from_native
from tests.parity.oracle import mamba_oracle
from tests.tiny import tiny_model, tiny_tokens

SHAPES = st.fixed_dictionaries(
    {
        "d_model": st.sampled_from([4, 7, 16]),
        "n_layer": st.integers(1, 3),
        "vocab_size": st.sampled_from([11, 32]),
        "d_state": st.sampled_from([1, 3, 16]),
        "d_conv": st.integers(2, 4),
        "expand": st.sampled_from([1, 2, 3]),
        "bias": st.booleans(),
        "conv_bias": st.booleans(),
        "tie_embeddings": st.booleans(),
        "norm_eps": st.sampled_from([1e-5, 1e-3]),
    }
)


def relative_error(ours, theirs):
    scale = np.abs(theirs).max()
    return np.abs(ours - theirs).max() / (scale if scale > 0 else 1.0)


@settings(max_examples=25, deadline=None)
@given(SHAPES, st.integers(0, 2**16), st.integers(1, 9))
def test_every_hook_equals_the_oracle(shape, seed, n_pos):
    model = tiny_model(seed=seed, dtype="float64", **shape)
    tokens = tiny_tokens(model, batch=2, n_pos=n_pos, seed=seed)
    weights = from_native(dict(model.native_state_dict()), model.cfg, "hf")
    expected = mamba_oracle(
        {k: v.detach().numpy() for k, v in weights.items()}, tokens.numpy(), model.cfg.norm_eps
    )
    names = list(expected)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=names)
    assert set(cache) == set(names)
    worst = {name: relative_error(cache[name].numpy(), expected[name]) for name in names}
    assert max(worst.values()) <= 1e-12, max(worst, key=worst.get)


def test_the_oracle_would_notice_a_wrong_tap():
    """The comparison is alive: shifting the convolution by one tap breaks it."""
    model = tiny_model(dtype="float64")
    tokens = tiny_tokens(model)
    weights = from_native(dict(model.native_state_dict()), model.cfg, "hf")
    weights = {k: v.detach().numpy() for k, v in weights.items()}
    name = "backbone.layers.0.mixer.conv1d.weight"
    weights[name] = np.roll(weights[name], 1, axis=-1)
    expected = mamba_oracle(weights, tokens.numpy(), model.cfg.norm_eps)
    with torch.no_grad():
        ours = model(tokens).numpy()
    assert relative_error(ours, expected["hook_logits"]) > 1e-3


@pytest.mark.parametrize("n_pos", [1, 2, 3, 17])
def test_the_default_cache_holds_every_hook_but_the_fused_views(n_pos):
    model = tiny_model(dtype="float64")
    tokens = tiny_tokens(model, n_pos=n_pos)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens)
    weights = from_native(dict(model.native_state_dict()), model.cfg, "hf")
    expected = mamba_oracle(
        {k: v.detach().numpy() for k, v in weights.items()}, tokens.numpy(), model.cfg.norm_eps
    )
    assert set(cache) == {name for name in expected if not name.endswith("_proj.hook_out")}
