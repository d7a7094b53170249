"""Configurations and random weights for checkpoint tests, made without the model floor."""

import torch
from hypothesis import strategies as st

from mechtest.checkpoints import MambaCfg, expected_shapes, fit_vocab

configs = st.builds(
    MambaCfg,
    d_model=st.integers(1, 9),
    n_layer=st.integers(1, 3),
    vocab_size=st.integers(2, 20),
    d_state=st.integers(1, 5),
    d_conv=st.integers(1, 4),
    expand=st.integers(1, 3),
    d_inner=st.none() | st.integers(1, 17),
    dt_rank=st.just("auto") | st.integers(1, 4),
    bias=st.booleans(),
    conv_bias=st.booleans(),
    tie_embeddings=st.booleans(),
    pad_vocab_size_multiple=st.sampled_from([1, 8]),
)


def tiny_cfg(**changes):
    shape = {"d_model": 8, "n_layer": 2, "vocab_size": 13, "d_state": 4, "d_inner": 20}
    return MambaCfg(**(shape | changes))


def random_weights(cfg, seed=0, rows=None):
    """Native weights of a configuration; `rows` overrides the number of embedding rows."""
    generator = torch.Generator().manual_seed(seed)
    shapes = expected_shapes(cfg)
    if rows is not None:
        for name in ("embedding.weight", "lm_head.weight"):
            if name in shapes:
                shapes[name] = (rows, cfg.d_model)
    state = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    assert fit_vocab(cfg, state) is not None
    return state


def assert_same(ours, theirs):
    assert list(ours) == list(theirs)
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype, name
        assert torch.equal(ours[name], theirs[name]), name
