"""What carries interventions out is asked for by options, and reaches every claim."""

import pytest

from mechtest.interventions import ENGINES as ENGINES_OF_RUNNERS
from mechtest.interventions.rectangle import MEMORY
from mechtest.plugin.options import ENGINES, Options

pytest_plugins = ["pytester"]

TELLS = """
from pathlib import Path

@mt.claim("tells what it was given")
def test_told(claim):
    Path("told").write_text(f"{claim.engine} {claim.memory}")
    fake()
"""


def told(project):
    return (project.path / "told").read_text().split()


def test_the_names_and_the_default_are_those_of_runners():
    assert ENGINES == ENGINES_OF_RUNNERS
    assert (Options().engine, Options().memory) == ("auto", MEMORY)


@pytest.mark.parametrize(
    ("options", "ini", "expected"),
    [
        ([], "", ["auto", str(512 * 2**20)]),
        (["--mechtest-engine=hooked", "--mechtest-memory=8"], "", ["hooked", str(8 * 2**20)]),
        ([], "mechtest_engine = packed\nmechtest_memory = 0.5", ["packed", str(2**19)]),
        (["--mechtest-engine=auto"], "mechtest_engine = packed", ["auto", str(512 * 2**20)]),
    ],
    ids=["default", "options", "ini", "both"],
)
def test_engine_and_memory_reach_the_claim_and_the_report(project, options, ini, expected):
    (project.path / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
    project.write(test_a=TELLS)
    assert project.run(*options).ret == 0
    assert told(project) == expected
    run = project.report["run"]
    assert [run["engine"], str(run["memory"])] == expected
    # A claim's row says nothing of it, but for the test's own code.
    assert "engine" not in str([{**row, "source": ""} for row in project.report["claims"]])


def test_workers_are_given_them_too(project):
    project.write(test_a=TELLS)
    assert project.run("-n", "1", "--mechtest-engine=hooked", "--mechtest-memory=3").ret == 0
    assert told(project) == ["hooked", str(3 * 2**20)]
    assert project.report["run"]["engine"] == "hooked"


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("--mechtest-engine=pakced", "auto, packed or hooked, not 'pakced'; did you mean packed?"),
        ("--mechtest-engine=7", "auto, packed or hooked, not '7'"),
        ("--mechtest-memory=0", "a positive number of MiB, not 0"),
        ("--mechtest-memory=-3", "a positive number of MiB, not -3"),
        ("--mechtest-memory=nan", "a positive number of MiB, not nan"),
        ("--mechtest-memory=inf", "a positive number of MiB, not inf"),
        ("--mechtest-memory=much", "mechtest_memory is no number: 'much'"),
    ],
)
def test_values_that_mean_nothing_are_usage_errors(project, option, text):
    result = project.write(test_a=TELLS).run(option)
    assert result.ret == 4
    assert text in "\n".join(result.errlines + result.outlines)


def test_another_engine_changes_neither_lock_nor_registration(project):
    project.write(test_a=TELLS)
    project.run("--mechtest-lock")
    lock = project.lock
    result = project.run("--mechtest-lock=check", "--mechtest-engine=hooked", "--mechtest-memory=1")
    assert result.ret == 0
    assert project.report["claims"][0]["registered"]
    project.run("--mechtest-lock", "--mechtest-engine=hooked")
    assert project.lock == lock
