"""The plugin as a user meets it: installed, with and without xdist."""

import pytest

import mechtest

pytest_plugins = ["pytester"]

CLAIM = """
import pytest

@pytest.mark.claim("one is one")
def test_one():
    assert 1 == 1

@pytest.mark.claim("one is two")
def test_two():
    assert 1 == 2
"""

# Hypothesis would be imported anew in every inner run.
QUICK = ["-p", "no:hypothesispytest"]

# Only -n 2 needs processes of its own; the others run inside this one, which is quicker.
WAYS = [["-p", "no:xdist"], [], ["-n", "0"], ["-n", "2"]]


@pytest.mark.parametrize("way", WAYS, ids=" ".join)
def test_claims_run_the_same_with_and_without_xdist(pytester, way):
    pytester.makepyfile(test_claims=CLAIM)
    run = pytester.runpytest_subprocess if "2" in way else pytester.runpytest_inprocess
    result = run(*QUICK, "--strict-markers", "-W", "error", *way)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"mechtest: {mechtest.__version__}"])
    assert result.ret == 1


def test_the_marker_is_registered(pytester):
    result = pytester.runpytest_inprocess(*QUICK, "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.claim(statement): *"])


def test_strict_markers_still_catch_a_typo(pytester):
    pytester.makepyfile("import pytest\n@pytest.mark.clam('x')\ndef test_x(): pass\n")
    result = pytester.runpytest_inprocess(*QUICK, "--strict-markers")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*'clam' not found in `markers`*"])


def test_an_unused_plugin_changes_no_result(pytester):
    pytester.makepyfile("def test_x(): pass\n")
    plain = pytester.runpytest_inprocess(*QUICK, "-p", "no:mechtest")
    assert plain.ret == 0
    assert "mechtest:" not in plain.stdout.str()
