"""What a study proposes about a model whose circuit is known comes out true, and its twin false."""

import ast
import json
import shutil

import pytest

from mechtest.cli import main
from mechtest.errors import StudyError
from mechtest.interventions import Circuit
from mechtest.study import Study, emit_claims
from mechtest.study.emitting import claim_text
from tests.study.studies import compiled

pytest_plugins = ["pytester"]

QUICK = ["-p", "no:hypothesispytest", "-p", "no:anyio", "-p", "no:jaxtyping"]
STEPS = "setup,activations,selection,patching,controls,deliverables"


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A directory with a compiled model, its study, and the claims the study proposed."""
    place = tmp_path_factory.mktemp("project")
    built, file = compiled(place)
    (place / "pytest.ini").write_text("[pytest]\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        arguments = ["discover", str(file), "--steps", STEPS, "--emit", "claims/test_slots.py"]
        assert main(arguments) == 0
    return place, built


def test_the_circuit_is_where_it_was_planted(project):
    place, built = project
    circuit = Circuit.load(place / "claims/slots.circuit.json")
    assert {site.layer for site in circuit.sites} == {0}, "the store that answers"
    whole = built.prompts.filter(behaviour="first")
    assert circuit.fitted_on & whole.discovery.fingerprints
    assert not circuit.fitted_on & whole.test.fingerprints
    decoy = Circuit.load(place / "claims/slots.decoy.json")
    assert {site.layer for site in decoy.sites} == {1}, "it stores as much, and answers nothing"


def test_the_emitted_claims_hold_and_the_false_twin_does_not(project, pytester):
    place, _ = project
    for name in ("claims", "model"):
        shutil.copytree(place / name, pytester.path / name)
    for name in ("first.jsonl", "pytest.ini"):
        shutil.copy(place / name, pytester.path / name)
    result = pytester.runpytest_inprocess(*QUICK, "claims/test_slots.py")
    report = json.loads((pytester.path / "claims-report/report.json").read_text())
    verdicts = {row["id"].rpartition("::")[2].partition("[")[0]: row["verdict"]
                for row in report["claims"]}  # fmt: skip
    assert verdicts["test_necessary"] == "supported", result.stdout.str()
    assert verdicts["test_false_twin"] == "refuted"
    assert result.ret == 0
    assert "optimism" in json.dumps(report), "how much the search flattered it"


def test_no_line_of_a_claim_file_is_too_long(project, tmp_path, monkeypatch):
    place, _ = project
    monkeypatch.chdir(place)
    assert longest((place / "claims/test_slots.py").read_text()) <= 100
    study = Study.from_toml(place / "study.toml")
    found = study.found("deliverables")
    name = " + ".join(f"blocks.{layer}.state@a_long_role_{layer}" for layer in range(12))
    found.facts["names"] = dict.fromkeys(found.facts["names"], name)
    for claim in found.facts["claims"]:
        claim["why"] = "because " + "of this and that and " * 9
    assert len(study.prompts), "read before their file gets a name of any length"
    kept = dict(study.settings.study)
    study.settings.study.update(model="deep/" * 60, prompts="x" * 300, metric="answer_" * 15)
    try:
        text = claim_text(study, found, dict.fromkeys(found.circuits, "long_" * 40), "all-" * 40)
    finally:
        study.settings.study.update(kept)
    assert longest(text) <= 100
    values = {one.value for one in ast.walk(ast.parse(text)) if isinstance(one, ast.Constant)}
    for said in ("deep/" * 60, "x" * 300, "answer_" * 15, "long_" * 40, "all-" * 40):
        assert said in values, "however it is broken into lines, it is one text"
    assert f"False: {name} carries the behaviour" in values


def longest(text):
    return max(map(len, text.splitlines()))


def test_a_claim_on_prompts_that_were_looked_at_is_invalid(project):
    from mechtest.assertions import check_necessary

    place, built = project
    circuit = Circuit.load(place / "claims/slots.circuit.json")
    whole = built.prompts.filter(behaviour="first")
    record = check_necessary(built.model, circuit, whole.split(salt="another")[1], level=0.2)
    assert str(record.verdict) == "invalid"
    assert "circular" in record.reason


def test_what_cannot_be_emitted_is_refused(project, tmp_path, monkeypatch):
    place, _ = project
    monkeypatch.chdir(place)
    study = Study.from_toml(place / "study.toml")
    with pytest.raises(StudyError, match=r"test_something\.py"):
        emit_claims(study, tmp_path / "slots.py")
    empty = Study.from_toml(place / "study.toml", output=tmp_path / "nothing")
    with pytest.raises(StudyError, match="no finished step"):
        emit_claims(empty, tmp_path / "test_slots.py")
