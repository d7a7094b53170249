"""Loading a model: the files decide what it is, and the model says where it came from."""

import pytest
import torch

from mechtest.checkpoints import from_native, save_hf, save_original
from mechtest.errors import CheckpointNotFoundError, RevisionError, WeightMismatchError
from mechtest.models import HookedMamba
from tests.tiny import tiny_model, tiny_tokens
from tests.words import word_tokenizer


def text_tokens(model):
    """Random tokens that are words: no bos, padding or unknown."""
    return tiny_tokens(model).clamp(min=3)


@pytest.fixture(scope="module")
def model():
    return tiny_model(vocab_size=24, tie_embeddings=False)


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "hf"
    save_hf(path, model.cfg, model.native_state_dict(), tokenizer=word_tokenizer())
    return path


def test_a_saved_model_comes_back_bit_for_bit(model, directory):
    loaded = HookedMamba.from_pretrained(directory)
    tokens = text_tokens(model)
    assert torch.equal(loaded(tokens), model(tokens))
    assert loaded.cfg.d_inner == model.cfg.d_inner
    assert not loaded.training


@pytest.mark.parametrize("tied", [True, False])
def test_the_original_format_comes_back_bit_for_bit(tied, tmp_path):
    model = tiny_model(vocab_size=24, pad_vocab_size_multiple=8, tie_embeddings=tied)
    save_original(tmp_path / "original", model.cfg, model.native_state_dict())
    loaded = HookedMamba.from_pretrained(tmp_path / "original")
    tokens = text_tokens(model)
    assert torch.equal(loaded(tokens), model(tokens))
    assert (loaded.lm_head.weight is loaded.embedding.weight) == tied


def test_the_tokenizer_beside_the_weights_is_used_when_text_comes(directory):
    loaded = HookedMamba.from_pretrained(directory)
    assert loaded.to_str_tokens("Emma gave") == ["<bos>", " Emma", " gave"]
    assert loaded("Emma gave").shape[:2] == (1, 3)


def test_another_tokenizer_can_be_named(model, directory, tmp_path):
    save_original(tmp_path / "bare", model.cfg, model.native_state_dict())
    loaded = HookedMamba.from_pretrained(tmp_path / "bare", tokenizer=str(directory))
    assert loaded.to_single_token(" Emma") == 3
    loaded = HookedMamba.from_pretrained(tmp_path / "bare", tokenizer=word_tokenizer())
    assert loaded.to_single_token(" Emma") == 3


def test_dtype_and_device_are_what_was_asked_for(directory):
    wide = HookedMamba.from_pretrained(directory, dtype=torch.float64)
    assert {p.dtype for p in wide.parameters()} == {torch.float64}
    assert wide.cfg.dtype == "float64"
    tokens = text_tokens(wide)
    _, cache = wide.run_with_cache(tokens)
    assert {value.dtype for value in cache.values()} == {torch.float64}


def test_bfloat16_weights_keep_a_float32_state(directory):
    narrow = HookedMamba.from_pretrained(directory, dtype=torch.bfloat16)
    tokens = text_tokens(narrow)
    logits, cache = narrow.run_with_cache(tokens)
    assert cache["blocks.0.hook_h.3"].dtype == torch.float32
    wide = HookedMamba.from_pretrained(directory)(tokens)
    assert (logits - wide).abs().max() / wide.abs().max() < 0.1


def test_the_fingerprint_tells_checkpoints_apart(model, directory, tmp_path):
    assert HookedMamba.from_pretrained(directory).fingerprint == (
        HookedMamba.from_pretrained(directory).fingerprint
    )
    other = dict(model.native_state_dict())
    other["norm.weight"] = other["norm.weight"] + 1e-3
    save_hf(tmp_path / "other", model.cfg, other, tokenizer=word_tokenizer())
    ours = HookedMamba.from_pretrained(directory).fingerprint
    theirs = HookedMamba.from_pretrained(tmp_path / "other").fingerprint
    assert ours.weights != theirs.weights
    assert ours.config == theirs.config


@pytest.mark.parametrize("layout", ["native", "hf", "original", "mambalens"])
def test_state_dicts_of_every_layout_load(model, layout):
    other = HookedMamba(model.cfg, initialize_params=False)
    other.load_state_dict(from_native(model.native_state_dict(), model.cfg, layout))
    tokens = text_tokens(model)
    assert torch.equal(other(tokens), model(tokens))


def test_incomplete_weights_are_refused(model):
    weights = model.native_state_dict()
    del weights["blocks.1.mixer.D"]
    with pytest.raises(WeightMismatchError, match=r"blocks\.1\.mixer\.D"):
        HookedMamba(model.cfg, initialize_params=False).load_state_dict(weights)


def test_a_revision_of_a_directory_is_refused(directory):
    with pytest.raises(RevisionError):
        HookedMamba.from_pretrained(directory, revision="step100")


def test_a_missing_directory_says_what_is_there(directory):
    with pytest.raises(CheckpointNotFoundError, match="hff"):
        HookedMamba.from_pretrained(directory.parent / "hff")


def test_split_weights_have_their_mambalens_names(model):
    block = model.blocks[0]
    split = from_native(model.native_state_dict(), model.cfg, "mambalens")
    for name in ("in_proj", "skip_proj", "W_delta_1", "W_B", "W_C"):
        assert torch.equal(getattr(block, name).weight, split[f"blocks.0.{name}.weight"])
    assert block.in_proj.weight.data_ptr() == block.mixer.in_proj.weight.data_ptr()


def test_loading_touches_no_weight_until_it_is_used(directory):
    """On a CPU in the file's dtype the weights stay in the mapped file; writing leaves it alone."""
    before = (directory / "model.safetensors").read_bytes()
    loaded = HookedMamba.from_pretrained(directory)
    with torch.no_grad():
        loaded.embedding.weight.zero_()
    assert (directory / "model.safetensors").read_bytes() == before
    assert HookedMamba.from_pretrained(directory).embedding.weight.abs().max() > 0


def test_moving_a_model_keeps_its_head_tied():
    model = tiny_model().to(torch.float64)
    assert model.lm_head.weight is model.embedding.weight
    assert model(tiny_tokens(model)).dtype == torch.float64
