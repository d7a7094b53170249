import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mechtest.checkpoints import load_weights, locate, read_checkpoint, save_hf, save_original
from mechtest.checkpoints.weight_files import find_weights
from mechtest.errors import CheckpointFormatError, UnsafeCheckpointError
from tests.checkpoints.weights_by_hand import random_weights, tiny_cfg

WIDE = {"d_model": 64, "d_inner": 256, "vocab_size": 4096, "n_layer": 1}


@pytest.fixture
def hf(tmp_path):
    cfg = tiny_cfg()
    return save_hf(tmp_path / "hf", cfg, random_weights(cfg))


@pytest.fixture
def sharded(tmp_path):
    cfg = tiny_cfg()
    return save_hf(tmp_path / "sharded", cfg, random_weights(cfg), max_shard_size=4000)


@pytest.fixture
def original(tmp_path):
    cfg = tiny_cfg()
    return save_original(tmp_path / "original", cfg, random_weights(cfg))


def mapping_of(address):
    """The line of /proc/self/smaps that an address lies in, as (path, {field: kB})."""
    fields, path, inside = {}, "", False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first = line.split()[0]
        if "-" in first and not first.endswith(":"):
            if inside:
                break
            low, high = (int(part, 16) for part in first.split("-"))
            inside = low <= address < high
            path = line.split(maxsplit=5)[5] if len(line.split(maxsplit=5)) == 6 else ""
        elif inside and line.endswith("kB"):
            fields[first.rstrip(":")] = int(line.split()[1])
    return (path, fields) if inside else ("", {})


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("save", [save_hf, save_original])
def test_weights_are_mapped_from_the_file_and_never_written_back(tmp_path, save):
    cfg = tiny_cfg(**WIDE)
    directory = save(tmp_path / "wide", cfg, random_weights(cfg))
    (file,), _ = find_weights(directory)
    before = file.read_bytes()
    state = load_weights(locate(directory))
    for tensor in state.values():
        assert mapping_of(tensor.data_ptr())[0] == str(file)
    name = next(name for name in state if "embedding" in name)
    _, fields = mapping_of(state[name].data_ptr())
    # Anonymous memory is a copy of our own; pages of the file are not, even while they are dirty.
    assert fields["Anonymous"] == 0, fields
    state[name].fill_(7.0)
    assert mapping_of(state[name].data_ptr())[1]["Anonymous"] * 1024 >= state[name].nbytes
    assert file.read_bytes() == before
    assert not torch.equal(load_weights(locate(directory))[name], state[name])


def test_reading_in_the_files_dtype_makes_no_copies(hf):
    loaded = read_checkpoint(hf)
    if Path("/proc/self/smaps").exists():
        file = str(hf / "model.safetensors")
        assert all(mapping_of(t.data_ptr())[0] == file for t in loaded.state_dict.values())


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 40, 500, 0.5, -1])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_truncated_file_is_named(request, kind, keep):
    directory = request.getfixturevalue({"safetensors": "hf", "bin": "original"}[kind])
    (file,), _ = find_weights(directory)
    data = file.read_bytes()
    size = int(len(data) * keep) if isinstance(keep, float) else keep
    file.write_bytes(data[:size])
    with pytest.raises(CheckpointFormatError, match=f"{file.name}.*(empty|not a readable)"):
        load_weights(locate(directory))


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_garbage_is_named(request, kind):
    directory = request.getfixturevalue({"safetensors": "hf", "bin": "original"}[kind])
    (file,), _ = find_weights(directory)
    file.write_bytes(os.urandom(4096))
    with pytest.raises((CheckpointFormatError, UnsafeCheckpointError), match=file.name):
        load_weights(locate(directory))


def test_missing_shard_is_named(sharded):
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 2
    shards[1].unlink()
    with pytest.raises(CheckpointFormatError, match=f"{shards[1].name} is missing(.|\n)*next"):
        load_weights(locate(sharded))


def edit_index(directory, edit):
    path = directory / "model.safetensors.index.json"
    raw = json.loads(path.read_text(encoding="utf-8"))
    edit(raw)
    path.write_text(json.dumps(raw), encoding="utf-8")


def test_index_that_names_a_tensor_no_shard_holds(sharded):
    def rename(raw):
        raw["weight_map"]["backbone.layers.0.mixer.A_lag"] = raw["weight_map"].pop(
            "backbone.layers.0.mixer.A_log"
        )

    edit_index(sharded, rename)
    with pytest.raises(CheckpointFormatError, match=r"A_lag(.|\n)*closest +\S*A_log"):
        load_weights(locate(sharded))


def test_tensor_the_index_does_not_list(sharded):
    edit_index(sharded, lambda raw: raw["weight_map"].pop("backbone.layers.0.mixer.A_log"))
    with pytest.raises(CheckpointFormatError, match=r"1 tensors that .* not list: .*A_log"):
        load_weights(locate(sharded))


@pytest.mark.parametrize("foreign", ["../hf/model.safetensors", "/etc/passwd", "a/b", "..", 3])
def test_index_may_not_leave_its_directory(sharded, foreign):
    edit_index(sharded, lambda raw: raw["weight_map"].update(x=foreign))
    with pytest.raises(CheckpointFormatError, match="outside its own directory"):
        locate(sharded)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": 3}'])
def test_broken_index_is_named(sharded, text):
    (sharded / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointFormatError, match=r"model.safetensors.index.json"):
        locate(sharded)


def test_tensor_in_two_shards_is_refused(sharded):
    first, *_, last = sorted(sharded.glob("*.safetensors"))
    shutil.copyfile(first, last)
    with pytest.raises(CheckpointFormatError, match="is in two files"):
        load_weights(locate(sharded))


def test_sharded_bin_is_read(original):
    state = torch.load(original / "pytorch_model.bin", weights_only=True)
    names = list(state)
    (original / "pytorch_model.bin").unlink()
    files = {name: f"pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({n: state[n] for n in names if files[n] == file}, original / file)
    index = json.dumps({"metadata": {}, "weight_map": files})
    (original / "pytorch_model.bin.index.json").write_text(index, encoding="utf-8")
    loaded = load_weights(locate(original))
    assert all(torch.equal(loaded[name], state[name]) for name in names)


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("executed",)


@pytest.mark.parametrize("protocol", ["zip", "plain", "legacy"])
def test_hostile_pickle_is_refused_and_not_run(original, protocol, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = original / "pytorch_model.bin"
    if protocol == "plain":
        file.write_bytes(pickle.dumps({"backbone.embedding.weight": Hostile()}))
    else:
        torch.save({"x": Hostile()}, file, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(UnsafeCheckpointError, match=r"MT203.*pytorch_model.bin(.|\n)*safetensors"):
        load_weights(locate(original))
    assert not (tmp_path / "executed").exists()


def test_the_hostile_pickle_would_run_elsewhere(monkeypatch, tmp_path):
    # Guards the test above: an inert payload would prove nothing.
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Hostile()))
    assert (tmp_path / "executed").exists()


def test_bin_from_before_the_zip_format_is_read(original):
    file = original / "pytorch_model.bin"
    state = torch.load(file, weights_only=True)
    torch.save(state, file, _use_new_zipfile_serialization=False)
    loaded = load_weights(locate(original))
    assert all(torch.equal(loaded[name], state[name]) for name in state)


@pytest.mark.parametrize(
    "inside", [[torch.zeros(1)], {"model": {}, "step": 3}, {1: torch.zeros(1)}]
)
def test_bin_that_is_no_state_dict_is_refused(original, inside):
    torch.save(inside, original / "pytorch_model.bin")
    with pytest.raises(CheckpointFormatError, match="does not hold a state dict"):
        load_weights(locate(original))


def test_file_without_tensors_is_refused(hf):
    save_file({}, hf / "model.safetensors")
    with pytest.raises(CheckpointFormatError, match="holds no tensors"):
        load_weights(locate(hf))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_tensor_that_is_not_finite_is_named(tmp_path, bad, dtype):
    cfg = tiny_cfg()
    native = {name: tensor.to(dtype) for name, tensor in random_weights(cfg).items()}
    native["blocks.1.mixer.D"][3] = bad
    directory = save_hf(tmp_path / "bad", cfg, native)
    with pytest.raises(CheckpointFormatError, match=r"layers.1.mixer.D holds 1 values"):
        load_weights(locate(directory))


def test_large_finite_numbers_are_no_infinity(tmp_path):
    cfg = tiny_cfg()
    native = random_weights(cfg)
    native["blocks.0.mixer.D"].fill_(3e38)  # the sum overflows, no number does
    load_weights(locate(save_hf(tmp_path / "large", cfg, native)))


def test_no_message_advises_to_switch_the_protection_off(original):
    file = original / "pytorch_model.bin"
    for content in (b"\x80\x02garbage", pickle.dumps({"x": Hostile()}), b"\x80\x02}q\x00."):
        file.write_bytes(content)
        with pytest.raises((CheckpointFormatError, UnsafeCheckpointError)) as caught:
            load_weights(locate(original))
        assert "set to `False`" not in str(caught.value)
