"""Window and state of all layers after p are a complete cut: nothing else passes p."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny import tiny_model, tiny_tokens


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    n_pos=st.integers(3, 12),
    d_conv=st.integers(2, 4),
    n_layer=st.integers(1, 3),
    data=st.data(),
)
def test_patching_the_whole_state_transfers_all_or_nothing(seed, n_pos, d_conv, n_layer, data):
    """1.000000 of the change from the last differing token on, 0 before the first one."""
    model = tiny_model(seed=seed, dtype="float64", d_conv=d_conv, n_layer=n_layer)
    clean = tiny_tokens(model, batch=2, n_pos=n_pos, seed=seed)
    first = data.draw(st.integers(0, n_pos - 2))
    last = data.draw(st.integers(first, n_pos - 2))
    corrupted = clean.clone()
    corrupted[:, [first, last]] = (corrupted[:, [first, last]] + 1) % model.cfg.d_vocab
    with torch.no_grad():
        base = model(clean)[:, -1]
        target, cache = model.run_with_cache(corrupted, names_filter="blocks.*.state")
        target = target[:, -1]
        gap = (target - base).abs().max()
        for position in range(n_pos):
            site = f"blocks.*.state@{position}"
            patched = model.run_with_hooks(
                clean, fwd_hooks=[(site, lambda value, hook: cache[hook.name])]
            )[:, -1]
            if position < first:
                assert torch.equal(patched, base)
            elif last <= position < n_pos - 1:
                assert (patched - target).abs().max() <= 1e-9 * gap


def test_the_state_alone_is_no_cut():
    """Without the windows the same patch leaves part of the change behind."""
    model = tiny_model(dtype="float64")
    clean = tiny_tokens(model, n_pos=8)
    corrupted = clean.clone()
    corrupted[:, 4] = (corrupted[:, 4] + 1) % model.cfg.d_vocab
    with torch.no_grad():
        target, cache = model.run_with_cache(corrupted, names_filter="blocks.*.hook_h")
        patched = model.run_with_hooks(
            clean, fwd_hooks=[("blocks.*.hook_h.4", lambda value, hook: cache[hook.name])]
        )
    assert (patched[:, -1] - target[:, -1]).abs().max() > 1e-3
