"""The claims of a report are the same for any number of workers and any order."""

import json
from pathlib import Path

import pytest

from tests.claims.reports import effects, exact, require_close, run_claims

ROOT = Path(__file__).parents[2]

CLAIMS = """
import mechtest as mt

pytestmark = mt.family(
    "city", model="fixtures/zoo/prose", prompts="fixtures/prompts/fact_city.jsonl", per_template=1
)
LAYER_0, LAYER_1 = mt.Circuit("blocks.0.state@last"), mt.Circuit("blocks.1.state@last")

@mt.claim("needed")
def test_needed(mamba, prompts, claim):
    claim.attach_map(mt.map_effects(mamba, prompts.discovery))
    mt.assert_necessary(mamba, LAYER_1, prompts)

@mt.claim("enough")
def test_enough(mamba, prompts):
    mt.assert_sufficient(mamba, LAYER_1, prompts, threshold=0.5)

@mt.claim("not needed, in every seed")
def test_absent(mamba_seeds, prompts):
    mt.assert_stable_across_seeds(mamba_seeds, LAYER_0, prompts, using=mt.assert_not_necessary)

@mt.claim("false: needed", expect="refuted")
def test_twin(mamba, prompts):
    mt.assert_necessary(mamba, LAYER_0, prompts)

@mt.claim("a claim that cannot be tested")
def test_invalid(mamba, prompts):
    mt.assert_necessary(mamba, mt.Circuit("blocks.0.state@1"), prompts)
"""

SUBSPACES = """
import mechtest as mt

pytestmark = mt.family(
    "gender", model="fixtures/zoo/prose", prompts="fixtures/prompts/gender.jsonl", per_template=2
)

@mt.claim("found directions are special")
def test_special(mamba, prompts):
    found = mt.find_difference_subspace(mamba, "blocks.1.hook_h@last", prompts.discovery, rank=2)
    mt.assert_beats_random_subspaces(mamba, found, prompts)

@mt.claim("too strong a claim")
def test_too_strong(mamba, prompts):
    found = mt.find_channels(mamba, "blocks.1.state@last", prompts.discovery, count=8)
    mt.assert_necessary(mamba, found, prompts, threshold=0.97)
"""

REVERSE = """
import pytest

@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    items.reverse()
"""

WAYS = {
    "one process": ["-n", "0"],
    "four workers, reversed": ["-n", "4", "-p", "reverse"],
}
ENGINES = {
    "hooks": ["-n", "0", "--mechtest-engine=hooked"],
}
"""Ways that compute otherwise: what is printed of an effect may differ in its last place."""


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Run the same claims in every way."""
    place = tmp_path_factory.mktemp("same")
    (place / "fixtures").symlink_to(ROOT / "fixtures")
    (place / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    (place / "reverse.py").write_text(REVERSE)
    (place / "claims").mkdir()
    (place / "claims" / "test_city.py").write_text(CLAIMS)
    (place / "claims" / "test_gender.py").write_text(SUBSPACES)
    found = {}
    for way, options in {**WAYS, **ENGINES}.items():
        status, report = run_claims(place, f"report-{len(found)}", "--mechtest-alpha=0.4", *options)
        assert status == 1
        found[way] = report
    return found


def close(one, other, place="claims"):
    """Assert that two JSON values are equal, floats to 1e-5 relative."""
    assert type(one) is type(other), place
    if isinstance(one, dict):
        assert list(one) == list(other), place
        for key in one:
            close(one[key], other[key], f"{place}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), place
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            close(a, b, f"{place}[{index}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-5, abs=1e-5), place
    else:
        assert one == other, place


@pytest.mark.parametrize("way", [way for way in WAYS if way != "one process"])
def test_claims_are_the_same_however_they_are_run(reports, way):
    close(reports["one process"]["claims"], reports[way]["claims"])
    for part in ("summary", "family_error", "families", "complete", "exploratory"):
        assert reports["one process"][part] == reports[way][part], part


@pytest.mark.parametrize("way", [*WAYS, *ENGINES])
def test_p_values_verdicts_and_controls_are_equal_to_the_last_digit(reports, way):
    assert exact(reports[way]) == exact(reports["one process"])


@pytest.mark.parametrize("way", ENGINES)
def test_effects_are_equal_to_rounding_on_any_engine(reports, way):
    require_close(effects(reports[way]), effects(reports["one process"]), 1e-4)
    ran = {claim["engine"] for claim in reports[way]["run"]["claims"].values()}
    assert ran == {"hooked" if way == "hooks" else "packed"}


def test_the_claims_came_out_in_different_ways(reports):
    """Otherwise their being equal would show little."""
    verdicts = {row["key"].rpartition("::")[2]: row["verdict"] for row in
                reports["one process"]["claims"]}  # fmt: skip
    assert verdicts["test_needed"] == "supported"
    assert verdicts["test_twin"] == "refuted"
    assert verdicts["test_invalid"] == "invalid"
    assert verdicts["test_too_strong"] in ("refuted", "inconclusive")
    assert reports["one process"]["claims"][0]["maps"] or any(
        row["maps"] for row in reports["one process"]["claims"]
    )


def test_a_report_names_models_as_they_are_called_in_any_checkout(reports):
    text = json.dumps(reports["one process"]["claims"])
    assert "fixtures/zoo/prose/seed0/step-02500" in text
    assert str(ROOT) not in text
    assert "/tmp" not in text
