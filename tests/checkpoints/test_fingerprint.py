import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.checkpoints import digest_weights, read_checkpoint, save_hf, save_original
from mechtest.checkpoints.fingerprint import digest_files
from tests.checkpoints.weights_by_hand import random_weights, tiny_cfg


@pytest.mark.parametrize("tied", [True, False])
def test_weight_digest_is_the_same_in_every_format(tmp_path, tied):
    cfg = tiny_cfg(tie_embeddings=tied)
    native = random_weights(cfg)
    places = [
        save_hf(tmp_path / "a", cfg, native),
        save_hf(tmp_path / "b", cfg, native, max_shard_size=3000),
        save_original(tmp_path / "c", cfg, native),
    ]
    prints = [read_checkpoint(place).fingerprint for place in places]
    assert {p.weights for p in prints} == {digest_weights(native)}
    assert prints[0] == prints[1]
    assert prints[0].config != prints[2].config
    assert prints[0].short == prints[0].weights[:12]
    assert prints[0].tokenizer is None


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_any_changed_bit_changes_the_digest(data):
    native = random_weights(tiny_cfg())
    before = digest_weights(native)
    name = data.draw(st.sampled_from(sorted(native)))
    raw = native[name].view(-1).view(torch.uint8)
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert digest_weights(native) != before


@pytest.mark.parametrize("change", ["name", "dtype", "shape", "sign of zero"])
def test_name_dtype_shape_and_sign_count(change):
    state = {"a": torch.zeros(4, 2)}
    other = {
        "name": {"b": torch.zeros(4, 2)},
        "dtype": {"a": torch.zeros(4, 2, dtype=torch.int32)},
        "shape": {"a": torch.zeros(2, 4)},
        "sign of zero": {"a": -torch.zeros(4, 2)},
    }[change]
    assert digest_weights(state) != digest_weights(other)


def test_order_and_memory_layout_do_not_count():
    a, b = torch.randn(6, 4), torch.randn(3).bfloat16()
    strided = torch.empty(4, 6).t().copy_(a)
    assert not strided.is_contiguous()
    assert digest_weights({"a": a, "b": b}) == digest_weights({"b": b, "a": strided})


def test_tokenizer_files_count_by_name_and_content(tmp_path):
    one, two = tmp_path / "tokenizer.json", tmp_path / "vocab.txt"
    one.write_text("a")
    two.write_text("b")
    both = digest_files([one, two])
    assert both == digest_files([two, one])
    two.write_text("c")
    assert digest_files([one, two]) != both
    assert digest_files([]) is None
