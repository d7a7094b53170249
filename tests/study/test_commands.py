"""What a user types about studies."""

import pytest

from mechtest.cli import main
from mechtest.study import STEPS, Study
from mechtest.study.settings import STUDY_SETTINGS
from tests.study.studies import ROOT, prose


def test_a_starter_file_is_one_that_can_be_read(tmp_path, capsys):
    file = str(tmp_path / "studies" / "city.toml")
    arguments = ["new-study", file, "--model", "a/b", "--prompts", 'odd "name".jsonl']
    assert main(arguments) == 0
    assert f"mechtest discover {file}" in capsys.readouterr().out
    assert main(["discover", file, "--list"]) == 0
    listed = capsys.readouterr().out
    for step in STEPS:
        assert f"{step.number:2} {step.name}" in listed
        for key, setting in step.settings.items():
            assert f"{key} = " in listed
            assert setting.meaning in listed
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err


def test_a_run_says_each_step_and_where_the_page_is(tmp_path, capsys):
    file = str(prose(tmp_path))
    assert main(["discover", file, "--steps", "setup"]) == 0
    printed = capsys.readouterr().out
    assert " 1 setup         done" in printed
    assert "24 prompts of 24 templates to look at" in printed
    assert str(tmp_path / "out" / "index.html") in printed
    assert main(["discover", file, "--steps", "setup"]) == 0
    assert "done before" in capsys.readouterr().out
    assert main(["discover", file, "--steps", "setup", "--fresh"]) == 0
    assert "done before" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--steps", "setpu"], 2, "setup"),
        (["--skip", "scal"], 2, "closest   scale"),
        (["--output", "/dev/null/x", "--steps", "setup"], 2, "cannot be written"),
        (["--steps", "setup", "--emit", "claims/test_a.py"], 2, "no finished step"),
    ],
)
def test_wrong_input_has_a_message_and_a_status(tmp_path, capsys, arguments, status, said):
    assert main(["discover", str(prose(tmp_path)), *arguments]) == status
    assert said in capsys.readouterr().err


def test_a_failed_step_is_exit_status_1(tmp_path):
    file = prose(tmp_path, min_accuracy=1.5)
    assert main(["discover", str(file), "--steps", "setup"]) == 1


def test_the_handbook_names_every_step_setting_and_option():
    page = (ROOT / "docs/discover.md").read_text()
    for step in STEPS:
        assert f"### {step.number} `{step.name}`" in page
        for key, setting in step.settings.items():
            assert f"| `{key}` | " in page, (step.name, key)
            assert setting.meaning in page, (step.name, key)
    for key, setting in STUDY_SETTINGS.items():
        assert f"| `{key}` | " in page
        assert setting.meaning in page
    for option in ("--steps", "--skip", "--output", "--emit", "--fresh", "--list"):
        assert f"`{option}" in page


def test_the_example_is_a_study():
    settings = Study.from_toml(ROOT / "docs/examples/study.toml").settings
    assert settings.name == "fact-city"
    assert (ROOT / settings.study["prompts"]).is_file()
    assert all((ROOT / file).is_file() for file in settings.transfer["prompts"])
