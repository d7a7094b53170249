import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MambaForCausalLM
from transformers.models.mamba.configuration_mamba import MambaConfig

from mechtest.checkpoints import (
    check_state_dict,
    config_from_hf,
    config_to_hf,
    convert_hooked_mamba_config_to_original_config,
    convert_hooked_state_dict_to_original_state_dict,
    convert_original_config_to_hooked_mamba_config,
    convert_original_state_dict_to_hooked_state_dict,
    detect_layout,
    fit_vocab,
    from_native,
    to_native,
)
from mechtest.checkpoints.conversion import LAYOUTS
from mechtest.errors import ConfigError, WeightMismatchError
from tests.checkpoints.weights_by_hand import assert_same, configs, random_weights, tiny_cfg


@settings(deadline=None, max_examples=25)
@given(cfg=configs, first=st.sampled_from(LAYOUTS), second=st.sampled_from(LAYOUTS))
def test_every_direction_round_trips(cfg, first, second):
    native = random_weights(cfg)
    there = from_native(native, cfg, first)
    assert detect_layout(there) == first
    again = from_native(to_native(there, cfg), cfg, second)
    assert_same(to_native(again, cfg, second), native)


@pytest.mark.parametrize("layout", ["native", "hf", "original"])
@pytest.mark.parametrize("tied", [True, False])
def test_renames_keep_the_very_tensors(layout, tied):
    cfg = tiny_cfg(tie_embeddings=tied, bias=True)
    native = random_weights(cfg)
    back = to_native(from_native(native, cfg, layout), cfg)
    assert all(back[name] is native[name] for name in native)


def test_split_parts_are_views_of_the_projection():
    cfg = tiny_cfg(bias=True)
    native = random_weights(cfg)
    cut = from_native(native, cfg, "mambalens")
    whole = native["blocks.1.mixer.x_proj.weight"]
    parts = [cut[f"blocks.1.{n}.weight"] for n in ("W_delta_1", "W_B", "W_C")]
    assert [part.shape[0] for part in parts] == [cfg.R, cfg.N, cfg.N]
    assert all(p.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr() for p in parts)


def test_row_order_of_the_split_layout():
    cfg = tiny_cfg(bias=True)
    native = random_weights(cfg)
    cut = from_native(native, cfg, "mambalens")
    e, r, n = cfg.E, cfg.R, cfg.N
    in_proj, x_proj = (native[f"blocks.0.mixer.{k}.weight"] for k in ("in_proj", "x_proj"))
    assert torch.equal(cut["blocks.0.in_proj.weight"], in_proj[:e])
    assert torch.equal(cut["blocks.0.skip_proj.weight"], in_proj[e:])
    assert torch.equal(cut["blocks.0.skip_proj.bias"], native["blocks.0.mixer.in_proj.bias"][e:])
    assert torch.equal(cut["blocks.0.W_delta_1.weight"], x_proj[:r])
    assert torch.equal(cut["blocks.0.W_B.weight"], x_proj[r : r + n])
    assert torch.equal(cut["blocks.0.W_C.weight"], x_proj[r + n :])
    assert torch.equal(cut["blocks.0.W_D"], native["blocks.0.mixer.D"])
    assert torch.equal(cut["blocks.0.W_delta_2.bias"], native["blocks.0.mixer.dt_proj.bias"])
    assert set(cut) >= {"embedding.weight", "norm.weight", "lm_head.weight", "blocks.0.norm.weight"}


@settings(deadline=None, max_examples=25)
@given(cfg=configs)
def test_key_sets_and_shapes_are_those_of_transformers(cfg):
    theirs = MambaForCausalLM(MambaConfig(**config_to_hf(cfg)))
    state = theirs.state_dict()
    ours = to_native(state, config_from_hf(theirs.config.to_dict()))
    out = from_native(ours, cfg, "hf")
    expected = set(state) - ({"lm_head.weight"} if cfg.tie_embeddings else set())
    assert set(out) == expected
    assert all(out[name].shape == state[name].shape for name in out)
    assert all(out[name].data_ptr() == state[name].data_ptr() for name in out)


def test_bare_model_without_prefix_is_read():
    cfg = tiny_cfg()
    native = random_weights(cfg)
    bare = {n.removeprefix("backbone."): t for n, t in from_native(native, cfg, "hf").items()}
    assert_same(to_native(bare, cfg), native)


def test_tied_head_is_dropped_from_native_and_written_for_original():
    cfg = tiny_cfg(tie_embeddings=True)
    native = random_weights(cfg)
    original = from_native(native, cfg, "original")
    assert original["lm_head.weight"] is original["backbone.embedding.weight"]
    copied = original | {"lm_head.weight": original["lm_head.weight"].clone()}
    assert "lm_head.weight" not in to_native(copied, cfg)
    assert "lm_head.weight" not in from_native(native, cfg, "hf")


@pytest.mark.parametrize("change", ["value", "shape"])
def test_tied_head_that_differs_is_refused(change):
    cfg = tiny_cfg(tie_embeddings=True)
    original = from_native(random_weights(cfg), cfg, "original")
    head = original["lm_head.weight"].clone()
    head[0, 0] += 1
    original["lm_head.weight"] = head if change == "value" else head[:-1]
    with pytest.raises(WeightMismatchError, match=r"ties(.|\n)*tie_word_embeddings"):
        to_native(original, cfg)


def test_untied_head_must_be_there():
    cfg = tiny_cfg(tie_embeddings=False)
    state = from_native(random_weights(cfg), cfg, "hf")
    del state["lm_head.weight"]
    with pytest.raises(
        WeightMismatchError, match=r"1 missing \(lm_head.weight(.|\n)*tie_embeddings"
    ):
        to_native(state, cfg)


def test_problems_are_listed_with_shapes_and_near_names():
    cfg = tiny_cfg()
    native = random_weights(cfg)
    native["blocks.0.mixer.A_lag"] = native.pop("blocks.0.mixer.A_log")
    native["blocks.1.mixer.D"] = torch.zeros(3)
    with pytest.raises(WeightMismatchError) as caught:
        check_state_dict(native, cfg)
    text = str(caught.value)
    assert "1 missing (blocks.0.mixer.A_log [20, 4])" in text
    assert "1 unexpected (blocks.0.mixer.A_lag [20, 4])" in text
    assert "blocks.1.mixer.D is [3], expected [20]" in text
    assert "blocks.0.mixer.A_log" in caught.value.closest


def test_weights_of_another_width_are_refused():
    with pytest.raises(WeightMismatchError, match=r"misshapen(.|\n)*D=8"):
        to_native(random_weights(tiny_cfg(d_model=9)), tiny_cfg(d_model=8))


def test_extra_tensor_is_refused_in_every_layout():
    cfg = tiny_cfg()
    for layout in LAYOUTS:
        state = from_native(random_weights(cfg), cfg, layout)
        with pytest.raises(WeightMismatchError, match=r"1 unexpected .*surplus"):
            to_native(state | {"surplus": torch.zeros(1)}, cfg)


@pytest.mark.parametrize("tied", [True, False])
def test_unpadded_rows_are_kept_as_in_the_file(tied):
    cfg = tiny_cfg(vocab_size=13, tie_embeddings=tied)
    native = to_native(random_weights(cfg, rows=13), cfg)
    assert native["embedding.weight"].shape[0] == 13
    fitted = fit_vocab(cfg, native)
    assert (fitted.d_vocab, fitted.vocab_size) == (13, 13)
    assert fit_vocab(cfg, random_weights(cfg)) is cfg


def test_other_row_counts_are_refused():
    with pytest.raises(WeightMismatchError, match=r"embedding.weight is \[14, 8\], expected \[16"):
        to_native(random_weights(tiny_cfg(), rows=14), tiny_cfg())


def test_half_a_split_projection_is_refused():
    cfg = tiny_cfg()
    cut = from_native(random_weights(cfg), cfg, "mambalens")
    del cut["blocks.1.W_B.weight"]
    with pytest.raises(
        WeightMismatchError, match=r"x_proj.weight cannot.*blocks.1.W_B.weight missing"
    ):
        to_native(cut, cfg)


def test_parts_that_do_not_fit_together_are_refused():
    cfg = tiny_cfg()
    cut = from_native(random_weights(cfg), cfg, "mambalens")
    cut["blocks.0.skip_proj.weight"] = torch.zeros(3, 5)
    with pytest.raises(WeightMismatchError, match=r"in_proj.weight cannot be put together"):
        to_native(cut, cfg)


def test_projection_that_cannot_be_cut_is_refused():
    cfg = tiny_cfg()
    state = from_native(random_weights(cfg), cfg, "original")
    less = {name: tensor for name, tensor in state.items() if "layers.0.mixer.A_log" not in name}
    with pytest.raises(WeightMismatchError, match=r"cannot be cut: blocks.0.mixer.A_log missing"):
        convert_original_state_dict_to_hooked_state_dict(less)
    state["backbone.layers.0.mixer.A_log"] = torch.zeros(cfg.E, cfg.N + 1)
    with pytest.raises(WeightMismatchError, match=r"R \+ 2N = 11 rows"):
        convert_original_state_dict_to_hooked_state_dict(state)


@pytest.mark.parametrize("names", [[], ["wte.weight", "h.0.attn.weight"], ["module.x"]])
def test_foreign_names_are_refused(names):
    with pytest.raises(WeightMismatchError, match="not those of a Mamba-1"):
        detect_layout(names)


def test_unknown_layout_names_the_closest():
    with pytest.raises(ConfigError, match=r"mamba_lens(.|\n)*closest +mambalens"):
        from_native({}, tiny_cfg(), "mamba_lens")


def test_the_readme_of_the_peer():
    raw = {
        "d_model": 8,
        "n_layer": 2,
        "vocab_size": 13,
        "ssm_cfg": {"d_state": 3, "d_conv": 2, "expand": 2},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 8,
    }
    cfg = convert_original_config_to_hooked_mamba_config(raw, device="cpu")
    state_dict = from_native(random_weights(cfg), cfg, "original")
    hooked = convert_original_state_dict_to_hooked_state_dict(state_dict)
    assert detect_layout(hooked) == "mambalens"
    for state in (hooked, to_native(hooked, cfg)):
        back = convert_hooked_state_dict_to_original_state_dict(cfg=cfg, state_dict=state)
        assert set(back) == set(state_dict)
        assert all(torch.equal(back[name], state_dict[name]) for name in back)
    again = convert_hooked_mamba_config_to_original_config(hooked_mamba_cfg=cfg)
    assert convert_original_config_to_hooked_mamba_config(again) == cfg
