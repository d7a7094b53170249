import pytest
import torch
from hypothesis import given, settings
from transformers import MambaConfig, MambaForCausalLM

from mechtest.checkpoints import read_checkpoint, save_hf, save_original
from mechtest.errors import ConfigError, WeightMismatchError
from tests.checkpoints.weights_by_hand import assert_same, configs, random_weights, tiny_cfg


@settings(deadline=None, max_examples=10)
@given(cfg=configs)
def test_saved_and_read_again_in_every_format(tmp_path_factory, cfg):
    native = random_weights(cfg)
    base = tmp_path_factory.mktemp("round")
    for place in (
        save_hf(base / "hf", cfg, native),
        save_hf(base / "sharded", cfg, native, max_shard_size=500),
        save_original(base / "original", cfg, native),
    ):
        loaded = read_checkpoint(place)
        assert_same(loaded.state_dict, native)
        assert (loaded.cfg.E, loaded.cfg.R, loaded.cfg.V) == (cfg.E, cfg.R, cfg.V)
        assert loaded.cfg.vocab_size == cfg.vocab_size
        assert loaded.cfg.name == str(place)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "4KB"}])
def test_what_transformers_saves_is_read(tmp_path, tied, shards):
    config = MambaConfig(
        vocab_size=11,
        hidden_size=8,
        num_hidden_layers=2,
        state_size=3,
        intermediate_size=24,
        use_bias=True,
        tie_word_embeddings=tied,
    )
    theirs = MambaForCausalLM(config)
    theirs.save_pretrained(tmp_path, **shards)
    loaded = read_checkpoint(tmp_path)
    assert (loaded.files.index_path is not None) == bool(shards)
    state = theirs.state_dict()
    assert torch.equal(loaded.state_dict["embedding.weight"], state["backbone.embeddings.weight"])
    assert ("lm_head.weight" in loaded.state_dict) == (not tied)
    assert loaded.cfg.E == 24


def test_what_mamba_ssm_saves_is_read(tmp_path):
    # mamba_ssm writes both names of a tied matrix, and early versions no tie_embeddings.
    cfg = tiny_cfg(tie_embeddings=True)
    directory = save_original(tmp_path / "m", cfg, random_weights(cfg))
    raw = torch.load(directory / "pytorch_model.bin", weights_only=True)
    assert torch.equal(raw["lm_head.weight"], raw["backbone.embedding.weight"])
    (directory / "config.json").write_text(
        '{"d_model": 8, "n_layer": 2, "vocab_size": 13, "ssm_cfg": {"d_state": 4, "expand": 2.5}}'
    )
    loaded = read_checkpoint(directory)
    assert (loaded.cfg.E, loaded.files.format, loaded.cfg.tie_embeddings) == (20, "original", True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, None])
def test_dtype_is_cast_and_recorded_but_not_fingerprinted(tmp_path, dtype):
    cfg = tiny_cfg()
    directory = save_hf(tmp_path / "m", cfg, random_weights(cfg))
    loaded = read_checkpoint(directory, dtype=dtype)
    wanted = dtype or torch.float32
    assert {tensor.dtype for tensor in loaded.state_dict.values()} == {wanted}
    assert loaded.cfg.dtype == str(wanted).removeprefix("torch.")
    assert loaded.fingerprint == read_checkpoint(directory).fingerprint


def test_configuration_that_contradicts_the_weights_names_the_checkpoint(tmp_path):
    cfg = tiny_cfg()
    directory = save_hf(tmp_path / "m", cfg, random_weights(cfg))
    config = directory / "config.json"
    config.write_text(config.read_text().replace('"state_size": 4', '"state_size": 5'))
    with pytest.raises(WeightMismatchError, match=rf"{directory}: .*A_log is \[20, 4\].*\[20, 5\]"):
        read_checkpoint(directory)


@pytest.mark.parametrize(("text", "words"), [("{", "cannot be read"), ("[1]", "not a JSON object")])
def test_broken_configuration_is_named(tmp_path, text, words):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=rf"config.json .*{words}"):
        read_checkpoint(tmp_path)


def test_unpadded_rows_in_a_file_make_an_unpadded_model(tmp_path):
    cfg = tiny_cfg(vocab_size=13, pad_vocab_size_multiple=8)
    directory = save_original(tmp_path / "m", cfg, random_weights(cfg, rows=13))
    loaded = read_checkpoint(directory)
    assert (loaded.cfg.d_vocab, loaded.cfg.vocab_size) == (13, 13)
