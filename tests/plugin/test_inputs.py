"""What a claim is made from is found from names, and any change of it is seen."""

import os

import pytest

from mechtest.plugin import inputs
from mechtest.plugin.inputs import _models, digests_of, package_digest
from mechtest.plugin.marks import FamilyMark
from mechtest.plugin.models import ModelChoice, choose_models
from mechtest.plugin.options import Options


@pytest.fixture
def suite(tmp_path):
    for seed in (0, 1):
        for step in ("step-00250", "step-02500"):
            folder = tmp_path / "zoo" / f"seed{seed}" / step
            folder.mkdir(parents=True)
            (folder / "config.json").write_text("{}")
            (folder / "model.safetensors").write_bytes(b"weights")
    return tmp_path


def models_of(root, model, **keywords):
    choices = choose_models(FamilyMark("f", model=model), Options(), root, **keywords)
    return [os.path.relpath(name, root) for choice in choices for name in _models(choice)]


def test_a_claim_over_seeds_is_made_from_all_of_them_at_its_step(suite):
    assert models_of(suite, "zoo", all_seeds=False) == ["zoo/seed0/step-02500"]
    assert models_of(suite, "zoo", all_seeds=True) == [
        "zoo/seed0/step-02500",
        "zoo/seed1/step-02500",
    ]
    assert models_of(suite, "zoo/seed1/step-00250", all_seeds=False) == ["zoo/seed1/step-00250"]


def test_a_repository_is_known_by_its_revision_and_a_missing_model_by_nothing(suite):
    (choice,) = choose_models(
        FamilyMark("f", model="owner/name@step10"), Options(), suite, all_seeds=False
    )
    assert _models(choice) == ["owner/name@step10"]
    assert _models(ModelChoice("x", error=ValueError("no"))) == []


@pytest.mark.parametrize("limit", [64 << 20, 3], ids=["read", "told apart by the file system"])
def test_any_change_is_seen(suite, monkeypatch, limit):
    monkeypatch.setattr(inputs, "_READ_UP_TO", limit)
    place = "zoo/seed0/step-00250"
    names = [place, "zoo/seed1/step-00250", "nowhere"]
    before = digests_of(names, suite)
    assert before == digests_of(names, suite)
    assert before["nowhere"] == "absent"
    (suite / place / "model.safetensors").write_bytes(b"Weights")
    after = digests_of(names, suite)
    assert [name for name in names if before[name] != after[name]] == [place]
    (suite / place / "tokenizer.json").write_text("{}")
    assert digests_of(names, suite)[place] != after[place]


def test_the_code_of_the_package_has_a_digest():
    assert package_digest() == package_digest()
    assert len(package_digest()) == 64
