import json
import shutil

import pytest

from mechtest.checkpoints import locate, read_checkpoint, save_hf, save_original
from mechtest.errors import (
    CheckpointNotFoundError,
    ConfigError,
    RevisionError,
    UnsupportedArchitectureError,
)
from tests.checkpoints.weights_by_hand import random_weights, tiny_cfg

CFG = tiny_cfg()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_hf(tmp_path_factory.mktemp("saved") / "m", CFG, random_weights(CFG))


@pytest.fixture
def run(tmp_path, saved):
    for step in ("step-00100", "step-00200"):
        shutil.copytree(saved, tmp_path / "runs" / "x" / step)
    return tmp_path / "runs" / "x"


def test_local_directory(saved):
    files = locate(saved)
    assert (files.format, files.directory, files.source) == ("hf", saved, str(saved))
    assert files.config_path == saved / "config.json"
    assert files.weight_files == (saved / "model.safetensors",)
    assert (files.index_path, files.repo, files.revision, files.commit) == (None,) * 4


def test_subfolder_of_a_local_directory(run):
    files = locate(run, subfolder="step-00100")
    assert files.directory == run / "step-00100"
    assert files.source == str(run / "step-00100")


def test_absent_subfolder_names_the_closest(run):
    with pytest.raises(CheckpointNotFoundError, match=r"step-0100(.|\n)*closest +step-00100"):
        locate(run, subfolder="step-0100")


@pytest.mark.parametrize("subfolder", ["..", "a/../../b", "/etc"])
def test_subfolder_may_not_leave_the_directory(run, subfolder):
    with pytest.raises(CheckpointNotFoundError, match="leaves the checkpoint's directory"):
        locate(run, subfolder=subfolder)


@pytest.mark.parametrize("revision", ["main", "step100", ""])
def test_revision_with_a_local_directory_is_refused(saved, revision):
    with pytest.raises(RevisionError, match=r"MT206.*local directory(.|\n)*compare a checkpoint"):
        locate(saved, revision=revision)


@pytest.mark.parametrize("form", ["{}/step-0100", "{}/step-0100/"])
def test_absent_directory_names_the_closest(run, form):
    with pytest.raises(CheckpointNotFoundError, match=r"no directory(.|\n)*closest .*step-00100"):
        locate(form.format(run))


@pytest.mark.parametrize(
    "name", ["./absent", "~/absent-here", "absent", "fixtures/absent", "a/b/c"]
)
def test_names_that_look_local_are_never_looked_up_in_the_hub(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointNotFoundError, match="no directory"):
        locate(name)


def test_owner_directory_that_exists_makes_a_name_local(run, monkeypatch):
    monkeypatch.chdir(run.parent.parent)
    with pytest.raises(
        CheckpointNotFoundError, match=r"no directory runs/xy(.|\n)*closest +runs/x"
    ):
        locate("runs/xy")


def test_absent_parents_are_traced_to_the_last_one_there(run):
    with pytest.raises(CheckpointNotFoundError, match=r"closest .*runs/x"):
        locate(run.parent / "xx" / "step-00100")


def test_file_in_place_of_a_directory(saved):
    with pytest.raises(CheckpointNotFoundError, match="is a file"):
        locate(saved / "config.json")


def test_directory_of_checkpoints_points_to_one(run):
    with pytest.raises(ConfigError, match=r"no config.json(.|\n)*next .*step-00100"):
        locate(run)


def test_weights_without_configuration(tmp_path, saved):
    shutil.copy(saved / "model.safetensors", tmp_path)
    with pytest.raises(ConfigError, match=r"no config.json(.|\n)*not only the weights"):
        locate(tmp_path)


def test_codestral_is_named(tmp_path):
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(UnsupportedArchitectureError, match="Codestral"):
        locate(tmp_path)


def test_unknown_architecture_names_the_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba2"}))
    with pytest.raises(UnsupportedArchitectureError, match=rf"{tmp_path}/config.json .*'mamba2'"):
        locate(tmp_path)


def test_configuration_without_weights(tmp_path, saved):
    shutil.copy(saved / "config.json", tmp_path)
    (tmp_path / "optimizer.pt").write_text("")
    with pytest.raises(
        CheckpointNotFoundError, match=r"no weights(.|\n)*config.json, optimizer.pt"
    ):
        locate(tmp_path)


def test_order_of_weight_files(tmp_path):
    native = random_weights(CFG)
    directory = save_hf(tmp_path / "m", CFG, native, max_shard_size=4000)
    original = save_original(tmp_path / "o", CFG, native)
    shutil.copy(original / "pytorch_model.bin", directory)
    assert locate(directory).index_path == directory / "model.safetensors.index.json"
    single = save_hf(tmp_path / "s", CFG, native)
    shutil.copy(single / "model.safetensors", directory)
    assert locate(directory).weight_files == (directory / "model.safetensors",)
    for path in directory.glob("model*"):
        path.unlink()
    assert locate(directory).weight_files == (directory / "pytorch_model.bin",)
    assert read_checkpoint(directory).cfg.D == CFG.D


def test_tokenizer_files_are_listed(tmp_path, saved):
    directory = shutil.copytree(saved, tmp_path / "m")
    (directory / "tokenizer.json").write_text("{}")
    assert locate(directory).tokenizer_files == (directory / "tokenizer.json",)
