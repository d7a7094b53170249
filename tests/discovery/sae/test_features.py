"""Files keep an autoencoder whole, and its features do what is said of them."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from mechtest.discovery.record import DiscoveryRecord
from mechtest.discovery.sae import SAE, sae_features, sae_quality, train_sae
from mechtest.discovery.sae.autoencoder import Origin
from mechtest.errors import ClaimInvalid, DiscoveryFileError, NonFiniteError, ShapeError
from mechtest.interventions import ResampleAblation, Runner
from mechtest.tasks import logit_difference
from tests.assertions.zoo import prompts, prose

SITE = "blocks.1.hook_resid_pre"

# What SAELens 6.54.12 writes for its own, as benchmarks/results/sae_files.json has it.
FIELDS = {
    "apply_b_dec_to_input", "architecture", "d_in", "d_sae", "device", "dtype", "metadata",
    "normalize_activations", "reshape_activations",
}  # fmt: skip
TOPK_FIELDS = {"k", "rescale_acts_by_decoder_norm"}
WEIGHTS = {"W_enc", "b_enc", "W_dec", "b_dec"}


@pytest.fixture(scope="module")
def pairs():
    return prompts("gender", count=3).discovery.encode(prose().tokenizer)


@pytest.fixture(scope="module")
def sae(pairs):
    return train_sae(prose(), SITE, pairs, d_sae=96, k=4, steps=150, lr=5e-3, progress=False)


@pytest.fixture(scope="module")
def features(sae, pairs):
    return sae_features(prose(), sae, pairs, top=5, examples=2, progress=False)


def identity(d_in):
    """Return an autoencoder that changes nothing: a feature for each direction of each sign."""
    eye = torch.eye(d_in)
    both = torch.cat([eye, -eye])
    weights = {
        "W_enc": both.T.contiguous(), "b_enc": torch.zeros(2 * d_in), "W_dec": both,
        "b_dec": torch.zeros(d_in),
    }  # fmt: skip
    return SAE("relu", weights, Origin(SITE))


@pytest.mark.parametrize("kind", ["relu", "topk", "jumprelu"])
def test_files_have_saelens_fields_and_come_back(kind, tmp_path, pairs):
    made = train_sae(prose(), SITE, pairs, d_sae=24, kind=kind, k=3, steps=4, progress=False)
    config = json.loads((made.save(tmp_path) / "cfg.json").read_text())
    assert set(config) == FIELDS | (TOPK_FIELDS if kind == "topk" else set())
    weights = load_file(tmp_path / "sae_weights.safetensors")
    assert set(weights) == WEIGHTS | ({"threshold"} if kind == "jumprelu" else set())
    assert weights["W_enc"].shape == (64, 24)
    back = SAE.load(tmp_path)
    x = torch.randn(5, 64)
    assert torch.equal(back.encode(x), made.encode(x))
    assert torch.equal(back(x), made(x))
    assert back.origin == made.origin
    assert back.k == made.k


def test_other_files_are_refused(sae, tmp_path):
    sae.save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    for change in ({"architecture": "gated"}, {"normalize_activations": "layer_norm"}, {"k": None}):
        (tmp_path / "cfg.json").write_text(json.dumps(config | change))
        with pytest.raises(DiscoveryFileError, match="can be read"):
            SAE.load(tmp_path)
    with pytest.raises(DiscoveryFileError, match="no sparse autoencoder"):
        SAE.load(tmp_path / "nowhere")


def test_norms_of_directions_that_count_are_taken_into_the_encoder(sae, tmp_path):
    sae.save(tmp_path)
    config = json.loads((tmp_path / "cfg.json").read_text())
    (tmp_path / "cfg.json").write_text(json.dumps(config | {"rescale_acts_by_decoder_norm": True}))
    weights = load_file(tmp_path / "sae_weights.safetensors")
    sizes = torch.linspace(0.5, 2, 96)
    weights["W_dec"] = weights["W_dec"] * sizes[:, None]
    weights["W_enc"], weights["b_enc"] = weights["W_enc"] / sizes, weights["b_enc"] / sizes
    save_file(weights, tmp_path / "sae_weights.safetensors")
    x = torch.randn(9, 64)
    assert torch.allclose(SAE.load(tmp_path)(x), sae(x), atol=1e-4)


def test_what_changes_nothing_keeps_everything(pairs):
    found = sae_quality(prose(), identity(64), pairs)
    assert found.behaviour_kept == pytest.approx(1, abs=1e-4)
    assert found.loss_recovered == pytest.approx(1, abs=1e-4)
    assert found.explained_variance == pytest.approx(1, abs=1e-6)
    assert found.l0 == pytest.approx(64)
    assert abs(found.behaviour_without) < 0.2


def test_quality_of_a_trained_one(sae, pairs, tmp_path):
    found = sae_quality(prose(), sae, pairs)
    assert found.l0 <= 4
    assert found.explained_variance > 0.75
    assert found.behaviour_kept > 0.5
    assert 0.8 < found.loss_recovered <= 1.05
    assert found.loss < found.loss_reconstructed < found.loss_without
    assert found.frequencies.sum() == pytest.approx(found.l0)
    assert found.dead == pytest.approx((found.frequencies == 0).mean())
    assert DiscoveryRecord.load(found.save(tmp_path / "quality.json")) == found
    found.plot(tmp_path / "quality.png")


def test_attributions_of_a_complete_dictionary_add_up(pairs):
    """Along all directions together, the first order is that of patching the whole site."""
    found = sae_features(prose(), identity(64), pairs, progress=False)
    model, runner = prose(), Runner(prose(), pairs)
    model_gap = float(
        (logit_difference(runner.logits("clean"), pairs)
         - logit_difference(runner.logits("corrupted"), pairs)).mean()
    )  # fmt: skip
    values = {}

    def keep(value, hook):
        values["x"] = value
        value.retain_grad()

    logits = model.run_with_hooks(
        pairs.clean_tokens, attention_mask=pairs.attention_mask, fwd_hooks=[(SITE, keep)]
    )
    gradient = torch.autograd.grad(logit_difference(logits[:, -1], pairs).sum(), values["x"])[0]
    with torch.no_grad():
        _, cache = model.run_with_cache(
            pairs.corrupted_tokens, attention_mask=pairs.attention_mask, names_filter=[SITE]
        )
        change = (values["x"] - cache[SITE]) * pairs.attention_mask[..., None]
        total = float((gradient * change).sum() / len(pairs) / model_gap)
    assert found.attribution.sum() == pytest.approx(total, abs=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_features_are_described_and_become_a_circuit(features, sae, pairs, tmp_path):
    first = features.top(1)[0]
    assert features.attribution[first] == pytest.approx(max(abs(features.attribution)))
    assert features.scores()[f"{SITE}#f{first}"] == pytest.approx(abs(features.attribution[first]))
    assert {one.feature for one in features.examples} <= set(features.top(5))
    strongest = next(one for one in features.examples if one.feature == first)
    assert len(strongest.tokens) == len(strongest.activations)
    assert "[" in str(strongest)
    assert set(features.labels) == {"he", "she"}
    circuit = features.circuit(sae, 8, "person")
    run = Runner(prose(), pairs).run(circuit, ResampleAblation())
    clean = logit_difference(run.base, pairs)
    assert float((clean - logit_difference(run.logits, pairs)).mean()) > 0.1
    assert circuit.fitted_on & pairs.fingerprints
    assert DiscoveryRecord.load(features.save(tmp_path / "features.json")) == features
    features.plot(tmp_path / "features.png")
    sae.plot(tmp_path / "training.svg")
    assert (tmp_path / "training.svg").read_text().startswith("<?xml")
    with pytest.raises(ShapeError, match="another autoencoder"):
        features.circuit(identity(64))


def test_bad_input_is_refused(sae, pairs):
    with pytest.raises(ShapeError, match="do not fit"):
        sae.encode(torch.zeros(3, 63))
    with pytest.raises(ShapeError, match="no features"):
        sae.circuit([96])
    with pytest.raises(ShapeError, match="label for each"):
        sae_features(prose(), sae, pairs, labels=["a"])
    with pytest.raises(ClaimInvalid):
        sae_quality(prose(), sae, prompts("gender", count=3).test)
    weights = {name: value.detach() for name, value in sae.named_parameters()}
    with pytest.raises(ShapeError, match="other weights"):
        SAE("jumprelu", weights, Origin(SITE))
    with pytest.raises(ShapeError, match="needs k"):
        SAE("topk", weights, Origin(SITE))
    with pytest.raises(NonFiniteError):
        SAE("topk", weights | {"b_dec": weights["b_dec"] * torch.nan}, Origin(SITE), k=4)
