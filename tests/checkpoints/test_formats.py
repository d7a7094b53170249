from dataclasses import replace

import pytest
from hypothesis import given, settings
from transformers import MambaConfig

from mechtest.checkpoints import (
    config_from_hf,
    config_from_original,
    config_to_hf,
    config_to_original,
    detect_format,
)
from mechtest.checkpoints.original_config import (
    convert_hooked_mamba_config_to_original_config,
    convert_original_config_to_hooked_mamba_config,
)
from mechtest.errors import ConfigError, UnsupportedArchitectureError
from tests.checkpoints.weights_by_hand import configs, tiny_cfg

ORIGINAL = {
    "d_model": 1024,
    "n_layer": 48,
    "vocab_size": 50277,
    "ssm_cfg": {"d_state": 32, "d_conv": 2, "expand": 3},
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 8,
}


@pytest.mark.parametrize("raw", [{"model_type": "mamba"}, {"model_type": "mamba", "d_model": 8}])
def test_model_type_decides_for_hugging_face(raw):
    assert detect_format(raw) == "hf"


def test_original_is_told_by_its_sizes():
    assert detect_format(ORIGINAL) == "original"


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"model_type": "mamba2"}, "mamba2"),
        ({"model_type": "falcon_mamba"}, "falcon_mamba"),
        ({"model_type": "gpt2", "n_layer": 2}, "gpt2"),
        ({"dim": 4096, "n_layers": 64}, "Codestral"),
        ({"d_model": 8, "n_layer": 2, "ssm_cfg": {"layer": "Mamba2"}}, "Mamba2"),
        ({"hidden_size": 8}, "no format known"),
        ({}, r"keys \(none\)"),
    ],
)
def test_unknown_architecture_is_named_with_what_is_supported(raw, words):
    with pytest.raises(UnsupportedArchitectureError, match=rf"{words}(.|\n)*Mamba-1") as caught:
        detect_format(raw, "runs/x/config.json")
    assert "runs/x/config.json" in str(caught.value)


def test_original_options_under_ssm_cfg_are_read():
    cfg = config_from_original(ORIGINAL)
    assert (cfg.N, cfg.D_conv, cfg.E, cfg.R, cfg.V) == (32, 2, 3072, 64, 50280)
    assert cfg.tie_embeddings  # absent in early files, where every head was tied


def test_peers_misspelling_of_ssm_cfg_is_read():
    raw = {key: value for key, value in ORIGINAL.items() if key != "ssm_cfg"}
    assert config_from_original(raw | {"ssm_config": ORIGINAL["ssm_cfg"]}) == config_from_original(
        ORIGINAL
    )


def test_two_spellings_that_differ_are_refused():
    with pytest.raises(ConfigError, match="both ssm_cfg and ssm_config"):
        config_from_original(ORIGINAL | {"ssm_config": {"d_state": 1}})


def test_all_mixer_arguments_are_accepted():
    ssm = {"dt_rank": 5, "dt_min": 0.01, "dt_max": 0.2, "dt_init": "constant", "dt_scale": 2.0}
    ssm |= {"dt_init_floor": 1e-3, "conv_bias": False, "bias": True, "layer": "Mamba1"}
    cfg = config_from_original(ORIGINAL | {"ssm_cfg": ssm | {"use_fast_path": False}})
    assert (cfg.R, cfg.bias, cfg.conv_bias) == (5, True, False)
    init = cfg.initializer_config
    assert (init.dt_min, init.dt_max, init.dt_init, init.dt_scale) == (0.01, 0.2, "constant", 2.0)


def test_unknown_mixer_key_names_the_closest():
    with pytest.raises(ConfigError, match=r"dstate(.|\n)*closest +d_state"):
        config_from_original(ORIGINAL | {"ssm_cfg": {"dstate": 4}}, "m/config.json")


def test_unknown_top_level_key_names_the_closest():
    with pytest.raises(ConfigError, match=r"tie_embedings(.|\n)*closest +tie_embeddings"):
        config_from_original(ORIGINAL | {"tie_embedings": False})


@pytest.mark.parametrize("key", ["d_model", "vocab_size"])
def test_missing_size_is_named(key):
    with pytest.raises(ConfigError, match=f"m/config.json lacks {key}"):
        config_from_original({k: v for k, v in ORIGINAL.items() if k != key}, "m/config.json")


@pytest.mark.parametrize(
    ("key", "value"),
    [("rms_norm", False), ("attn_layer_idx", [3]), ("d_intermediate", 64)],
)
def test_other_blocks_are_refused_with_field_and_file(key, value):
    with pytest.raises(UnsupportedArchitectureError, match=rf"m/config.json sets {key}"):
        config_from_original(ORIGINAL | {key: value}, "m/config.json")


def test_ssm_cfg_that_is_no_object_is_refused():
    with pytest.raises(ConfigError, match=r"ssm_cfg in config.json is not an object"):
        config_from_original(ORIGINAL | {"ssm_cfg": [1]})


def test_wrong_value_names_file_and_field():
    with pytest.raises(ConfigError, match=r"m/config.json: d_state .*'16'"):
        config_from_original(ORIGINAL | {"ssm_cfg": {"d_state": "16"}}, "m/config.json")


def test_hugging_face_silence_means_its_defaults():
    ours, theirs = config_from_hf({"model_type": "mamba"}), MambaConfig()
    assert (ours.D, ours.n_layer, ours.V) == (theirs.hidden_size, 32, theirs.vocab_size)
    assert (theirs.intermediate_size, theirs.time_step_rank, 16) == (ours.E, ours.R, ours.N)
    assert ours.tie_embeddings == theirs.tie_word_embeddings
    assert ours.initializer_config.initializer_range == theirs.initializer_range


def test_hugging_face_intermediate_size_wins():
    raw = {"model_type": "mamba", "hidden_size": 64, "expand": 2, "intermediate_size": 96}
    assert config_from_hf(raw).E == 96
    assert MambaConfig(**raw).intermediate_size == 96


@pytest.mark.parametrize(("key", "value"), [("hidden_act", "gelu"), ("rms_norm", False)])
def test_hugging_face_option_that_changes_the_computation_is_refused(key, value):
    with pytest.raises(UnsupportedArchitectureError, match=rf"m/config.json sets {key}"):
        config_from_hf({"model_type": "mamba", key: value}, "m/config.json")


def test_original_is_not_read_as_hugging_face():
    with pytest.raises(ConfigError, match="not a Hugging Face configuration"):
        config_from_hf(ORIGINAL)


@settings(deadline=None, max_examples=25)
@given(cfg=configs)
def test_hugging_face_round_trip(cfg):
    assert config_from_hf(config_to_hf(cfg)) == cfg


@settings(deadline=None, max_examples=25)
@given(cfg=configs)
def test_transformers_reads_what_we_write(cfg):
    theirs = MambaConfig(**config_to_hf(cfg))
    assert (theirs.hidden_size, theirs.intermediate_size, theirs.state_size, theirs.vocab_size) == (
        cfg.D,
        cfg.E,
        cfg.N,
        cfg.V,
    )
    back = config_from_hf(theirs.to_dict())
    assert (back.E, back.R, back.bias, back.conv_bias) == (cfg.E, cfg.R, cfg.bias, cfg.conv_bias)
    assert back.vocab_size == cfg.vocab_size


@settings(deadline=None, max_examples=25)
@given(cfg=configs)
def test_original_round_trip(cfg):
    back = config_from_original(config_to_original(cfg))
    # The format has int(expand * d_model) only, so an explicit width comes back as a factor; it
    # does not keep draws that belong to the language model.
    assert back == replace(cfg, expand=back.expand)
    assert int(back.expand * cfg.D) == cfg.E


def test_every_inner_width_survives_as_a_factor():
    for d_model in (1, 3, 7, 49, 768):
        for d_inner in (1, 29, 97, d_model + 1, 1535):
            cfg = tiny_cfg(d_model=d_model, d_inner=d_inner)
            assert d_inner == config_from_original(config_to_original(cfg)).E


def test_original_has_no_place_for_another_epsilon():
    with pytest.raises(ConfigError, match="no place for norm_eps"):
        config_to_original(tiny_cfg(norm_eps=1e-6))


def test_mambalens_names_convert_configurations():
    cfg = convert_original_config_to_hooked_mamba_config(ORIGINAL, device="cuda")
    assert (cfg.N, cfg.device) == (32, "cuda")
    assert convert_original_config_to_hooked_mamba_config(cfg) is cfg
    raw = convert_hooked_mamba_config_to_original_config(hooked_mamba_cfg=cfg)
    assert raw["ssm_cfg"]["d_state"] == 32
    assert config_from_original(raw) == replace(cfg, device="cpu")


def test_what_the_peer_writes_is_read():
    raw = {
        "ssm_config": {"d_state": 8, "d_conv": 3, "expand": 2},
        "initializer_cfg": {"dt_min": 0.01},
    }
    raw |= {"d_model": 16, "n_layer": 2, "vocab_size": 11, "dt_rank": 3, "d_inner": 40, "n_ctx": 99}
    cfg = config_from_original(raw | {"default_prepend_bos": True, "conv_bias": False})
    assert (cfg.N, cfg.D_conv, cfg.R, cfg.E, cfg.conv_bias) == (8, 3, 3, 40, False)
    assert cfg.initializer_config.dt_min == 0.01
