"""What a claim can ask for, with models that are loaded for real."""

from pathlib import Path

import pytest

# Imported here, because a run inside this process forgets what it imported, and torch cannot be
# imported twice.
import mechtest.models
import mechtest.stats
import mechtest.tasks  # noqa: F401
from mechtest.plugin.threads import VARIABLES, share_cores

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
FAMILY = (
    f"pytestmark = mt.family('f', model={str(ROOT / 'fixtures/zoo/prose')!r}, "
    f"prompts={str(ROOT / 'fixtures/prompts/fact_city.jsonl')!r}, per_template=2)\n"
)


def test_models_prompts_and_numbers_come_as_asked_for(project):
    project.write(
        test_a=FAMILY
        + """
@mt.claim("a")
def test_a(mamba, prompts, checkpoint, claim, rng):
    assert isinstance(mamba, mt.HookedMamba)
    assert isinstance(prompts, mt.PromptPairs)
    assert len(prompts) == 2 * len(prompts.templates)
    assert (checkpoint.seed, checkpoint.step) == (0, "step-00250")
    assert checkpoint.path.endswith("prose/seed0/step-00250")
    assert claim.key == "claims/test_a.py::test_a"
    assert claim.id == "claims/test_a.py::test_a[seed0-step-00250]"
    assert claim.level == 0.05
    assert str(next(iter(mamba.parameters())).dtype) == "torch.float64"
    again = mt_keyed(claim.seed, claim.key, "rng")
    assert rng.integers(10**9) == again.integers(10**9)
    fake()

from mechtest.stats import keyed_generator as mt_keyed

@mt.claim("all seeds")
def test_seeds(mamba_seeds, checkpoint):
    assert mamba_seeds.seeds == (0, 1, 2, 3, 4)
    assert len(mamba_seeds) == 5
    assert mamba_seeds.step == 250
    assert checkpoint.seed is None
    seed, model = next(iter(mamba_seeds))
    assert seed == 0
    assert isinstance(model, mt.HookedMamba)
    fake()
"""
    )
    result = project.run("--mechtest-checkpoint=250", "--mechtest-dtype=float64")
    result.assert_outcomes(passed=2)
    assert set(project.verdicts) == {"test_a[seed0-step-00250]", "test_seeds[step-00250]"}
    row = project.row("test_a[seed0-step-00250]")
    assert row["model"]["checkpoint"] == "step-00250"
    assert row["gate"] == "open"
    (digest,) = project.report["provenance"]["prompts"].values()
    assert len(digest) == 64


def test_gates_and_rows_of_several_checkpoints_are_kept_apart(project):
    code = """
@mt.claim("a")
def test_a(checkpoint, mamba):
    fake("refuted" if checkpoint.step == "step-00250" else "supported")

@mt.claim("b")
def test_b(checkpoint, mamba):
    fake()
"""
    project.write(test_a=FAMILY + code)
    project.run("--mechtest-checkpoint=250", "--mechtest-checkpoint=last")
    assert project.row("test_b[seed0-step-00250]")["gate"] == "closed"
    assert project.row("test_b[seed0-step-02500]")["gate"] == "open"
    assert len(project.report["families"]["f"]["claims"]) == 2


def test_an_unknown_checkpoint_ends_the_run_before_it_starts(project):
    project.write(test_a=FAMILY + "@mt.claim('a')\ndef test_a(mamba):\n    fake()\n")
    result = project.run("--mechtest-checkpoint=step-7")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*has no checkpoint 'step-7'*", "*step-00250, *last, all*"])


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("mamba", "*the fixture `mamba` has no model*"),
        ("mamba_seeds", "*the fixture `mamba_seeds` has no model*"),
        ("prompts", "*the fixture `prompts` has no file*"),
        ("checkpoint", "*by a test without a model*"),
    ],
)
def test_a_fixture_without_its_file_says_which_line_to_add(project, arguments, complaint):
    project.write(test_a=f"@mt.claim('a')\ndef test_a({arguments}):\n    fake()\n")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([complaint])
    assert set(project.verdicts.values()) == {"invalid"}


def test_a_missing_model_or_type_is_the_claims_error_and_not_a_crash(project):
    project.write(
        test_a="pytestmark = mt.family('f', model='zoo/prose/x')\n"
        "@mt.claim('a')\ndef test_a(mamba):\n    fake()\n"
        "@mt.claim('b')\ndef test_b():\n    fake()\n"
    )
    result = project.run()
    result.assert_outcomes(passed=1, errors=1)
    assert project.verdicts == {"test_a[x]": "invalid", "test_b": "supported"}
    assert project.row("test_a[x]")["binding"] == "MT201"
    project.write(test_a=FAMILY + "@mt.claim('a')\ndef test_a(mamba):\n    fake()\n")
    wrong = project.run("--mechtest-dtype=float99")
    wrong.stdout.fnmatch_lines(["*no type of weights is called 'float99'*"])


def test_fixtures_of_these_names_that_a_project_has_are_its_own(project):
    project.write(
        test_a="""
@pytest.fixture
def mamba():
    return "mine"

@pytest.fixture
def prompts():
    return ["mine"]

def test_a(mamba, prompts):
    assert (mamba, prompts) == ("mine", ["mine"])

@pytest.mark.parametrize("mamba", [1, 2])
def test_b(mamba):
    assert mamba in (1, 2)
"""
    )
    project.run().assert_outcomes(passed=3)


def test_a_test_that_is_no_claim_has_no_claim_fixture(project):
    result = project.write(test_a="def test_a(claim):\n    pass\n").run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*by a test that is no claim*"])


# -- threads, options, what is seen while claims run ---------------------------------------------


def test_workers_share_the_cores_and_controllers_do_not():
    worker = {"PYTEST_XDIST_WORKER": "gw0", "PYTEST_XDIST_WORKER_COUNT": "1000"}
    share_cores(worker)
    assert {worker[name] for name in VARIABLES} == {"1"}
    assert worker["OMP_WAIT_POLICY"] == "PASSIVE"
    controller = {}
    share_cores(controller)
    assert controller == {}
    given = {**worker, "OMP_NUM_THREADS": "7"}
    share_cores(given)
    assert given["OMP_NUM_THREADS"] == "7"


def test_ini_keys_say_what_options_say(project):
    (project.path / "pytest.ini").write_text(
        "[pytest]\nmechtest_report = out\nmechtest_seed = 4\nmechtest_inconclusive = skip\n"
    )
    project.write(test_a="@mt.claim('a')\ndef test_a():\n    fake('inconclusive')\n")
    project.run().assert_outcomes(skipped=1)
    assert "mechtest-seed=4" in (project.path / "out" / "report.json").read_text()
    assert not (project.path / "claims-report").exists()


@pytest.mark.parametrize(
    "option", ["--mechtest-alpha=2", "--mechtest-seed=-1", "--mechtest-inconclusive=maybe"]
)
def test_values_that_mean_nothing_are_usage_errors(project, option):
    project.write(test_a="@mt.claim('a')\ndef test_a():\n    fake()\n")
    assert project.run(option).ret == 4


def test_workers_set_their_threads_and_tell_their_progress(project, monkeypatch):
    """Uses private parts of xdist: fails when they move, and then there would be silence."""
    # These tests may themselves run in a worker, whose mark the inner run must not inherit.
    for name in (*VARIABLES, "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
        monkeypatch.delenv(name, raising=False)
    (project.path / "hasty.py").write_text(
        "import mechtest.plugin.progress as progress\nprogress.LOG_SECONDS = 0.1\n"
        "def pytest_terminal_summary(terminalreporter, config):\n"
        "    sched = config.pluginmanager.getplugin('dsession').sched\n"
        "    terminalreporter.write_line('dealt by ' + type(sched.inner).__name__)\n"
    )
    project.write(
        test_a="@mt.claim('slow')\ndef test_a(claim):\n"
        "    assert os.environ['OMP_NUM_THREADS'] == str(max(1, len(os.sched_getaffinity(0))))\n"
        "    claim.progress(120, 357, '0 as good, stops at 3')\n    time.sleep(0.6)\n    fake()\n"
    )
    result = project.run("-n", "1", "-p", "hasty")
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(
        [
            "*test_a: 120 of at most 357, 0 as good, stops at 3",
            "dealt by WorkStealingScheduling",
        ]
    )
    assert project.report["run"]["threads"] >= 1
    assert project.report["run"]["workers"] == 1


def test_annotations_and_the_step_summary_are_for_github(project, monkeypatch):
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project.path / "summary.md"))
    project.write(test_a="@mt.claim('a')\ndef test_a():\n    fake('refuted', p=0.9)\n")
    project.run().stdout.fnmatch_lines(["::*file=claims/test_a.py,line=*"])
    assert "refuted" in (project.path / "summary.md").read_text()
