"""A claim may be a Hypothesis test: same prompts in every worker, one row, the smallest break."""

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import hypothesis
import jaxtyping
import pytest

import mechtest as mt
from mechtest.errors import ClaimRefuted
from mechtest.running_claim import RunningClaim, running
from mechtest.stats import derived_seed

ROOT = Path(__file__).parents[2]

CLAIMS = """
from hypothesis import example, given, settings

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
@settings(max_examples=25)
@given(mt.perturbations(PROMPTS, CALM))
@example(mt.perturbed(PROMPTS, PROMPTS[13].id, mt.Prefix("The bus was crowded.")))
def test_holds(mamba, asked):
    mt.must_retain(mamba, STATE, asked, floor=0.45)


@mt.claim("A search of our own finds the same", exact=True, expect="refuted")
def test_searched(mamba, prompts):
    mt.assert_robust(mamba, STATE, prompts, perturbations=HARSH, floor=0.45, n=25)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the report and the output of a run in two workers."""
    home = tmp_path_factory.mktemp("given")
    text = CLAIMS.replace("ZOO", str(ROOT / "fixtures/zoo")).replace("ROOT", str(ROOT))
    (home / "claims").mkdir()
    (home / "claims/test_robust.py").write_text(text)
    (home / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "claims", "-n", "2", "-p", "no:jaxtyping"],
        cwd=home, env={**clean, "CI": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    path = home / "claims-report/report.json"
    assert path.exists(), done.stdout + done.stderr
    return json.loads(path.read_text()), done.stdout


def row(report, name):
    return next(one for one in report["claims"] if f"::{name}[" in one["id"])


def evidence_here(test, key):
    """Return what a claim's own assertion finds in this process, under the claim's key."""
    with running(RunningClaim(id=key, key=key, exact=True)) as claim, suppress(ClaimRefuted):
        test()
    return json.loads(claim.records[-1].to_json())["evidence"]


def test_workers_find_what_one_process_finds(run, monkeypatch):
    """By the claim's key: no worker, order or earlier test has a part in what is drawn."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # most of the time, else
    model = mt.HookedMamba.from_pretrained(ROOT / "fixtures/zoo/prose/seed0/step-02500")
    whole = mt.PromptPairs.from_jsonl(ROOT / "fixtures/prompts/gender.jsonl")
    pairs = mt.PromptPairs(tuple(part.rows[0] for part in whole.by_template().values()))
    state = mt.Circuit("blocks.1.state@last")
    words = ("Last night,", "The phone rang.", "Yesterday noon,", "We like Emma.")
    harsh = [mt.Prefix(one) for one in words]

    @hypothesis.seed(derived_seed(0, "claims/test_robust.py::test_breaks", "given"))
    @hypothesis.settings(max_examples=25, deadline=None, database=None)
    @hypothesis.given(mt.perturbations(pairs.test, harsh))
    def breaks(asked):
        mt.must_retain(model, state, asked, floor=0.45)

    def searched():
        mt.assert_robust(model, state, pairs, perturbations=harsh, floor=0.45, n=25)

    for test, name in ((breaks, "test_breaks"), (searched, "test_searched")):
        (here,) = evidence_here(test, f"claims/test_robust.py::{name}")
        (there,) = row(run[0], name)["evidence"]
        for key in ("counterexample", "prompts", "clusters", "effect", "method"):
            assert here[key] == there[key], (name, key)


def test_the_smallest_counterexample_is_in_the_report_and_printed(run):
    report, output = run
    found = row(report, "test_breaks")
    assert found["verdict"] == "refuted"
    (evidence,) = found["evidence"]
    assert evidence["counterexample"]["operations"] == ["Prefix(words='We like Emma.')"]
    assert evidence["counterexample"]["retained"] < 0.45
    assert "@example(mt.perturbed(PROMPTS, '" in output
    assert "We like Emma." in found["message"]
    assert "reproduce_failure" not in output


def test_none_found_is_one_row_with_the_number_of_tries(run):
    found = row(run[0], "test_holds")
    (evidence,) = found["evidence"]
    assert found["verdict"] == "supported"
    assert evidence["counterexample"] is None
    assert evidence["p_effect"] is None
    assert evidence["prompts"] > 20
    assert found["settings"][0]["form"] == "given"
    assert "no probability" in found["reason"]


def test_an_example_is_tried_beside_what_is_drawn(run):
    """It is not among the openings, and keeps less than any of them."""
    (evidence,) = row(run[0], "test_holds")["evidence"]
    assert evidence["effect"]["estimate"] == pytest.approx(crowded(), rel=1e-4)


def crowded():
    model = mt.HookedMamba.from_pretrained(ROOT / "fixtures/zoo/prose/seed0/step-02500")
    whole = mt.PromptPairs.from_jsonl(ROOT / "fixtures/prompts/gender.jsonl")
    pairs = mt.PromptPairs(tuple(part.rows[0] for part in whole.by_template().values())).test
    asked = mt.perturbed(pairs, pairs[13].id, mt.Prefix("The bus was crowded."))
    return mt.retained(model, mt.Circuit("blocks.1.state@last"), asked)


def test_an_edit_that_the_model_does_not_know_is_passed_over(run):
    """`noon` is no word of its vocabulary: two openings are left for each prompt."""
    (evidence,) = row(run[0], "test_holds")["evidence"]
    assert evidence["prompts"] <= 2 * evidence["clusters"] + 1, "and the example"


def test_an_expected_refutation_passes(run):
    found = row(run[0], "test_searched")
    assert (found["verdict"], found["as_expected"]) == ("refuted", True)
    (evidence,) = found["evidence"]
    assert evidence["counterexample"]["operations"] == ["Prefix(words='We like Emma.')"]
