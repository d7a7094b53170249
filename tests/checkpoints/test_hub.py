"""The hub cache is built by hand; nothing reaches a network."""

import shutil
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from mechtest.checkpoints import locate, read_checkpoint, save_hf
from mechtest.errors import CheckpointNotFoundError, RevisionError
from tests.checkpoints.weights_by_hand import assert_same, random_weights, tiny_cfg

CFG = tiny_cfg()
MAIN, OLD = "a" * 40, "b" * 40


@pytest.fixture
def repo(tmp_path, monkeypatch):
    """A cached repository with a main branch, a tag, and a subfolder of checkpoints."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = tmp_path / "hf" / "hub" / "models--owner--mamba"
    for seed, (ref, commit) in enumerate((("main", MAIN), ("step100", OLD))):
        save_hf(folder / "snapshots" / commit, CFG, random_weights(CFG, seed))
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / ref).write_text(commit)
    save_hf(folder / "snapshots" / MAIN / "runs" / "step-7", CFG, random_weights(CFG, 7))
    return folder


@pytest.fixture
def online(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def test_default_branch_from_the_cache(repo):
    loaded = read_checkpoint("owner/mamba")
    assert_same(loaded.state_dict, random_weights(CFG, 0))
    assert (loaded.files.repo, loaded.files.revision, loaded.files.commit) == (
        "owner/mamba",
        None,
        MAIN,
    )
    assert loaded.cfg.name == f"owner/mamba ({MAIN[:12]})"


@pytest.mark.parametrize("revision", ["step100", OLD])
def test_revision_from_the_cache(repo, revision):
    loaded = read_checkpoint("owner/mamba", revision=revision)
    assert_same(loaded.state_dict, random_weights(CFG, 1))
    assert loaded.files.commit == OLD
    assert f"owner/mamba@{revision}" in loaded.files.source


def test_subfolder_from_the_cache(repo):
    loaded = read_checkpoint("owner/mamba", subfolder="runs/step-7")
    assert_same(loaded.state_dict, random_weights(CFG, 7))
    assert loaded.files.subfolder == "runs/step-7"


def test_cached_model_needs_no_network_even_online(repo, online):
    assert locate("owner/mamba").commit == MAIN


def test_explicit_cache_directory_wins(repo, tmp_path, monkeypatch):
    shutil.copytree(tmp_path / "hf" / "hub", tmp_path / "elsewhere")
    shutil.rmtree(tmp_path / "hf")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "elsewhere"))
    assert tmp_path / "elsewhere" in locate("owner/mamba").directory.parents


def test_revision_that_is_not_cached_names_the_cached_ones(repo):
    with pytest.raises(
        RevisionError,
        match=r"'step1000' .*not in the local cache(.|\n)*closest +step100(.|\n)*main",
    ) as caught:
        locate("owner/mamba", revision="step1000")
    assert "hf download owner/mamba --revision step1000" in str(caught.value)


def test_repository_that_is_not_cached(repo):
    with pytest.raises(
        CheckpointNotFoundError, match=r"not in the local hub cache(.|\n)*hf download"
    ):
        locate("owner/other")


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors"])
def test_snapshot_that_lacks_files(repo, lost):
    (repo / "snapshots" / MAIN / lost).unlink()
    with pytest.raises(CheckpointNotFoundError, match=r"lacks config.json or weights"):
        locate("owner/mamba")


def test_snapshot_without_the_subfolder(repo):
    with pytest.raises(CheckpointNotFoundError, match=r"lacks .* in subfolder 'runs/step-8'"):
        locate("owner/mamba", subfolder="runs/step-8")


@pytest.mark.parametrize("name", ["owner/..", "ow ner/mamba", "owner/mamba@step1"])
def test_what_is_no_repository_name(repo, online, name):
    with pytest.raises(CheckpointNotFoundError, match=r"(no directory|neither a directory)"):
        locate(name)


def test_only_what_is_needed_is_downloaded(repo, online, monkeypatch, tmp_path):
    calls = []

    def download(repo_id, *, revision, cache_dir, allow_patterns, ignore_patterns):
        calls.append((repo_id, revision, cache_dir, allow_patterns, ignore_patterns))
        return str(repo / "snapshots" / MAIN)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert locate("owner/mamba", revision="new").commit == MAIN
    (repo_id, revision, cache, patterns, ignored), *more = calls
    assert (repo_id, revision, cache, more) == ("owner/mamba", "new", tmp_path / "hf/hub", [])
    assert "*.safetensors" in patterns
    assert not any(".bin" in pattern for pattern in patterns)
    assert ignored == ["*/*"]
    locate("owner/mamba", revision="new", subfolder="runs/step-7")
    assert calls[-1][3][-1] == "runs/step-7/*.safetensors"
    assert calls[-1][4] is None


def test_pickles_are_downloaded_only_where_there_is_no_safetensors(repo, online, monkeypatch):
    asked = []

    def download(repo_id, *, allow_patterns, **rest):
        asked.append(allow_patterns)
        return str(repo / "snapshots" / MAIN)

    (repo / "snapshots" / MAIN / "model.safetensors").unlink()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(CheckpointNotFoundError, match="holds no weights"):
        locate("owner/mamba")
    assert [any(".bin" in pattern for pattern in patterns) for patterns in asked] == [False, True]


RESPONSE = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("failure", "error", "words"),
    [
        (errors.RevisionNotFoundError("404", response=RESPONSE), RevisionError, "no revision 'x'"),
        (
            errors.RepositoryNotFoundError("404", response=RESPONSE),
            CheckpointNotFoundError,
            r"no public hub repository(.|\n)*hf auth login",
        ),
        (
            errors.GatedRepoError("403", response=RESPONSE),
            CheckpointNotFoundError,
            r"no public hub repository",
        ),
        (errors.LocalEntryNotFoundError("no net"), CheckpointNotFoundError, r"downloaded: no net"),
        (ConnectionError(), CheckpointNotFoundError, r"downloaded: ConnectionError"),
        (RuntimeError("no route"), CheckpointNotFoundError, r"downloaded: no route"),
    ],
)
def test_errors_of_the_hub_are_translated(repo, online, monkeypatch, failure, error, words):
    def download(*args, **kwargs):
        raise failure

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(error, match=words):
        locate("owner/absent", revision="x")
