"""Gradients are right, at every hook and for every path."""

import pytest
import torch

from tests.tiny import tiny_model, tiny_tokens

N_POS = 4


def names():
    model = tiny_model(n_layer=1, d_model=3, d_state=2, d_conv=3, expand=1)
    return [*model.resolver.all_names(N_POS, fused=True)]


@pytest.mark.parametrize("name", names())
def test_the_gradient_at_every_hook_equals_finite_differences(name):
    model = tiny_model(n_layer=1, d_model=3, d_state=2, d_conv=3, expand=1, dtype="float64")
    tokens = tiny_tokens(model, batch=1, n_pos=N_POS)
    direction = torch.randn(
        (1, N_POS, model.cfg.d_vocab),
        generator=torch.Generator().manual_seed(1),
        dtype=torch.float64,
    )
    model.requires_grad_(requires_grad=False)
    with torch.no_grad():
        _, cache = model.run_with_cache(tokens, names_filter=name)
    value = cache[name].clone().requires_grad_()

    def output(edited):
        hook = [(name, lambda old, hook: edited)]
        return (model.run_with_hooks(tokens, fwd_hooks=hook) * direction).sum()

    assert torch.autograd.gradcheck(output, (value,), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_cached_gradients_are_those_of_autograd():
    model = tiny_model(dtype="float64")
    tokens = tiny_tokens(model)

    def loss(logits):
        return logits[:, -1, 3].sum() - logits[:, -1, 5].sum()

    _, cache = model.run_with_cache(tokens, incl_bwd=loss)
    model.zero_grad()
    for name in ("blocks.0.hook_h.2", "blocks.1.hook_resid_pre", "blocks.0.hook_delta"):
        value = cache[name].clone().requires_grad_()
        out = model.run_with_hooks(tokens, fwd_hooks=[(name, lambda old, hook, v=value: v)])
        (expected,) = torch.autograd.grad(loss(out), value)
        assert torch.allclose(cache[f"{name}_grad"], expected, rtol=0, atol=1e-12)


def test_both_scan_paths_have_equal_gradients():
    model = tiny_model(dtype="float64")
    tokens = tiny_tokens(model)
    grads = []
    for fast in (True, False):
        model.zero_grad()
        model(tokens, fast_ssm=fast)[:, -1].square().sum().backward()
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    for name, grad in grads[0].items():
        assert torch.allclose(grad, grads[1][name], rtol=1e-12, atol=1e-12), name
