"""Our logits and gradients are those of transformers, on random shapes and on every zoo model."""

from pathlib import Path

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from transformers import MambaConfig, MambaForCausalLM
from transformers.utils.logging import disable_progress_bar

from mechtest.models import HookedMamba

GATE = 1e-5
disable_progress_bar()
ZOO = sorted(path.parent for path in Path("fixtures/zoo").glob("*/seed*/step-*/model.safetensors"))

# A failing random model is understood from its options; shrinking them takes minutes.
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
CONFIGS = st.fixed_dictionaries(
    {
        "hidden_size": st.sampled_from([4, 6, 16, 33]),
        "num_hidden_layers": st.integers(1, 3),
        "vocab_size": st.sampled_from([16, 29]),
        "state_size": st.sampled_from([1, 4, 16]),
        "conv_kernel": st.integers(2, 4),
        "expand": st.sampled_from([1, 2]),
        "use_bias": st.booleans(),
        "use_conv_bias": st.booleans(),
        "tie_word_embeddings": st.booleans(),
        "layer_norm_epsilon": st.sampled_from([1e-5, 1e-4]),
        "time_step_rank": st.sampled_from(["auto", 1, 3]),
    }
)


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def hf_model(options, seed):
    torch.manual_seed(seed)
    model = MambaForCausalLM(MambaConfig(**options)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@settings(max_examples=20, deadline=None, phases=NO_SHRINKING)
@given(CONFIGS, st.integers(0, 9999), st.integers(1, 12))
def test_random_models_agree_with_transformers(tmp_path_factory, options, seed, n_pos):
    theirs = hf_model(options, seed)
    directory = tmp_path_factory.mktemp("hf")
    theirs.save_pretrained(directory)
    ours = HookedMamba.from_pretrained(directory)
    tokens = torch.randint(0, options["vocab_size"], (2, n_pos))
    with torch.no_grad():
        assert relative(ours(tokens), theirs(tokens).logits) <= GATE
    if options["use_bias"]:
        return  # transformers masks before in_proj, so its bias leaks out of the padding
    mask = torch.ones_like(tokens)
    mask[0, : n_pos // 2] = 0
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=mask).logits
        found = ours(tokens, attention_mask=mask)
    assert relative(found[mask.bool()], expected[mask.bool()]) <= GATE


def test_gradients_agree_with_transformers(tmp_path):
    """Parameter gradients of a loss, in float32 as transformers keeps parts in float32 anyway."""
    theirs = hf_model({"hidden_size": 16, "num_hidden_layers": 2, "vocab_size": 29}, 0)
    theirs.save_pretrained(tmp_path)
    ours = HookedMamba.from_pretrained(tmp_path)
    tokens = torch.randint(0, 29, (3, 9), generator=torch.Generator().manual_seed(0))
    theirs(tokens, labels=tokens).loss.backward()
    ours(tokens, return_type="loss").backward()
    from mechtest.checkpoints import from_native

    grads = {name: parameter.grad for name, parameter in ours.named_parameters()}
    grads = from_native(grads, ours.cfg, "hf")
    for name, parameter in theirs.named_parameters():
        assert relative(grads[name], parameter.grad) <= 1e-4, name


@pytest.mark.parametrize("path", ZOO, ids=[str(path.relative_to("fixtures/zoo")) for path in ZOO])
def test_every_zoo_model_agrees_with_transformers(path):
    theirs = MambaForCausalLM.from_pretrained(path).eval()
    ours = HookedMamba.from_pretrained(path)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(3, ours.cfg.vocab_size, (4, 24), generator=generator)
    with torch.no_grad():
        assert relative(ours(tokens), theirs(tokens).logits) <= GATE


def test_the_zoo_is_there():
    """Parametrising over an empty directory would pass without having looked."""
    assert len(ZOO) >= 40
