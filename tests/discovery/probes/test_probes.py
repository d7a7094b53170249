"""Probes say what scikit-learn says, and what is decodable is not taken for used."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fixtures.compiled import FAMILIES
from mechtest.discovery.probes import ProbeRecord, fitting, probe
from mechtest.discovery.probes.labels import control_labels, labels_of
from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import ClaimInvalid, DiscoveryFileError, FitError, ShapeError
from mechtest.interventions import Circuit, ResampleAblation, Runner, collect_activations
from mechtest.tasks import logit_difference
from tests.assertions.zoo import prompts, prose

USED, UNUSED = "blocks.1.hook_h@last", "blocks.0.hook_h@last"


def plural(row):
    return row.answer[0] in (" are", " were")


@pytest.fixture(scope="module")
def gender():
    return probe(prose(), "blocks.*.hook_h", prompts("gender", count=4), folds=3, progress=False)


@pytest.fixture(scope="module")
def runner():
    return Runner(prose(), prompts("gender", count=4).discovery.encode(prose().tokenizer))


def samples(runner, site):
    (rows,) = collect_activations(runner, Circuit(site)).values()
    return rows.flatten(1).double().numpy()


def answers(runner):
    return np.array(
        [
            prose().tokenizer.decode([token]).strip()
            for token in runner.pairs.answers.answer_ids[:, 0]
        ]
    )


def test_what_is_decodable_in_layer_0_is_not_used(gender):
    """The gender of the name can be read off both layers' states, and one of them is read."""
    assert [place.site for place in gender.of("decodable, not used")] == [UNUSED]
    assert [place.site for place in gender.of("decodable, used")] == [USED]
    inert, used = gender.of("decodable, not used")[0], gender.of("decodable, used")[0]
    assert inert.accuracy > 0.75
    assert abs(inert.effect) < 0.02
    assert used.effect > 0.7
    assert inert.accuracy_interval.low > gender.baseline
    assert "decodable, not used" in gender.lines()[1]


def test_number_is_decodable_and_unused_in_layer_0():
    found = probe(
        prose(2), "blocks.*.hook_h", prompts("agree", count=8), label=plural, folds=3,
        control_task=False, progress=False,
    )  # fmt: skip
    assert found.label == "plural"
    assert [place.site for place in found.of("decodable, not used")] == [UNUSED]
    assert [place.site for place in found.of("decodable, used")] == [USED]
    assert found.control is None
    with pytest.raises(ShapeError, match="no selectivity"):
        found.scores(by="selectivity")


def test_predictions_are_those_of_scikit_learn(gender, runner):
    """Fitted in principal axes here, in all 2048 coordinates there."""
    direct = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    x, y = samples(runner, UNUSED), answers(runner)
    predicted = cross_val_predict(direct, x, y, groups=runner.pairs.cluster, cv=GroupKFold(3))
    assert gender.accuracy.values[0, 0].tolist() == (predicted == y).tolist()
    weights = direct.fit(x, y)[-1].coef_[0]
    frame = gender.directions[UNUSED].frame[:, 0]
    # Both stop at a gradient of 1e-4, which they reach on different ways.
    assert abs(frame @ weights) / np.linalg.norm(weights) == pytest.approx(1, abs=1e-3)


def test_numbers_are_read_with_r2(runner):
    pairs = runner.pairs
    numbers = np.random.default_rng(0).normal(size=len(pairs)) + (answers(runner) == "she")
    found = probe(
        prose(), "blocks.1.hook_resid_post", pairs, label=numbers.tolist(), kind="ridge",
        penalty=10.0, folds=3, control_task=False, progress=False,
    )  # fmt: skip
    x = samples(runner, "blocks.1.hook_resid_post@last")
    direct = make_pipeline(StandardScaler(), Ridge(alpha=10.0))
    predicted = cross_val_predict(direct, x, numbers, groups=pairs.cluster, cv=GroupKFold(3))
    assert found.measure == "R2"
    # Templates have the same number of prompts here, so that weighing them equally changes nothing.
    assert found.places()[0].accuracy == pytest.approx(r2_score(numbers, predicted), abs=1e-9)
    sparse = probe(
        prose(), "blocks.1.hook_resid_post", pairs, label=numbers.tolist(), kind="lasso",
        penalty=0.2, folds=3, control_task=False, progress=False,
    )  # fmt: skip
    (directions,) = sparse.directions.values()
    assert 0 < (np.abs(directions.frame) > 0).sum() < 32


def test_effects_are_those_of_the_circuit(gender, runner):
    circuit = gender.circuit()
    assert str(circuit.sites[0]) == USED
    assert circuit.fitted_on == gender.about.fitted_on
    run = runner.run(circuit, ResampleAblation())
    clean, corrupted = (
        logit_difference(runner.logits(run), runner.pairs) for run in ("clean", "corrupted")
    )
    lost = (clean - logit_difference(run.logits, runner.pairs)).mean()
    share = float(lost / (clean - corrupted).mean())
    assert gender.scores()[USED] == pytest.approx(share, abs=1e-5)
    assert gender.scores("accuracy")[UNUSED] == gender.places()[0].accuracy
    assert gender.scores("selectivity")[UNUSED] < gender.scores("accuracy")[UNUSED]


@pytest.mark.parametrize(
    ("family", "behaviour", "role", "site", "position"),
    [
        ("token_shift", "shift", "value", "blocks.0.hook_h", "last"),
        ("redundancy", "either", "first", "blocks.2.hook_h", "last"),
        ("marked_slots", "first", "second", "blocks.0.hook_resid_pre", "second"),
    ],
)
def test_inert_places_of_compiled_models_are_decodable_and_not_used(
    family, behaviour, role, site, position
):
    compiled = FAMILIES[family].build(seed=0, share=0.7, templates=16)
    rows = [row for row in compiled.rows("inert") if row.holds == role]
    assert any(site in str(s) or "state" in s.hook for row in rows for s in row.circuit.sites)
    found = probe(
        compiled.model, site, compiled.prompts.filter(behaviour=behaviour), label=role,
        positions=position, folds=4, control_task=False, progress=False,
    )  # fmt: skip
    (place,) = found.places()
    assert place.verdict == "decodable, not used"
    assert place.accuracy > 0.8
    assert abs(place.effect) < 2e-3


def test_records_come_back_with_their_directions(gender, tmp_path):
    path = gender.save(tmp_path / "probes.json")
    back = ProbeRecord.load(path)
    assert back == gender
    for site, one in gender.directions.items():
        assert back.directions[site].frame.tobytes() == one.frame.tobytes()
    assert torch.equal(back.circuit().subspace.basis, gender.circuit().subspace.basis)
    alone = DiscoveryRecord.from_json(gender.to_json())
    with pytest.raises(DiscoveryFileError, match="JSON alone"):
        alone.circuit()
    other = gender.with_directions(dict(gender.directions))
    path.with_suffix(".safetensors").unlink()
    with pytest.raises(DiscoveryFileError, match="cannot be read"):
        ProbeRecord.load(path)
    assert other == gender


def test_directions_of_another_record_are_refused(gender, tmp_path):
    path = gender.save(tmp_path / "probes.json")
    text = path.read_text()
    digest = gender.digests[USED]
    path.write_text(text.replace(digest, digest[::-1]))
    with pytest.raises(DiscoveryFileError, match="other directions"):
        ProbeRecord.load(path)


def test_the_picture_shows_every_place(gender, tmp_path):
    figure = gender.plot(tmp_path / "probes.png")
    assert (tmp_path / "probes.png").stat().st_size > 1000
    named = {text.get_text() for text in figure.axes[0].texts}
    assert named == {"layer 0", "layer 1"}


def test_control_labels_belong_to_words(runner):
    labels = labels_of(prose(), runner.pairs, runner.pairs, "answer", numeric=False)
    control = control_labels(labels, 0, 0)
    by_word = {}
    for word, value in zip(labels.words, control.values, strict=True):
        assert by_word.setdefault(word, value) == value
    assert set(control.values) == {"he", "she"}
    assert control.values.tolist() == control_labels(labels, 0, 0).values.tolist()
    assert control.values.tolist() != control_labels(labels, 0, 1).values.tolist()


def test_bad_input_is_refused(runner, monkeypatch):
    whole = prompts("gender", count=4)

    def ask(sites="blocks.0.hook_h", which=whole, **options):
        return probe(prose(), sites, which, progress=False, **options)

    with pytest.raises(FitError, match="same label"):
        ask(label=lambda row: "x")
    with pytest.raises(FitError, match="one only"):
        ask(which=runner.pairs[runner.pairs.cluster == 0])
    with pytest.raises(FitError, match="reads numbers"):
        ask(kind="ridge")
    with pytest.raises(FitError, match="no such kind"):
        ask(kind="logistics")
    with pytest.raises(ShapeError, match="one hook"):
        ask("blocks.0.state")
    with pytest.raises(ShapeError, match="one position"):
        ask(positions="person:")
    with pytest.raises(ShapeError, match="has a role 'persn'"):
        ask(label="persn")
    with pytest.raises(ShapeError, match="one label a prompt"):
        ask(label=["a", "b"])
    with pytest.raises(ShapeError, match="rows"):
        ask(which=runner.pairs, label=plural)
    with pytest.raises(ClaimInvalid):
        ask(which=whole.test)
    monkeypatch.setattr(fitting, "ITERATIONS", 1)
    with pytest.raises(FitError, match="converge"):
        ask("blocks.1.hook_resid_post")
