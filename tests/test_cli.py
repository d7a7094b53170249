"""The command line lists a model's sites and reports mistakes with exit status 2."""

import pytest

import mechtest
from mechtest.checkpoints import save_hf
from mechtest.cli import main
from tests.tiny import tiny_model


@pytest.fixture
def checkpoint(tmp_path):
    model = tiny_model()
    return save_hf(tmp_path / "tiny", model.cfg, model.state_dict())


def test_sites_lists_every_site_with_shapes(checkpoint, capsys):
    assert main(["sites", str(checkpoint)]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{checkpoint}: 2 layers")
    assert "blocks.{0..1}.hook_h.{pos}" in out
    assert "batch d_inner=16 d_state=4" in out
    assert "also:" not in out


def test_aliases_are_listed_when_asked_for(checkpoint, capsys):
    assert main(["sites", str(checkpoint), "--aliases"]) == 0
    assert "also: blocks.{l}.mixer.hook_ssm_state" in capsys.readouterr().out


def test_a_subfolder_is_found(checkpoint, capsys):
    assert main(["sites", str(checkpoint.parent), "--subfolder", "tiny"]) == 0
    assert "hook_embed" in capsys.readouterr().out


def test_a_missing_model_is_a_message_and_exit_status_2(tmp_path, capsys):
    assert main(["sites", str(tmp_path / "nowhere")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("mechtest: [MT201]")
    assert "nowhere" in captured.err


def test_a_revision_of_a_directory_is_refused(checkpoint, capsys):
    assert main(["sites", str(checkpoint), "--revision", "main"]) == 2
    assert "[MT206]" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["sites"]])
def test_wrong_usage_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage: mechtest" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out == f"mechtest {mechtest.__version__}\n"
