import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from transformers import MambaForCausalLM, PreTrainedTokenizerFast

from mechtest.checkpoints import (
    MambaInitCfg,
    from_native,
    read_checkpoint,
    save_hf,
    save_original,
)
from mechtest.errors import CheckpointError, CheckpointNotFoundError
from tests.checkpoints.weights_by_hand import assert_same, configs, random_weights, tiny_cfg


def load_with_transformers(directory):
    model, info = MambaForCausalLM.from_pretrained(directory, output_loading_info=True)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys", "error_msgs"):
        assert not info[kind], info
    return model


@settings(deadline=None, max_examples=8)
@given(cfg=configs)
def test_transformers_loads_it_without_a_key_too_many_or_too_few(tmp_path_factory, cfg):
    native = random_weights(cfg)
    directory = save_hf(tmp_path_factory.mktemp("save") / "m", cfg, native)
    state = load_with_transformers(directory).state_dict()
    assert all(torch.equal(state[k], v) for k, v in from_native(native, cfg, "hf").items())


def test_transformers_loads_shards(tmp_path):
    cfg = tiny_cfg(tie_embeddings=False)
    directory = save_hf(tmp_path / "m", cfg, random_weights(cfg), max_shard_size="3KB")
    assert len(list(directory.glob("model-*-of-*.safetensors"))) > 2
    assert not (directory / "model.safetensors").exists()
    load_with_transformers(directory)


def test_tokenizer_travels_with_its_ids(tmp_path):
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"<unk>": 0, "<bos>": 1, "a": 2, "<pad>": 3}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<bos>", pad_token="<pad>", unk_token="<unk>"
    )
    cfg = tiny_cfg()
    directory = save_hf(tmp_path / "m", cfg, random_weights(cfg), tokenizer=tokenizer)
    raw = json.loads((directory / "config.json").read_text())
    assert (raw["bos_token_id"], raw["eos_token_id"], raw["pad_token_id"]) == (1, None, 3)
    copied = save_hf(tmp_path / "n", cfg, random_weights(cfg), tokenizer=directory)
    prints = [read_checkpoint(place).fingerprint.tokenizer for place in (directory, copied)]
    assert prints[0] is not None
    assert prints[0] == prints[1]
    load_with_transformers(directory)


def test_directory_without_tokenizer_files_is_refused(tmp_path):
    cfg = tiny_cfg()
    with pytest.raises(CheckpointNotFoundError, match="holds no tokenizer files"):
        save_hf(tmp_path / "m", cfg, random_weights(cfg), tokenizer=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("save", [save_hf, save_original])
def test_nothing_is_overwritten_unless_asked(tmp_path, save):
    cfg = tiny_cfg()
    first, second = random_weights(cfg, seed=1), random_weights(cfg, seed=2)
    directory = save(tmp_path / "m", cfg, first)
    with pytest.raises(CheckpointError, match=r"is not empty(.|\n)*overwrite=True"):
        save(directory, cfg, second)
    assert_same(read_checkpoint(directory).state_dict, first)
    save(directory, cfg, second, overwrite=True)
    assert_same(read_checkpoint(directory).state_dict, second)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_overwriting_leaves_no_old_shards(tmp_path):
    cfg = tiny_cfg()
    directory = save_hf(tmp_path / "m", cfg, random_weights(cfg), max_shard_size="3KB")
    save_hf(directory, cfg, random_weights(cfg), overwrite=True)
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors"]


def test_files_that_are_no_checkpoint_are_never_deleted(tmp_path):
    cfg = tiny_cfg()
    directory = save_hf(tmp_path / "m", cfg, random_weights(cfg))
    (directory / "notes.md").write_text("mine")
    with pytest.raises(CheckpointError, match=r"more than a checkpoint(.|\n)*notes.md"):
        save_hf(directory, cfg, random_weights(cfg), overwrite=True)
    assert (directory / "notes.md").read_text() == "mine"


def test_a_file_in_the_way_is_named(tmp_path):
    (tmp_path / "m").write_text("mine")
    with pytest.raises(CheckpointError, match="is a file"):
        save_hf(tmp_path / "m", tiny_cfg(), random_weights(tiny_cfg()), overwrite=True)


def test_saving_over_the_file_the_weights_are_mapped_from(tmp_path):
    cfg = tiny_cfg()
    native = random_weights(cfg)
    directory = save_hf(tmp_path / "m", cfg, native)
    loaded = read_checkpoint(directory)
    loaded.state_dict["norm.weight"].add_(1)
    save_hf(directory, loaded.cfg, loaded.state_dict, overwrite=True)
    assert_same(read_checkpoint(directory).state_dict, loaded.state_dict)
    assert torch.equal(loaded.state_dict["norm.weight"], native["norm.weight"] + 1)


def test_failure_while_writing_leaves_the_old_checkpoint(tmp_path):
    class Failing:
        bos_token_id = eos_token_id = pad_token_id = None

        def save_pretrained(self, directory):
            raise RuntimeError("disk full")

    cfg = tiny_cfg()
    native = random_weights(cfg)
    directory = save_hf(tmp_path / "m", cfg, native)
    with pytest.raises(RuntimeError, match="disk full"):
        save_hf(directory, cfg, random_weights(cfg, 9), tokenizer=Failing(), overwrite=True)
    assert_same(read_checkpoint(directory).state_dict, native)
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_views_are_saved_without_what_they_were_cut_from(tmp_path):
    cfg = tiny_cfg()
    native = random_weights(cfg)
    big = torch.zeros(100_000)
    big[:8] = native["norm.weight"]
    native["norm.weight"] = big[:8]
    for save in (save_hf, save_original):
        directory = save(tmp_path / save.__name__, cfg, native)
        assert sum(path.stat().st_size for path in directory.iterdir()) < 100_000
        assert_same(read_checkpoint(directory).state_dict, native)


def test_unpadded_rows_are_written_as_they_are(tmp_path):
    cfg = tiny_cfg(vocab_size=13)
    directory = save_hf(tmp_path / "m", cfg, random_weights(cfg, rows=13))
    assert json.loads((directory / "config.json").read_text())["vocab_size"] == 13
    load_with_transformers(directory)


def test_written_files_say_nothing_about_where_a_model_was(tmp_path):
    cfg = replace(tiny_cfg(), name="/somewhere/private", device="cuda:3")
    for save in (save_hf, save_original):
        text = (
            save(tmp_path / save.__name__, cfg, random_weights(cfg)) / "config.json"
        ).read_text()
        assert "private" not in text
        assert "cuda" not in text


def test_transformers_leaves_the_weights_of_a_rescaled_initialisation_alone(tmp_path):
    # transformers 5.23 rescales out_proj while loading when config.json mentions the rescaling.
    cfg = tiny_cfg(initializer_config=MambaInitCfg(rescale_prenorm_residual=True))
    native = random_weights(cfg)
    directory = save_hf(tmp_path / "m", cfg, native)
    state = load_with_transformers(directory).state_dict()
    name = "blocks.1.mixer.out_proj.weight"
    assert torch.equal(state[name.replace("blocks", "backbone.layers")], native[name])
    assert read_checkpoint(directory).cfg.initializer_config == cfg.initializer_config
