"""Workers die, runs are cut off, files do not import: what was finished is kept, the rest told."""

import os
import signal
import subprocess
import sys
import time

import pytest

from mechtest.plugin.journal import Journal, read_journals

pytest_plugins = ["pytester"]

FOUR = """
pytestmark = mt.family("f")
KILL = lambda: os.kill(os.getpid(), signal.SIGKILL)

@mt.claim("first")
def test_a():
    {a}
    fake()

@mt.claim("second")
def test_b(claim):
    claim.records.append(record())
    {b}

@mt.claim("third")
def test_c():
    fake()

@mt.claim("last")
def test_d():
    {d}
    fake()
"""


@pytest.mark.parametrize("place", ["a", "b", "d"], ids=["first", "after a record", "last"])
def test_a_killed_worker_loses_nothing_that_was_finished(project, place):
    code = FOUR.format(**{**dict.fromkeys("abd", "pass"), place: "KILL()"})
    result = project.write(test_a=code).run("-n", "1")
    assert result.ret == 1
    verdicts = project.verdicts
    assert verdicts.pop(f"test_{place}") == "crashed"
    assert set(verdicts.values()) == {"supported"}
    assert len(verdicts) == 3
    assert not project.report["complete"]
    row = project.row(f"test_{place}")
    assert row["p"] == row["p_adjusted"] == 1
    if place == "b":
        assert row["notes"] == ["before that: necessity supported: it is supported"]
        result.stdout.fnmatch_lines(["*before that: necessity supported*"])


def test_without_restarts_the_rest_was_not_run(project):
    code = FOUR.format(a="KILL()", b="pass", d="pass")
    result = project.write(test_a=code).run("-n", "1", "--max-worker-restart=0")
    assert result.ret != 0
    assert project.verdicts["test_a"] == "crashed"
    assert set(project.verdicts.values()) == {"crashed", "not_run"}
    result.stdout.fnmatch_lines(["*test_b was not run: the evidence is incomplete"])


def test_a_worker_that_dies_after_a_claim_leaves_its_row(project):
    code = """
@pytest.fixture
def dies():
    yield
    os.kill(os.getpid(), signal.SIGKILL)

@mt.claim("measured, then its fixture kills the worker")
def test_a(dies):
    fake()
"""
    result = project.write(test_a=code).run("-n", "1")
    assert project.verdicts == {"test_a": "supported"}
    assert "its worker died after" in project.row("test_a")["notes"][0]
    assert result.ret == 1


@pytest.mark.parametrize("way", [[], ["-n", "1"]], ids=["one process", "worker"])
def test_stopping_at_the_first_failure_leaves_claims_not_run(project, way):
    code = "".join(
        f"@mt.claim('c{n}')\ndef test_{n}():\n    fake('refuted', p=0.9)\n" for n in range(6)
    )
    assert project.write(test_a=code).run("-x", *way).ret != 0
    verdicts = list(project.verdicts.values())
    assert verdicts[0] == "refuted"
    assert verdicts[-1] == "not_run"
    assert not project.report["complete"]


@pytest.mark.parametrize("way", [[], ["-n", "1"]], ids=["one process", "worker"])
def test_a_file_that_does_not_import_makes_the_evidence_incomplete(project, way):
    project.write(test_a="@mt.claim('a')\ndef test_a():\n    fake()\n", test_b="import nowhere\n")
    result = project.run(*way)
    assert result.ret != 0
    report = project.report
    assert not report["complete"]
    assert report["collection_errors"][0]["file"] == "claims/test_b.py"
    assert "nowhere" in report["collection_errors"][0]["message"]
    result.stdout.fnmatch_lines(["claims/test_b.py could not be collected*"])


def test_a_timeout_is_an_interrupted_claim(project):
    project.write(
        test_a="@mt.claim('slow')\ndef test_a():\n    time.sleep(20)\n"
        "@mt.claim('quick')\ndef test_b():\n    fake()\n"
    )
    result = project.run("--timeout=0.3", "--timeout-method=signal")
    assert project.verdicts == {"test_a": "interrupted", "test_b": "supported"}
    assert project.row("test_a")["binding"] == "timeout"
    assert result.ret == 1


def test_sigterm_still_leaves_a_report(project):
    project.write(
        test_a="@mt.claim('quick')\ndef test_a():\n    fake()\n"
        "@mt.claim('slow')\ndef test_b():\n    time.sleep(60)\n"
        "@mt.claim('never')\ndef test_c():\n    fake()\n"
    )
    code = [sys.executable, "-m", "pytest", "claims", "-p", "no:jaxtyping", "-p"]
    with subprocess.Popen(
        [*code, "no:hypothesispytest"], cwd=project.path, stdout=subprocess.PIPE
    ) as run:
        journals = project.path / "claims-report" / "journal"
        for _ in range(200):
            text = "".join(path.read_text() for path in journals.glob("*.jsonl"))
            if '"event": "start", "id": "claims/test_a.py::test_b"' in text:
                break
            time.sleep(0.1)
        os.kill(run.pid, signal.SIGTERM)
        run.communicate(timeout=60)
    assert run.returncode == 2
    assert project.verdicts == {
        "test_a": "supported",
        "test_b": "interrupted",
        "test_c": "not_run",
    }


def test_a_run_that_would_be_green_ends_with_8_when_evidence_is_missing(project):
    """Of itself pytest would end with 0: nothing failed, a claim is only gone."""
    project.write(
        test_a="@mt.claim('a')\ndef test_a():\n    fake()\n"
        "@mt.claim('b')\ndef test_b():\n    fake()\n"
    )
    (project.path / "drops.py").write_text(
        "import pytest\n@pytest.hookimpl(trylast=True)\n"
        "def pytest_collection_finish(session):\n    session.items.pop()\n"
    )
    result = project.run("-p", "drops")
    result.assert_outcomes(passed=1)
    assert result.ret == 8
    assert project.verdicts == {"test_a": "supported", "test_b": "not_run"}


def test_a_report_that_cannot_travel_does_not_end_green(project):
    """What others put on a report can break a worker's channel; pytest alone then ends with 0."""
    project.write(
        test_a="@mt.claim('a')\ndef test_a(record_property):\n    fake()\n"
        "    record_property('x', object())\n"
    )
    result = project.run("-n", "1")
    assert result.ret == 3
    assert project.verdicts == {"test_a": "supported"}  # from the worker's journal
    result.stdout.fnmatch_lines(["pytest itself failed *: do not trust this run"])


def test_journals_of_another_run_are_not_read_and_torn_lines_are_counted(tmp_path):
    old = Journal(tmp_path, "gw7", "old")
    old.write("start", {"id": "x"})
    old.close()
    new = Journal(tmp_path, "gw0", "new")
    new.write("start", {"id": "a"})
    new.write("end", {"id": "a", "facts": {}}, keep=True)
    new.close()
    with (tmp_path / "gw0.jsonl").open("ab") as file:
        file.write(b'{"event": "start", "id": "b')
    content = read_journals(tmp_path, "new")
    assert list(content.lines) == ["gw0"]
    assert content.torn == 1
    assert [line["id"] for line in content.events("start")] == ["a"]


def test_an_earlier_runs_journals_are_removed(project):
    project.write(test_a="@mt.claim('a')\ndef test_a():\n    fake()\n")
    journals = project.path / "claims-report" / "journal"
    journals.mkdir(parents=True)
    (journals / "gw5.jsonl").write_text('{"event": "run", "run": "another", "worker": "gw5"}\n')
    project.run()
    assert [path.name for path in journals.iterdir()] == ["main.jsonl"]
