"""`mechtest compare` and `mechtest runs` answer from files alone, with exit statuses."""

import json

import pytest

from mechtest.cli import main
from mechtest.report import write_report
from mechtest.runs import RunStore
from tests.comparison.test_compare import claim, measured, report_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Four reports in directories: what was, and what became of it."""
    monkeypatch.chdir(tmp_path)
    kinds = {
        "old": [claim()],
        "same": [claim(checkpoint="step-2")],
        "worse": [claim(parts=[measured(0.4)])],
        "other": [claim(parts=[measured(metric="accuracy")])],
        "fewer": [claim("test_b")],
    }
    for name, rows in kinds.items():
        write_report(report_of(rows), tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("after", "status", "said"),
    [
        ("same", 0, "1 of 1 findings of old still hold."),
        ("worse", 1, "regressed: test_a"),
        ("other", 2, "incomparable: test_a"),
        ("fewer", 3, "removed: test_a"),
    ],
)
def test_the_exit_status_says_what_became_of_the_findings(here, capsys, after, status, said):
    assert main(["compare", "old", f"{after}/report.json"]) == status
    assert said in capsys.readouterr().out


def test_a_comparison_is_written_as_markdown_and_json(here, capsys):
    words = ["compare", "old", "worse", "--markdown=out.md", "--json=out.json"]
    assert main(words) == 1
    text = (here / "out.md").read_text()
    assert text.startswith("<!-- mechtest-report -->\n### 0 of 1 findings of old still hold")
    assert "**regressed**" in text
    content = json.loads((here / "out.json").read_text())
    assert (content["schema"], content["status"]) == ("mechtest-comparison/1", 1)
    assert main([*words[:3], "--markdown=no/such/place.md"]) == 2


def test_margin_sides_and_allowances_are_options(here, capsys):
    assert main(["compare", "old", "worse", "--margin=0.7"]) == 0
    assert main(["compare", "worse", "old", "--two-sided"]) == 1
    (here / "allow.toml").write_text(
        '[[allow]]\nclaim = "claims/test_fact.py::test_a"\nreason = "r"\nexpires = 2999-01-01\n'
    )
    assert main(["compare", "old", "worse", "--allow=allow.toml"]) == 0
    assert "regressed (allowed until 2999-01-01)" in capsys.readouterr().out
    assert main(["compare", "old", "worse", "--margin=7"]) == 2


def test_what_cannot_be_read_is_a_message_and_status_2(here, capsys):
    (here / "old" / "report.json").write_text('{"schema": "mechtest-report/0"}')
    assert main(["compare", "old", "same"]) == 2
    assert "mechtest-report/0" in capsys.readouterr().err
    assert main(["compare", "none", "same"]) == 2
    assert "[MT801]" in capsys.readouterr().err


def test_runs_are_listed_shown_compared_and_removed(here, capsys):
    store = RunStore(here / ".mechtest")
    assert main(["runs", "list"]) == 0
    assert "no runs in" in capsys.readouterr().out
    store.save(report_of([claim()]), tag="main")
    for _ in range(3):
        store.save(report_of([claim(parts=[measured(0.4)])]))
    assert main(["runs", "list"]) == 0
    out = capsys.readouterr().out
    assert (out.count("As expected") + out.count("as expected"), "(main)" in out) == (4, True)
    assert f"{store.latest}  (latest)" in out
    assert main(["compare", "main", "latest"]) == 1
    assert main(["runs", "show", "main"]) == 0
    assert "test_a  supported" in capsys.readouterr().out
    assert main(["runs", "gc", "--keep=0", "--dry-run"]) == 0
    assert "would remove 2, 2 runs stay" in capsys.readouterr().out
    assert main(["runs", "gc", "--keep=0"]) == 0
    assert len(store.names) == 2
    assert main(["runs", "show", "main", "--store=elsewhere"]) == 2
