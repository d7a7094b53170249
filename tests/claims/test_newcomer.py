"""A newcomer copies the claim of the README into a file, runs it, and changes one digit."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mechtest.cli import main

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """An empty project with the claim of the README, and the fixtures it names."""
    place = tmp_path_factory.mktemp("newcomer")
    (place / "fixtures").symlink_to(ROOT / "fixtures")
    (place / "pytest.ini").write_text("[pytest]\n")
    block = re.search(
        r"```python\n(# claims/test_my_circuit\.py\n.*?)```", README.read_text(), re.S
    )
    claims = place / "claims"
    claims.mkdir()
    (claims / "test_my_circuit.py").write_text(block[1])
    (claims / "test_twin.py").write_text(block[1].replace("blocks.1.", "blocks.0."))
    return place


def run(project, *arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=project, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def rows(project):
    report = json.loads((project / "claims-report" / "report.json").read_text())
    assert report["exploratory"], "without a lock, a report says that it is exploratory"
    return report["claims"]


def test_the_claim_of_the_readme_is_supported(project):
    result = run(project, "claims/test_my_circuit.py")
    assert result.returncode == 0, result.stdout + result.stderr
    (row,) = rows(project)
    (evidence,) = row["evidence"]
    assert row["verdict"] == "supported"
    assert row["statement"] in (project / "claims/test_my_circuit.py").read_text()
    assert evidence["effect"]["estimate"] == pytest.approx(0.96, abs=0.01)
    assert evidence["controls"]["at_least_as_extreme"] == 0
    assert evidence["controls"]["drawn"] == 57
    page = (project / "claims-report" / "report.html").read_text()
    assert "Layer 1" in page
    for shown in ("supported", "0.96 [0.93, 0.98]", "0/57", "96/24"):
        assert shown in result.stdout, f"README shows {shown}"
        assert shown in README.read_text()


def test_one_digit_away_it_is_refuted_and_says_why(project):
    result = run(project, "claims/test_twin.py")
    assert result.returncode == 1
    (row,) = rows(project)
    assert row["verdict"] == "refuted"
    assert row["binding"] == "effect"
    assert row["evidence"][0]["effect"]["estimate"] == pytest.approx(0.001, abs=0.001)
    assert row["evidence"][0]["controls"] is None
    for part in ("[MT701]", "given", "decided", "measured", "next", "replay"):
        assert part in result.stdout
    replay = re.search(r"replay\s+pytest '(.+?)'", result.stdout)[1]
    again = run(project, replay)
    assert again.returncode == 1, "the replay line repeats the claim"
    assert rows(project)[0]["evidence"] == row["evidence"]


def test_a_written_claim_file_runs_as_it_is(project, capsys, monkeypatch):
    monkeypatch.chdir(project)
    arguments = [
        "new-claim", "claims/test_city_state.py", "--model", "fixtures/zoo/prose",
        "--prompts", "fixtures/prompts/fact_city.jsonl", "--site", "blocks.1.state@last",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "pytest claims/test_city_state.py" in capsys.readouterr().out
    result = run(project, "claims/test_city_state.py", "--mechtest-alpha=0.4")
    assert result.returncode == 0, result.stdout + result.stderr
    assert [row["verdict"] for row in rows(project)] == ["supported", "supported"]
    assert {row["family"] for row in rows(project)} == {"city-state"}
    assert main(arguments) == 2
    assert "is there already" in capsys.readouterr().err
    assert main([*arguments[:1], "claims/city.py", *arguments[2:]]) == 2
    assert "test_something.py" in capsys.readouterr().err
    assert main([*arguments[:1], "claims/test_b.py", *arguments[2:-1], "blocks.1.stat"]) == 2
    assert "blocks.1.state" in capsys.readouterr().err
