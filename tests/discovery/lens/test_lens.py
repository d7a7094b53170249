"""A lens reads the residual stream as the model reads its last; a tuned one comes closer."""

import json
import math

import numpy as np
import pytest
import torch

from mechtest.discovery.lens import LensResult, TunedLens, logit_lens, residuals, tuned_lens
from mechtest.discovery.lens.lens_result import BITS
from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import (
    ClaimInvalid,
    DiscoveryError,
    DiscoveryFileError,
    FitError,
    PositionError,
    ShapeError,
    UnknownSiteError,
)
from mechtest.models import HookedMamba
from mechtest.tasks import kl_divergence, logit_difference
from tests.assertions.zoo import prompts, prose, recall


@pytest.fixture(scope="module")
def pairs():
    """Discovery prompts of seven lengths, two of each template."""
    return prompts(count=2).discovery.encode(prose().tokenizer)


@pytest.fixture(scope="module")
def lens(pairs):
    return logit_lens(prose(), pairs, display=2)


def logits_of(model, pairs):
    with torch.no_grad():
        return model(pairs.clean_tokens, attention_mask=pairs.attention_mask)


def test_the_last_row_is_the_model_itself_bit_by_bit(lens, pairs):
    logits = logits_of(prose(), pairs)
    expected = logit_difference(logits, pairs).double().numpy()
    assert lens.rows == ("embedding", "layer 0", "layer 1")
    assert lens.map.values[-1, -1].tobytes() == expected.tobytes()
    assert np.all(lens.kl.values[-1][~np.isnan(lens.kl.values[-1])] == 0)


def test_every_row_is_the_stream_normed_and_unembedded(lens, pairs):
    """By hand, in float64, with weights as the file has them."""
    model = prose()
    names = ["hook_embed", "blocks.0.hook_resid_post"]
    _, cache = model.run_with_cache(
        pairs.clean_tokens, attention_mask=pairs.attention_mask, names_filter=names
    )
    weights = {name: part.detach().double() for name, part in model.named_parameters()}
    for row, name in enumerate(names):
        resid = cache[name][:, -1].double()
        normed = resid / (resid.pow(2).mean(1, keepdim=True) + model.cfg.norm_eps).sqrt()
        logits = normed * weights["norm.weight"] @ weights["embedding.weight"].T
        answer, foil = pairs.answers.answer_ids[:, 0], pairs.answers.foil_ids[:, 0]
        rows = torch.arange(len(pairs))
        found = {key: getattr(lens, key).values[row, -1] for key in ("map", "probability", "rank")}
        expected = logits[rows, answer] - logits[rows, foil]
        np.testing.assert_allclose(found["map"], expected, rtol=1e-4, atol=1e-4)
        shares = logits.softmax(1)[rows, answer]
        np.testing.assert_allclose(found["probability"], shares, rtol=1e-3, atol=1e-9)
        rank = 1 + (logits > logits[rows, answer][:, None]).sum(1)
        assert np.abs(found["rank"] - rank.numpy()).max() <= 1  # near ties, in float32
        model_says = logits_of(model, pairs)[:, -1].double().log_softmax(1)
        kl = (model_says.exp() * (model_says - logits.log_softmax(1))).sum(1)
        np.testing.assert_allclose(lens.kl.values[row, -1], kl, rtol=1e-4, atol=1e-4)


def test_cross_entropy_is_the_models_loss_and_bits_are_nats_over_log_two(pairs):
    """At all but the last token it is what the model is trained on; there, of the answers."""
    whole = next(iter(pairs.by_length()))
    found = logit_lens(prose(), whole)
    tokens = whole.clean_tokens
    with torch.no_grad():
        losses = prose()(tokens, return_type="loss", loss_per_token=True)
    np.testing.assert_allclose(found.cross_entropy.values[-1, :-1].T, losses, rtol=1e-4, atol=1e-5)
    at_last = -logits_of(prose(), whole)[:, -1].log_softmax(1)
    expected = at_last.gather(1, whole.answers.answer_ids)[:, 0]
    np.testing.assert_allclose(found.cross_entropy.values[-1, -1], expected, rtol=1e-4, atol=1e-5)
    assert BITS * math.log(2) == pytest.approx(1)
    np.testing.assert_allclose(found.bits_by_row * math.log(2), found.by_row(found.cross_entropy))


def test_padding_does_not_reach_a_short_prompt(lens, pairs):
    short = next(iter(pairs.by_length()))
    alone = logit_lens(prose(), short, positions=[-1, -3])
    for one, name in enumerate(alone.map.prompt_ids):
        among = lens.map.values[:, [-1, -3], lens.map.prompt_index(name)]
        np.testing.assert_allclose(alone.map.values[:, :, one], among, rtol=1e-4, atol=1e-4)
    assert np.isnan(lens.map.values[:, 0]).all()
    assert "outside a prompt" in lens.map.reasons[0, 0]


def test_small_memory_changes_nothing_but_rounding(lens, pairs, monkeypatch):
    monkeypatch.setattr(residuals, "MEMORY", 2**19)
    monkeypatch.setattr("mechtest.discovery.lens.reading.MEMORY", 2**19)
    passes = []
    monkeypatch.setattr(
        "mechtest.discovery.lens.reading.read_at",
        lambda *given: passes.append(len(given[1])) or residuals.read_at(*given),
    )
    found = logit_lens(prose(), pairs, display=2)
    assert len(passes) > 1
    assert sum(passes) == len(pairs)
    np.testing.assert_allclose(found.map.values, lens.map.values, rtol=1e-4, atol=1e-4)
    assert found.guesses[1].tokens == lens.guesses[1].tokens


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_out_proj"])
def test_other_streams(hook, pairs, lens):
    found = logit_lens(prose(), pairs, hook=hook, positions="last", display=0)
    assert found.rows[-1] == "final"
    assert found.map.values[-1].tobytes() == lens.map.values[-1, -1:].tobytes()
    if hook == "hook_resid_pre":
        np.testing.assert_allclose(found.map.values[1, 0], lens.map.values[1, -1], atol=1e-5)
        assert found.scores() == pytest.approx(lens.scores(), rel=1e-4)
    else:
        with pytest.raises(DiscoveryError, match="no steps"):
            found.scores()


def test_scores_are_steps_of_the_metric(lens):
    mean = lens.map.mean()[:, -1]
    assert lens.scores() == {
        "blocks.0.hook_out_proj@last": abs(mean[1] - mean[0]),
        "blocks.1.hook_out_proj@last": abs(mean[2] - mean[1]),
    }
    assert lens.scores()["blocks.1.hook_out_proj@last"] > 10


def test_likeliest_tokens_are_told_for_prompts_on_display(lens, pairs):
    assert [one.prompt for one in lens.guesses] == list(pairs.ids[:2])
    first = lens.guesses[0]
    best = logits_of(prose(), pairs)[0, -1].softmax(0).topk(5)
    words = tuple(prose().tokens.decode_one(one) for one in best.indices.tolist())
    assert first.tokens[-1][-1] == words
    assert first.probabilities[-1][-1] == pytest.approx(best.values.tolist())
    assert first.tokens[0][0] == ()
    assert first.read[-1] == prose().tokens.decode_one(int(pairs.clean_tokens[0, -1]))


def test_metrics_that_compare_runs_compare_with_the_model(pairs):
    found = logit_lens(prose(), pairs[:6], metric=kl_divergence, positions="last")
    np.testing.assert_allclose(found.map.values, found.kl.values, atol=1e-5)


def test_what_is_saved_comes_back(lens, tmp_path):
    back = DiscoveryRecord.load(lens.save(tmp_path / "lens.json"))
    assert isinstance(back, LensResult)
    assert back == lens
    assert "on top from layer 1 on" in repr(back)
    back.plot(tmp_path / "lens.png")
    assert (tmp_path / "lens.png").stat().st_size > 5000
    with pytest.raises(DiscoveryError, match="not on display"):
        back.plot(prompt="nobody")


def test_what_cannot_be_read_is_refused(pairs):
    with pytest.raises(ClaimInvalid, match="discovery half"):
        logit_lens(prose(), prompts().test)
    with pytest.raises(UnknownSiteError, match="hook_conv"):
        logit_lens(prose(), pairs, hook="hook_conv")
    with pytest.raises(PositionError, match="several tokens"):
        logit_lens(prose(), pairs, positions=["subject_first:subject_last+1"])
    with pytest.raises(PositionError, match="nobody"):
        logit_lens(prose(), pairs, positions="nobody")
    with pytest.raises(ShapeError, match="at least one token"):
        logit_lens(prose(), pairs, top=0)
    with pytest.raises(DiscoveryError, match="last token"):
        logit_lens(prose(), pairs, positions="subject_last").scores()


# --- tuned lens --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def halves():
    """Some templates of the discovery half to fit on, and others to look at."""
    pairs = prompts(count=6).discovery
    names = pairs.templates
    return pairs.filter(template=names[::2]), pairs.filter(template=names[1::2])


@pytest.fixture(scope="module")
def tuned(halves):
    return TunedLens.fit(prose(), halves[0], steps=40, tokens_a_step=128)


def test_a_tuned_lens_is_closer_to_the_model_on_other_templates(tuned, halves):
    """The published claim: useless early in Mamba without translators, useful with them."""
    plain, better = logit_lens(prose(), halves[1]), tuned_lens(prose(), halves[1], tuned)
    assert (better.kl_by_row[:-1] < 0.5 * plain.kl_by_row[:-1]).all()
    assert (better.bits_by_row[:-1] < plain.bits_by_row[:-1]).all()
    assert better.kl_by_row[-1] == 0
    assert (np.diff(better.kl_by_row) < 0).all()
    for row in range(2):  # in every template, so in a paired test of any kind
        names = np.array(better.kl.templates)
        gains = np.nanmean(plain.kl.values[row] - better.kl.values[row], axis=0)
        assert all(gains[names == one].mean() > 0 for one in set(names))


def test_a_tuned_lens_is_kept_and_comes_back(tuned, halves, tmp_path):
    back = TunedLens.load(tuned.save(tmp_path / "lens"))
    first, second = (tuned_lens(prose(), halves[1], one) for one in (tuned, back))
    assert first == second
    assert back.fitted_on == tuned.fitted_on
    assert {one.name for one in (tmp_path / "lens").iterdir()} == {"lens.safetensors", "lens.json"}
    facts = json.loads((tmp_path / "lens" / "lens.json").read_text())
    (tmp_path / "lens" / "lens.json").write_text(json.dumps({**facts, "format": "another"}))
    with pytest.raises(DiscoveryFileError, match="no tuned lens"):
        TunedLens.load(tmp_path / "lens")
    with pytest.raises(DiscoveryFileError, match="no tuned lens"):
        TunedLens.load(tmp_path / "nowhere")


def test_a_tuned_lens_remembers_what_it_has_seen(tuned, halves):
    found = tuned_lens(prose(), halves[1], tuned, display=0)
    seen = found.about.fitted_on
    for half in halves:
        assert half.encode(prose().tokenizer).fingerprints.tokens <= seen.tokens
    assert tuned.fitted_on.clusters == halves[0].fingerprints.clusters
    assert found.about.settings["lens"]["settings"]["steps"] == 40
    with pytest.raises(ClaimInvalid, match="discovery half"):
        TunedLens.fit(prose(), prompts().test)


def test_without_steps_that_move_it_a_tuned_lens_is_the_logit_lens(pairs):
    still = TunedLens.fit(prose(), pairs, steps=1, lr=1e-30, layers=[0])
    found = tuned_lens(prose(), pairs, still)
    plain = logit_lens(prose(), pairs)
    assert list(still.translators) == ["hook_embed"]
    np.testing.assert_allclose(found.map.values, plain.map.values, atol=1e-5)
    one = still.translators["hook_embed"]
    assert one.before == pytest.approx(one.after)


def test_fitting_leaves_the_model_and_the_generator_of_others_alone():
    model = HookedMamba.from_pretrained(prose().source)
    flags = {name: part.requires_grad for name, part in model.named_parameters()}
    before = {name: part.clone() for name, part in model.state_dict().items()}
    torch.manual_seed(5)
    state = torch.get_rng_state()
    texts = [row.clean for row in prompts().discovery.rows[:4]]
    fits = [TunedLens.fit(model, texts, steps=3, layers=[1]) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    assert flags == {name: part.requires_grad for name, part in model.named_parameters()}
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    assert all(part.grad is None for part in model.parameters())
    (one,), (other,) = (fit.translators.values() for fit in fits)
    assert torch.equal(one.weight, other.weight)
    assert one.after < one.before
    assert len(fits[0].fitted_on.texts) == 4


def test_streams_are_read_again_for_layers_that_do_not_fit(halves, monkeypatch):
    together = TunedLens.fit(prose(), halves[1][:8], steps=2)
    monkeypatch.setattr("mechtest.discovery.lens.fitting.MEMORY", 2**19)
    apart = TunedLens.fit(prose(), halves[1][:8], steps=2)
    assert list(apart.translators) == list(together.translators)
    for site, one in together.translators.items():
        torch.testing.assert_close(apart.translators[site].weight, one.weight)


def test_lenses_that_do_not_fit_are_refused(tuned, halves):
    with pytest.raises(FitError, match="other weights"):
        tuned_lens(prose(seed=1), halves[1], tuned)
    for bad in ({"layers": [2]}, {"layers": []}, {"steps": 0}, {"lr": 0.0}, {"tokens_a_step": 0}):
        with pytest.raises(FitError, match="train"):
            TunedLens.fit(prose(), halves[0], **bad)
    with pytest.raises(FitError, match="on prompts or on texts"):
        TunedLens.fit(prose(), [])
    with pytest.raises(FitError, match="worse than none"):
        TunedLens.fit(prose(), halves[1][:4], steps=3, lr=1e38)


def test_the_other_zoo_model_too():
    found = logit_lens(recall(), prompts("recall").discovery[:4], display=0)
    assert found.kl_by_row[-1] == 0
    assert found.kl_by_row[0] > found.kl_by_row[-1]
