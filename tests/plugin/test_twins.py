"""A claim that untrained twins support as well has a broken harness."""

from pathlib import Path

import pytest
import torch

# Imported here, because a run inside this process forgets what it imported, and torch cannot be
# imported twice.
import mechtest.assertions
import mechtest.models
import mechtest.stats
import mechtest.tasks  # noqa: F401
from mechtest.models import HookedMamba
from mechtest.plugin.twins import untrained_twin

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
FAMILY = (
    f"pytestmark = mt.family('f', model={str(ROOT / 'fixtures/zoo/prose')!r}, "
    f"prompts={str(ROOT / 'fixtures/prompts/fact_city.jsonl')!r}, per_template=1)\n"
)


def bodies(result):
    """Return a line for every time that a test's body ran."""
    return [line for line in result.outlines if "body of" in line]


def test_a_claim_that_anything_supports_is_invalid(project):
    """Its body never looks at the model."""
    project.write(test_a=FAMILY + "@mt.claim('a')\ndef test_a(mamba):\n    fake()\n")
    result = project.run("--mechtest-twins=3")
    (row,) = project.report["claims"]
    assert (row["verdict"], row["binding"], row["p"]) == ("invalid", "untrained twins", 1.0)
    assert "its harness is broken: 3 of 3 untrained twins supported too" in row["reason"]
    assert len(row["evidence"]) == 1
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*its harness is broken*"])


def test_a_claim_that_needs_training_keeps_its_verdict_and_says_so(project):
    code = """
@mt.claim("a")
def test_a(mamba, prompts, claim, rng):
    print("body of", claim.key, mamba.source, rng.integers(10**9))
    if "twin" in mamba.source:
        assert "|twin " in claim.key
        fake("refuted")
    fake()
"""
    project.write(test_a=FAMILY + code)
    result = project.run("--mechtest-twins=4", "-s")
    (row,) = project.report["claims"]
    assert (row["verdict"], row["as_expected"]) == ("supported", True)
    assert row["notes"][-1].startswith("0 of 4 untrained twins supported too (P 1 ")
    assert len(row["evidence"]) == 1
    lines = bodies(result)
    assert len(lines) == 5
    assert len({line.rpartition(" ")[2] for line in lines}) == 5
    assert sum("fresh weights" in line for line in lines) == 2
    assert sum("shuffled weights" in line for line in lines) == 2


def test_a_real_claim_is_supported_by_no_twin(project):
    code = """
@mt.claim("a")
def test_a(mamba, prompts):
    mt.assert_necessary(mamba, mt.Circuit("blocks.1.state@last"), prompts, threshold=0.5)
"""
    project.write(test_a=FAMILY + code)
    project.run("--mechtest-twins=2")
    (row,) = project.report["claims"]
    assert row["verdict"] == "supported", row["reason"]
    assert row["notes"][-1].startswith("0 of 2 untrained twins")
    assert len(row["evidence"]) == 1


def test_twins_are_off_by_default_and_only_for_supported_claims(project):
    code = """
@mt.claim("a")
def test_a(mamba):
    print("body of", mamba.source)
    fake()

@mt.claim("b", expect="refuted")
def test_b(mamba):
    print("body of", mamba.source)
    fake("refuted")
"""
    project.write(test_a=FAMILY + code)
    assert len(bodies(project.run("-s"))) == 2
    assert project.verdicts["test_b[seed0-step-02500]"] == "refuted"
    assert len(bodies(project.run("-s", "--mechtest-twins=2", "-k", "test_b"))) == 1


def test_a_circuit_made_in_a_fixture_of_the_trained_model_is_said_to_have_no_twins(project):
    code = """
@pytest.fixture
def circuit(mamba):
    return "found in the trained model"

@mt.claim("a")
def test_a(mamba, circuit):
    fake()
"""
    project.write(test_a=FAMILY + code)
    project.run("--mechtest-twins=2")
    (row,) = project.report["claims"]
    assert row["verdict"] == "supported"
    assert "the fixture 'circuit' is made from the trained model" in row["notes"][-1]


def test_claims_over_seeds_have_a_suite_of_twins(project):
    code = """
@mt.claim("a")
def test_a(mamba_seeds):
    sources = [model.source for seed, model in mamba_seeds]
    assert len(sources) == len(mamba_seeds) == len(set(sources)) == 5
    fake("refuted" if "twin" in sources[0] else "supported")
"""
    project.write(test_a=FAMILY + code)
    project.run("--mechtest-twins=1")
    (row,) = project.report["claims"]
    assert row["notes"][-1].startswith("0 of 1 untrained twins")


def test_a_number_of_twins_that_is_none_is_a_usage_error(project):
    project.write(test_a=FAMILY + "@mt.claim('a')\ndef test_a(mamba):\n    fake()\n")
    assert project.run("--mechtest-twins=-1").ret == pytest.ExitCode.USAGE_ERROR


def test_a_twin_has_the_trained_shape_and_none_of_its_knowledge():
    model = HookedMamba.from_pretrained(ROOT / "fixtures/zoo/prose/seed0/step-02500")
    before = {name: value.clone() for name, value in model.named_parameters()}
    fresh, shuffled = (untrained_twin(model, number, 0) for number in (0, 1))
    for name, value in model.named_parameters():
        assert torch.equal(before[name], value)
        twin = dict(shuffled.named_parameters())[name]
        assert torch.equal(twin.flatten().sort().values, value.flatten().sort().values), name
    again = untrained_twin(model, 1, 0)
    assert torch.equal(again.embedding.weight, shuffled.embedding.weight)
    assert not torch.equal(shuffled.embedding.weight, model.embedding.weight)
    assert not torch.equal(fresh.embedding.weight, model.embedding.weight)
    tokens = torch.tensor([[5, 6, 7]])
    assert fresh(tokens).isfinite().all()
    assert shuffled(tokens).isfinite().all()
