"""All fifteen steps, once, with as little as each can do with."""

import pytest

from mechtest.study import STEPS, Study
from mechtest.tasks import PromptPairs
from tests.study.studies import ROOT, written

# Few prompts of many cities: scikit-learn wonders whether cities are numbers.

LITTLE = """
[steps.activations]
sites = ["blocks.*.hook_h"]
tuned_steps = 2
[steps.sae]
steps = 5
d_sae = 16
seeds = 2
[steps.probes]
folds = 2
control_task = false
[steps.selection]
count = 2
groups = 2
rank = 2
sample = 3
edges = "eap"
samples = 1
[steps.patching]
rankings = 2
prune = 2
[steps.temporal]
max_lag = 3
[steps.dynamics]
channels = 2
[steps.seeds]
seeds = 2
match = 2
[steps.controls]
circuits = 2
draws = 4
[transfer]
prompts = ["{material}", "nowhere.jsonl"]
[scale]
checkpoints = ["step-01250"]
models = ["no/such/model"]
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("all")
    for name in ("fact_city", "fact_material"):
        whole = PromptPairs.from_jsonl(ROOT / f"fixtures/prompts/{name}.jsonl")
        kept = [t for half in whole.split() for t in half.templates[:6]]
        whole.filter(template=kept).to_jsonl(folder / f"{name}.jsonl")
    told = {
        "name": "everything",
        "model": str(ROOT / "fixtures/zoo/prose"),
        "prompts": str(folder / "fact_city.jsonl"),
        "per_template": 2,
        "output": str(folder / "out"),
        "pictures": False,
    }
    rest = LITTLE.format(material=folder / "fact_material.jsonl")
    study = Study.from_toml(written(folder, told, rest))
    study.outcomes = {one.step.name: one for one in study.run(progress=False)}
    return study


@pytest.mark.parametrize("name", [step.name for step in STEPS])
def test_every_step_is_done_and_says_what_it_came_to(study, name):
    outcome = study.outcomes[name]
    assert outcome.status == "done", outcome.why
    found = study.found(name)
    assert found.lines or name == "pictures"


def test_every_tool_left_a_record(study):
    expected = {
        "activations": {"statistics", "logit-lens", "tuned-lens", "direct-logits"},
        "sae": {"quality", "features", "seeds"},
        "probes": {"probes"},
        "selection": {"map", "candidates", "attribution", "edges", "tracing"},
        "patching": {"effects", "restored", "faithfulness", "pruned"},
        "perturbation": {"edited"},
        "temporal": {"by-token", "hidden-attention", "influence", "decay", "knockout"},
        "dynamics": {"timescales", "rank", "gramians", "modes"},
        "seeds": {"seeds", "matches"},
        "transfer": {"transfer"},
        "controls": {"controls"},
        "scale": {"scale"},
        "deliverables": {"claims"},
    }
    for name, records in expected.items():
        found = study.found(name)
        assert records <= set(found.records), (name, found.warnings)


def test_what_cannot_be_looked_at_is_told_and_the_rest_goes_on(study):
    assert any("nowhere.jsonl" in one for one in study.found("transfer").warnings)
    scale = study.found("scale")
    assert any("no/such/model" in one for one in scale.warnings)
    assert len(scale.records["scale"].rows) == 2


def test_what_was_trained_is_kept(study):
    assert (study.output / "03-sae" / "sae" / "sae_weights.safetensors").is_file()
    assert (study.output / "02-activations" / "lens" / "lens.json").is_file()


def test_nothing_found_was_looked_for_on_the_test_half(study):
    test = study.prompts.test.fingerprints
    for step in ("sae", "probes", "selection", "patching", "deliverables"):
        for name, circuit in study.found(step).circuits.items():
            assert circuit.fitted_on, (step, name)
            assert not circuit.fitted_on & test, (step, name)


def test_everything_is_done_once(study):
    again = study.run(progress=False)
    assert [one.step.name for one in again if one.fresh] == []
