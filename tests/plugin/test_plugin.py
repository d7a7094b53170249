"""The plugin as a user meets it: installed, with and without xdist, with and without claims."""

import json
import subprocess
import sys

import pytest

import mechtest

pytest_plugins = ["pytester"]

QUICK = ["-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:jaxtyping", "-W", "error"]

VERDICTS = """
pytestmark = mt.family("circuit")

@mt.claim("necessary")
def test_necessary():
    fake()

@mt.claim("wrong")
def test_wrong():
    fake("refuted", p=0.9)

@mt.claim("open")
def test_open():
    fake("inconclusive", p=0.2)

@mt.claim("twin", expect="refuted")
def test_twin():
    fake("refuted", p=0.9)

@mt.claim("not measured")
def test_not_measured():
    pass

@pytest.mark.claim("broken")
def test_broken():
    raise KeyError("no such thing")

def test_no_claim():
    pass
"""

EXPECTED = {
    "test_necessary": "supported",
    "test_wrong": "refuted",
    "test_open": "inconclusive",
    "test_twin": "refuted",
    "test_not_measured": "invalid",
    "test_broken": "invalid",
}

WAYS = [["-p", "no:xdist"], ["-n", "0"], ["-n", "2"], ["-p", "no:cacheprovider"]]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_verdicts_become_outcomes_rows_and_an_exit_status(project, way):
    result = project.write(test_a=VERDICTS).run("--strict-markers", *way)
    result.assert_outcomes(passed=3, failed=2, errors=2)
    result.stdout.fnmatch_lines([f"mechtest: {mechtest.__version__}"])
    assert result.ret == 1
    assert project.verdicts == EXPECTED
    assert project.row("test_twin")["as_expected"]
    assert project.row("test_not_measured")["binding"] == "no evidence"
    assert project.row("test_broken")["binding"] == "KeyError"


def test_reports_are_equal_for_any_number_of_workers_and_any_order(project):
    project.write(test_a=VERDICTS, test_b=VERDICTS)
    (project.path / "backwards.py").write_text(
        "def pytest_collection_modifyitems(items):\n    items.reverse()\n"
    )
    found = []
    for way in ([], ["-n", "2"], ["-p", "backwards"]):
        project.run(*way)
        report = project.report
        del report["run"]
        for row in report["claims"]:
            # A longrepr's frames of pytest itself differ between a process and a worker.
            row["message"] = row["message"].splitlines()[:1]
        found.append(json.dumps(report, sort_keys=True))
    assert found[1:] == found[:-1]


def test_a_claim_row_tells_where_it_is_and_how_to_repeat_it(project):
    project.write(test_a=VERDICTS).run("--mechtest-seed", "3")
    row = project.row("test_necessary")
    assert row["key"] == "claims/test_a.py::test_necessary"
    assert row["source"]["file"] == "claims/test_a.py"
    assert row["replay"] == "pytest claims/test_a.py::test_necessary --mechtest-seed=3"
    assert row["settings"] == [{"threshold": 0.5}]
    assert row["model"]["sha256"] == "abc"
    run = project.report["run"]
    assert (run["forward_passes"], run["forward_tokens"]) == (12, 28)
    assert (run["engine"], run["memory"], run["kernels"]) == ("auto", 512 * 2**20, ["torch"])
    of_claim = run["claims"][row["id"]]
    assert (of_claim["engine"], of_claim["forward_tokens"]) == ("packed", 7)
    assert project.report["provenance"]["seed"] == 3


def test_failures_are_short_and_say_the_numbers_first(project):
    result = project.write(test_a=VERDICTS).run("-rA")
    text = result.stdout.str()
    assert "raise RAISED" not in text
    result.stdout.fnmatch_lines(["claims/test_a.py:*: ClaimRefuted"])
    result.stdout.fnmatch_lines(["REFUTED claims/test_a.py::test_wrong - +0.31 < +0.50*"])
    assert "raise RAISED" in project.run("--tb=long").stdout.str()


def test_letters_and_words_of_verdicts(project):
    project.write(test_a=VERDICTS)
    project.run().stdout.fnmatch_lines(["claims/test_a.py .R?rEE.*"])
    project.run("-v").stdout.fnmatch_lines(
        ["*test_necessary SUPPORTED*", "*test_twin REFUTED (as expected)*", "*INVALID*"]
    )


@pytest.mark.parametrize(
    ("option", "outcome"), [("fail", "failed"), ("xfail", "xfailed"), ("skip", "skipped")]
)
def test_inconclusive_claims_may_be_softened(project, option, outcome):
    project.write(test_a="@mt.claim('open')\ndef test_a():\n    fake('inconclusive', p=0.2)\n")
    result = project.run(f"--mechtest-inconclusive={option}")
    result.assert_outcomes(**{outcome: 1})
    assert project.verdicts == {"test_a": "inconclusive"}
    assert not project.row("test_a")["as_expected"]


@pytest.mark.parametrize(
    ("expect", "verdict", "passed"),
    [
        ("refuted", "refuted", True),
        ("refuted", "inconclusive", False),
        ("refuted", "supported", False),
        ("inconclusive", "inconclusive", True),
        ("not supported", "refuted", True),
        ("not supported", "inconclusive", True),
        ("not supported", "supported", False),
        ("supported", "supported", True),
    ],
)
def test_a_claim_passes_at_the_verdict_it_expects(project, expect, verdict, passed):
    project.write(test_a=f"@mt.claim('x', expect='{expect}')\ndef test_a():\n    fake('{verdict}')")
    result = project.run()
    result.assert_outcomes(**{"passed" if passed else "failed": 1})
    assert project.row("test_a")["verdict"] == verdict
    assert project.row("test_a")["as_expected"] is passed
    if not passed:
        result.stdout.fnmatch_lines([f"*{verdict}, expected {expect}*"])


def test_xfail_strict_keeps_its_meaning(project):
    project.write(
        test_a="""
@pytest.mark.xfail(strict=True)
@mt.claim("known open, now supported")
def test_now():
    fake()

@pytest.mark.xfail(strict=True)
@mt.claim("known open")
def test_still():
    fake("inconclusive")
"""
    )
    result = project.run()
    result.assert_outcomes(failed=1, xfailed=1)
    assert project.verdicts == {"test_now": "supported", "test_still": "inconclusive"}


def test_a_refuted_record_that_nobody_raised_fails(project):
    """Records decide, not whether the test function returned."""
    project.write(
        test_a="""
@mt.claim("two parts")
def test_a(claim):
    fake()
    claim.records.append(record("refuted", p=0.9))
"""
    )
    project.run().assert_outcomes(failed=1)
    assert project.row("test_a")["p"] == 0.9
    assert project.row("test_a")["verdict"] == "refuted"


def test_skips_are_listed_and_never_supported(project):
    project.write(
        test_a="@mt.claim('a')\ndef test_a():\n    pytest.skip('no data')\n"
        "@pytest.mark.skip(reason='later')\n@mt.claim('b')\ndef test_b():\n    fake()\n"
    )
    project.run().assert_outcomes(skipped=2)
    assert project.verdicts == {"test_a": "skipped", "test_b": "skipped"}
    assert project.row("test_a")["reason"] == "no data"
    assert not project.report["complete"]


def test_numbers_of_other_libraries_do_not_end_the_run(project):
    """A numpy scalar in a report kills a worker's channel without a word."""
    project.write(
        test_a="""
import numpy
from pathlib import Path

@mt.claim("numpy")
def test_a(claim):
    made = record(threshold=0.5)
    claim.records.append(made)
    made.settings["k"] = numpy.float32(0.5)
    made.settings["path"] = Path("x")
    made.settings["broken"] = "\\udc80"
    made.settings["nan"] = float("nan")
"""
    )
    result = project.run("-n", "1")
    result.assert_outcomes(passed=1)
    settings = project.row("test_a")["settings"][0]
    assert settings["k"] == 0.5
    assert settings["nan"] is None


def test_junit_properties_carry_the_verdict(project):
    project.write(test_a=VERDICTS).run("--junitxml=out.xml")
    text = (project.path / "out.xml").read_text()
    assert '<property name="mechtest_verdict" value="supported" />' in text
    assert '<property name="mechtest_interval" value="[0.80, 1.00]" />' in text
    assert "prompt-7" not in text  # what grows with the prompts stays in the report


HOSTILE = "<script>alert(1)</script> 'q' \"d\" \N{GRINNING FACE} \x1b[31mred\x1b[0m\nline\x00 " + (
    "x" * 10_000
)


def test_hostile_statements_stay_text(project):
    project.write(
        test_a=f"STATEMENT = {HOSTILE!r}\n"
        "@mt.claim(STATEMENT)\ndef test_a():\n    fake('refuted', p=0.9)\n"
    )
    result = project.run("--junitxml=out.xml", "-n", "1")
    result.assert_outcomes(failed=1)
    text = result.stdout.str()
    assert "\x1b[31mred" not in text
    assert "x" * 500 not in text
    assert "<script>" not in (project.path / "out.xml").read_text()
    assert project.row("test_a")["statement"].startswith("<script>alert(1)")


def test_the_markers_are_registered(pytester):
    result = pytester.runpytest_inprocess(*QUICK, "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.claim(statement*", "@pytest.mark.claim_family(*"])


def test_strict_markers_still_catch_a_typo(pytester):
    pytester.makepyfile("import pytest\n@pytest.mark.clam('x')\ndef test_x(): pass\n")
    result = pytester.runpytest_inprocess(*QUICK, "--strict-markers")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'clam' not found in `markers`*"])


@pytest.mark.parametrize("way", [[], ["-n", "1"]], ids=["one process", "worker"])
def test_a_run_without_claims_is_left_alone(pytester, way):
    pytester.makepyfile("def test_x(): pass\ndef test_y(): assert 0\n")
    run = pytester.runpytest_subprocess if way else pytester.runpytest_inprocess
    plain = run(*QUICK, *way)
    plain.assert_outcomes(passed=1, failed=1)
    assert plain.ret == 1
    assert "= claims" not in plain.stdout.str()
    assert not (pytester.path / "claims-report").exists()
    assert pytester.runpytest_inprocess(*QUICK, "-p", "no:mechtest").ret == 1


def test_collecting_neither_runs_nor_writes_nor_imports_torch(project):
    project.write(
        test_a="pytestmark = mt.family('f', model='no/such/place/at/all')\n"
        "@mt.claim('x')\ndef test_a(mamba, prompts):\n    fake()\n"
    )
    code = (
        "import pytest, sys; pytest.main(['--collect-only', '-q', 'claims', '-p', 'no:jaxtyping',"
        "'-p', 'no:hypothesispytest']); print('modules', *sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.path, capture_output=True, text=True, check=True
    )
    assert "test_a[all]" in done.stdout
    modules = set(done.stdout.splitlines()[-1].split())
    assert modules.isdisjoint({"torch", "numpy", "scipy", "transformers", "jinja2"})
    assert not (project.path / "claims-report").exists()


def test_an_empty_report_directory_writes_none(project):
    for way in ([], ["-n", "1"]):
        project.write(test_a=VERDICTS).run("--mechtest-report=", *way).assert_outcomes(
            passed=3, failed=2, errors=2
        )
        assert not (project.path / "claims-report").exists()


def test_failed_claims_can_be_run_again_by_themselves(project):
    """Their levels are those of the whole lock, and nothing looks stale for it."""
    project.write(
        test_a="pytestmark = mt.family('f', ordered=False)\n"
        "@mt.claim('a')\ndef test_a():\n    fake()\n"
        "@mt.claim('b')\ndef test_b():\n    fake('refuted', p=0.9)\n"
    )
    project.run("--mechtest-lock")
    project.run()
    project.run("--lf").assert_outcomes(failed=1)
    assert project.row("test_b")["level"] == 0.025
    assert project.report["family_error"]["stale"] == []


def test_claims_need_no_terminal(project):
    project.write(test_a=VERDICTS).run("-p", "no:terminal")
    assert project.verdicts == EXPECTED


@pytest.mark.parametrize(
    ("mark", "complaint"),
    [
        ("pytest.mark.claim", "needs its statement"),
        ("pytest.mark.claim('x', expect='yes')", "expect='yes' is none of"),
        ("pytest.mark.claim('x', statment='y')", "takes no statment"),
    ],
)
def test_a_marker_nothing_can_test_is_an_error_of_its_test(project, mark, complaint):
    project.write(test_a=f"@{mark}\ndef test_a():\n    fake()\n")
    result = project.run()
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*MT704*{complaint}*"])
    assert project.verdicts == {"test_a": "invalid"}


def test_the_marker_functions_refuse_at_once():
    from mechtest.errors import RegistrationError
    from mechtest.plugin.marks import claim

    with pytest.raises(RegistrationError, match="expect='yes'"):
        claim("x", expect="yes")
    with pytest.raises(RegistrationError, match="needs its statement"):
        claim(" ")
