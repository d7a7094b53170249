"""A claim may be a Hypothesis test: same prompts in every worker, one row, the smallest break."""

import json
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

CLAIMS = """
from hypothesis import given, settings

import mechtest as mt

pytestmark = mt.family(
    "robust", model="ZOO/prose", prompts="ROOT/fixtures/prompts/gender.jsonl", per_template=1
)
WHOLE = mt.PromptPairs.from_jsonl("ROOT/fixtures/prompts/gender.jsonl")
PROMPTS = mt.PromptPairs(tuple(p.rows[0] for p in WHOLE.by_template().values())).test
STATE = mt.Circuit("blocks.1.state@last")
CALM = [mt.Prefix("Last night,"), mt.Prefix("The phone rang."), mt.Prefix("Yesterday noon,")]
HARSH = [*CALM, mt.Prefix("We like Emma.")]


@mt.claim("Another person's name breaks it", exact=True)
@settings(max_examples=25)
@given(mt.perturbations(PROMPTS, HARSH))
def test_breaks(mamba, claim, asked):
    mt.must_retain(mamba, STATE, asked, floor=0.45)


@mt.claim("Other openings do not", exact=True)
@given(mt.perturbations(PROMPTS, CALM))
def test_holds(mamba, asked):
    mt.must_retain(mamba, STATE, asked, floor=0.45)


@mt.claim("Not marked")
@given(mt.perturbations(PROMPTS, CALM))
def test_unmarked(mamba, asked):
    mt.must_retain(mamba, STATE, asked, floor=0.45)


@mt.claim("A search of our own finds the same", exact=True, expect="refuted")
def test_searched(mamba, prompts):
    mt.assert_robust(mamba, STATE, prompts, perturbations=HARSH, floor=0.45, n=25)
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Return the report and the output of a run in one process, and of one in two workers."""
    import subprocess
    import sys

    home = tmp_path_factory.mktemp("given")
    text = CLAIMS.replace("ZOO", str(ROOT / "fixtures/zoo")).replace("ROOT", str(ROOT))
    (home / "claims").mkdir()
    (home / "claims/test_robust.py").write_text(text)
    (home / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    found = {}
    for workers in ("0", "2"):
        out = f"--mechtest-report=report-{workers}"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "claims", "-n", workers, out, "-p", "no:jaxtyping"],
            cwd=home, env={**clean, "CI": "1"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        path = home / f"report-{workers}" / "report.json"
        assert path.exists(), done.stdout + done.stderr
        found[workers] = json.loads(path.read_text()), done.stdout
    return found


def row(report, name):
    return next(one for one in report["claims"] if f"::{name}[" in one["id"])


def test_workers_find_the_same(runs):
    alone, apart = runs["0"][0], runs["2"][0]
    for one, other in zip(alone["claims"], apart["claims"], strict=True):
        for name in ("verdict", "reason", "notes", "evidence", "settings"):
            assert one[name] == other[name], one["id"]


def test_the_smallest_counterexample_is_in_the_report_and_printed(runs):
    report, output = runs["0"]
    found = row(report, "test_breaks")
    assert found["verdict"] == "refuted"
    (evidence,) = found["evidence"]
    assert evidence["counterexample"]["operations"] == ["Prefix(words='We like Emma.')"]
    assert evidence["counterexample"]["retained"] < 0.45
    assert "@example(mt.perturbed(PROMPTS, '" in output
    assert "asked=mt.perturbed(PROMPTS, '" in output, "by Hypothesis itself"
    assert "We like Emma." in found["message"]
    assert "reproduce_failure" not in output


def test_none_found_is_one_row_with_the_number_of_tries(runs):
    found = row(runs["0"][0], "test_holds")
    (evidence,) = found["evidence"]
    assert found["verdict"] == "supported"
    assert evidence["counterexample"] is None
    assert evidence["p_effect"] is None
    assert evidence["prompts"] > 20
    assert found["settings"][0]["form"] == "given"
    assert "no probability" in found["reason"]


def test_an_edit_that_the_model_does_not_know_is_passed_over(runs):
    """`noon` is no word of its vocabulary: two openings are left for each prompt."""
    (evidence,) = row(runs["0"][0], "test_holds")["evidence"]
    assert evidence["prompts"] <= 2 * evidence["clusters"]


def test_a_search_in_a_claim_with_an_error_rate_is_invalid(runs):
    found = row(runs["0"][0], "test_unmarked")
    assert found["verdict"] == "invalid"
    assert "exact=True" in found["message"]


def test_an_expected_refutation_passes(runs):
    found = row(runs["0"][0], "test_searched")
    assert (found["verdict"], found["as_expected"]) == ("refuted", True)
    (evidence,) = found["evidence"]
    assert evidence["counterexample"]["operations"] == ["Prefix(words='We like Emma.')"]
