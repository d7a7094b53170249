"""A run is held against an earlier one: red when a finding was lost, whatever the workers."""

import json
import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from mechtest.cli import main
from mechtest.report import load_schema

WORKFLOW = Path(__file__).parents[2] / "docs/examples/claims.yml"

pytest_plugins = ["pytester"]

# A claim whose effects, prompt by prompt, are read from a file: another "checkpoint" is another
# content. `share` is what the claim's own verdict rule looks at.
MEASURED = """
import json
import random
from pathlib import Path

from mechtest.errors import ClaimInconclusive, ClaimRefuted
from mechtest.records import ClaimRecord, Effect, Evidence, ModelIdentity, Verdict
from mechtest.running_claim import current_claim


def measured(name, threshold=0.5):
    share = json.loads(Path("shares.json").read_text())[name]
    claim = current_claim()
    rng = random.Random(name)
    behaviours = tuple(rng.uniform(2, 4) for _ in range(32))
    effects = tuple(share * b + rng.gauss(0, 0.05) for b in behaviours)
    verdict = Verdict.SUPPORTED if share > threshold else Verdict.REFUTED
    model = ModelIdentity("fake", f"weights of {share}", "tok", "float32", "cpu")
    names = tuple(f"p{i}" for i in range(32))
    evidence = Evidence(
        "necessity", "", ("blocks.0.state@last",), "resample", "logit_difference",
        Effect(share, share - 0.05, share + 0.05, 0.95, "share of behaviour"), verdict, threshold,
        "greater", 0.001, "sign flips", 8, 8, "t1", 32, 1.0, 0.9, 0.0, model,
        prompt_ids=names, effects=effects, behaviours=behaviours,
        templates=tuple(f"t{i // 4}" for i in range(32)),
        prompt_digests=tuple(f"{i:016x}" for i in range(32)),
    )
    claim.records.append(ClaimRecord(
        claim.id, claim.statement, "necessity", verdict, "effect", f"it is {verdict}", "",
        claim.level, claim.seed, "digest", {"threshold": threshold}, (evidence,),
    ))
    if verdict is Verdict.REFUTED:
        raise ClaimRefuted(f"{share} < {threshold}", record=claim.records[-1])
"""

CLAIMS = """
from measured import measured

@mt.claim("It carries a lot")
def test_strong():
    measured("strong")

@mt.claim("It carries half")
def test_weak():
    measured("weak")

@mt.claim("It never did")
def test_false():
    measured("false")
"""

FIRST = {"strong": 0.9, "weak": 0.8, "false": 0.1}


@pytest.fixture
def compared(project):
    """A project whose first run is kept under the tag `main`."""
    (project.path / "measured.py").write_text(MEASURED)
    project.write(test_a=CLAIMS)

    def run(shares, *options, **how):
        (project.path / "shares.json").write_text(json.dumps(shares))
        return project.run(*options, **how)

    project.measure = run
    result = run(FIRST, "--mechtest-tag=main")
    assert result.ret == 1  # test_false is not as expected: as ever, that is red
    result.stdout.fnmatch_lines(["saved as *; tag main points to it"])
    return project


GATED = ("--mechtest-baseline", "main", "--mechtest-fail-on", "regressed")


def changes(project):
    found = project.report["comparison"]["claims"]
    return {claim["id"].rpartition("::")[2]: claim["change"] for claim in found}


def test_only_what_was_lost_makes_the_run_red(compared):
    """A claim refuted before does not count; losing effect counts, though it is still supported."""
    same = compared.measure(FIRST, *GATED)
    assert same.ret == 0
    same.stdout.fnmatch_lines(["2 of 2 findings of main (*) still hold."])
    assert changes(compared) == {
        "test_strong": "held", "test_weak": "held", "test_false": "no finding",
    }  # fmt: skip
    jsonschema.Draft202012Validator(load_schema()).validate(compared.report)

    lost = compared.measure({**FIRST, "strong": 0.6}, *GATED)
    assert lost.ret == 1
    assert compared.verdicts["test_strong"] == "supported"
    assert changes(compared)["test_strong"] == "regressed"
    lost.stdout.fnmatch_lines(["regressed: It carries a lot", "  supported -> supported; 0.67 *"])
    text = (compared.path / "claims-report" / "report.md").read_text()
    assert text.index("1 regressed") < text.index("Not as expected")
    page = (compared.path / "claims-report" / "report.html").read_text()
    assert "Compared with the baseline" in page

    gained = compared.measure({**FIRST, "false": 0.9}, *GATED)
    assert gained.ret == 0
    assert changes(compared)["test_false"] == "gained"

    # Without --mechtest-fail-on, everything that is not as expected counts, and what was lost too.
    assert compared.measure(FIRST, *GATED[:2]).ret == 1
    both = {"strong": 0.6, "weak": 0.8, "false": 0.9}
    assert compared.measure(both, *GATED[:2]).ret == 1
    assert set(compared.verdicts.values()) == {"supported"}


def test_workers_change_neither_comparison_nor_status(compared):
    shares = {**FIRST, "weak": 0.3}
    assert compared.measure(shares, *GATED).ret == 1
    alone = compared.report
    assert compared.measure(shares, *GATED, "-n", "2").ret == 1
    together = compared.report
    assert {**alone, "run": None} == {**together, "run": None}
    assert changes(compared)["test_weak"] == "regressed"


def test_what_is_no_verdict_stays_red(compared):
    compared.write(test_b="def test_plain():\n    assert False\n")
    assert compared.measure(FIRST, *GATED).ret == 1
    compared.write(test_b='@mt.claim("new")\ndef test_new():\n    1 / 0\n')
    assert compared.measure(FIRST, *GATED).ret == 1  # a new claim that could not be tested
    compared.write(test_b="import nothing_of_this_name\n")
    assert compared.measure(FIRST, *GATED).ret != 0


def test_parts_of_a_run_are_compared_with_parts_of_the_baseline(compared):
    """What was not asked for is counted, and neither removed nor incomplete."""
    result = compared.measure(FIRST, *GATED, "-k", "strong")
    assert result.ret == 0
    assert changes(compared) == {"test_strong": "held"}
    result.stdout.fnmatch_lines(["2 claims of main (*) are not part of this run"])
    compared.write(test_a=CLAIMS.replace("def test_weak", "def test_renamed"))
    assert compared.measure(FIRST, *GATED).ret == 8
    assert changes(compared)["test_weak"] == "removed"


def test_ini_keys_ask_for_the_same(compared):
    keys = ("baseline=main", "fail_on=regressed", "save=true", "margin=0.4", "two_sided=true")
    result = compared.measure({**FIRST, "strong": 0.6}, *(f"-omechtest_{key}" for key in keys))
    assert result.ret == 0
    rules = compared.report["comparison"]["rules"]
    assert (rules["margin"], rules["two_sided"]) == (0.4, True)
    assert len(list((compared.path / ".mechtest" / "runs").iterdir())) == 2
    # Neither a plan nor a lock is a run.
    for mode in ("--mechtest-plan", "--mechtest-lock"):
        compared.measure(FIRST, "-omechtest_save=true", mode)
    assert len(list((compared.path / ".mechtest" / "runs").iterdir())) == 2


def test_an_allowance_is_shown_and_makes_nothing_red(compared):
    (compared.path / "allow.toml").write_text(
        '[[allow]]\nclaim = "claims/test_a.py::test_strong"\n'
        'reason = "the new data lacks it"\nexpires = 2999-01-01\n'
    )
    options = (*GATED, "--mechtest-allow=allow.toml")
    result = compared.measure({**FIRST, "strong": 0.6}, *options)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["regressed (allowed until 2999-01-01): It carries a lot"])
    assert "the new data lacks it" in (compared.path / "claims-report" / "report.md").read_text()
    assert "no longer needed" in compared.measure(FIRST, *options).stdout.str()


def test_the_workflow_of_the_documentation_does_what_it_says(compared, monkeypatch):
    """Its command lines are run: a pull request that loses a finding, then a push that keeps it."""
    workflow = yaml.safe_load(WORKFLOW.read_text())
    steps = workflow["jobs"]["claims"]["steps"]
    lines = {
        step["if"]: step["run"].splitlines() for step in steps if "if" in step and "run" in step
    }
    (check,) = lines["github.event_name == 'pull_request'"]
    keep, collect = lines["github.event_name == 'push'"]
    paths = [step["with"]["path"] for step in steps if "cache" in step.get("uses", "")]
    assert paths == [".mechtest", ".mechtest"]

    def run(line, shares):
        program, *words = shlex.split(line)
        assert program == "pytest"
        words[words.index("4")] = "0"
        return compared.measure(shares, *words)

    monkeypatch.setenv("CI", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    lost = {**FIRST, "strong": 0.5}
    assert run(check, FIRST).ret == 0
    assert run(check, lost).ret == 1
    summary = (compared.path / "summary.md").read_text()
    assert "2 of 2 findings of main" in summary
    assert "1 regressed" in summary
    run(keep, lost).stdout.fnmatch_lines(["*tag main points to it (was *)"])
    monkeypatch.chdir(compared.path)
    assert main(shlex.split(collect)[1:]) == 0
    assert run(check, lost).ret == 0  # it is the baseline now


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--mechtest-baseline=mian",), "MT801*closest*main"),
        (("--mechtest-fail-on=regressed",), "needs something to have regressed from"),
        ((*GATED, "--mechtest-margin=2"), "--mechtest-margin is a share"),
        (("--mechtest-tag=a/b",), "this is no name for a tag"),
        ((*GATED, "--mechtest-allow=none.toml"), "MT802"),
    ],
)
def test_wrong_options_end_the_run_before_it_starts(compared, options, said):
    result = compared.measure(FIRST, *options)
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    assert re.search(said.replace("*", "(?s:.*)"), result.stderr.str())
