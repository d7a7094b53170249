"""Compiled models are real Mambas, the same for the same seed, with nothing to be seen in them."""

import logging
import re

import jaxtyping
import pytest
import torch
from transformers import MambaForCausalLM
from transformers.utils.logging import disable_progress_bar

from fixtures.compiled import FAMILIES, Recipe
from fixtures.compiled.design import draw_weights
from fixtures.compiled.dressing import draw_dressing, dress
from mechtest.errors import ConfigError
from mechtest.models import HookedMamba
from tests.compiled.builds import NAMES, SEEDS, built, runner

disable_progress_bar()
logging.getLogger("transformers.models.mamba").setLevel(logging.ERROR)


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    """Other tests check the shapes of every call; here that would be most of the time."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def relative(ours, theirs):
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_transformers_gives_the_same_logits(name, seed, tmp_path):
    compiled = built(name, seed)
    compiled.save(tmp_path / "model")
    theirs, info = MambaForCausalLM.from_pretrained(tmp_path / "model", output_loading_info=True)
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    assert not any(info[kind] for kind in kinds)
    ours = HookedMamba.from_pretrained(tmp_path / "model")
    pair = compiled.prompts[0]
    tokens = ours.to_tokens(pair.clean)
    assert tokens.tolist() == compiled.model.to_tokens(pair.clean).tolist()
    with torch.no_grad():
        expected, found = theirs.eval()(tokens).logits, ours(tokens)
        assert found.equal(compiled.model(tokens))
    print(f"{name} seed {seed}: {relative(found, expected):.1e} relative")
    assert relative(found, expected) <= 1e-5
    assert ours.to_single_str_token(int(found[0, -1].argmax())) == pair.answer[0]


@pytest.mark.parametrize("name", NAMES)
def test_every_hook_fires(name):
    compiled = built(name)
    tokens = compiled.model.to_tokens(compiled.prompts[0].clean)
    with torch.no_grad():
        logits, cache = compiled.model.run_with_cache(tokens)
    fired = {re.sub(r"\.\d+$", "", hook) for hook in cache}
    fused = {"mixer.in_proj.hook_out", "mixer.x_proj.hook_out"}  # second views of other hooks
    for layer, block in enumerate(compiled.model.blocks):
        assert {f"blocks.{layer}.{hook}" for hook in block.hooks if hook not in fused} <= fired
    assert cache["hook_logits"].equal(logits)


@pytest.mark.parametrize("name", NAMES)
def test_a_seed_fixes_the_weights_and_prompts_do_not_depend_on_it(name):
    first, other = built(name, 0), built(name, 1)
    again = FAMILIES[name].of(first.recipe)
    for key, value in first.model.state_dict().items():
        assert value.equal(again.model.state_dict()[key]), key
        assert not value.equal(other.model.state_dict()[key]), key
    assert first.prompts == again.prompts == other.prompts


@pytest.mark.parametrize("name", NAMES)
def test_dressing_changes_the_weights_and_not_the_function(name):
    """In float64, two dressings of one design answer alike."""
    compiled = built(name)
    recipe = compiled.recipe
    weights = draw_weights(FAMILIES[name].design(recipe), recipe)
    widths = [len(layer.channels) for layer in weights.layers]
    other = HookedMamba(compiled.wide.cfg, initialize_params=False)
    dressing = draw_dressing(Recipe(seed=99), widths, one_order=False)
    other.load_state_dict(dict(dress(weights, dressing)), assign=True)
    tokens = compiled.model.to_tokens(compiled.prompts[0].clean)
    with torch.no_grad():
        assert relative(other(tokens), compiled.wide(tokens)) < 1e-9


# What faces the residual stream is rotated; the rest acts channel by channel in any Mamba.
ROTATED = ("embedding", "in_proj", "out_proj", "lm_head")
DENSE = (*ROTATED, "norm", "A_log", "mixer.D", "dt_proj", "conv1d.bias")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", NAMES)
def test_no_weight_is_sparse_that_need_not_be(name, seed):
    """Convolution taps and x_proj say which channel does what at which lag: they must be."""
    for key, value in built(name, seed).model.state_dict().items():
        if any(part in key for part in DENSE):
            assert (value.abs() < 1e-9).sum() <= 0.04 * value.numel(), key


@pytest.mark.parametrize("name", NAMES)
def test_no_row_of_the_rotated_weights_leans_on_one_coordinate(name):
    """A row along an axis has all of its square in one entry; a random one, a few percent."""
    for key, value in built(name).model.state_dict().items():
        if any(part in key for part in ROTATED):
            rows = value.T if "out_proj" in key else value
            largest = (rows**2).max(1).values / (rows**2).sum(1)
            assert largest.max() < 0.6, key


def test_channels_and_states_stand_elsewhere_in_every_seed():
    stores = {built("marked_slots", seed).anatomy.channels(0, "store") for seed in SEEDS}
    assert len(stores) == 2
    assert not any(tuple(sorted(one)) == one for one in stores)
    codes = [built("marked_slots", seed).anatomy.weights.layers[0].codes for seed in SEEDS]
    assert not codes[0]["first"].write.equal(codes[1]["first"].write)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_valid_and_fall_on_both_halves(name):
    compiled = FAMILIES[name].build(per_template=1)
    found = compiled.prompts.validate(compiled.model.tokenizer)
    assert [finding for finding in found if finding.severity == "error"] == []
    for behaviour in {row.behaviour for row in compiled.stated}:
        chosen = compiled.prompts.filter(behaviour=behaviour)
        assert len(chosen.templates) == 56
        assert min(len(half.templates) for half in chosen.split()) >= 20


def test_fast_and_slow_paths_agree():
    compiled = built("conjunction")
    found = runner(compiled, "both")
    tokens = found.pairs.clean_tokens
    mask = found.pairs.attention_mask
    with torch.no_grad():
        fast, slow = (
            compiled.model(tokens, attention_mask=mask, fast_ssm=fast_ssm)
            for fast_ssm in (True, False)
        )
    assert relative(fast, slow) < 1e-5


@pytest.mark.parametrize(
    "wrong", [{"share": 1.1}, {"noise": -1.0}, {"templates": 1}, {"half_life": 0.0}]
)
def test_a_recipe_outside_its_range_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Recipe(**wrong)


def test_unknown_names_are_told_with_the_known_ones():
    compiled = built("parity")
    with pytest.raises(KeyError, match="lane a 0"):
        compiled.row("lane c")
    with pytest.raises(KeyError, match="flag"):
        compiled.anatomy.channels(0, "flags")
