"""Causal traces are those of a plain script on plain hooks, and the facts they must keep hold."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import MambaForCausalLM
from transformers.utils.logging import disable_progress_bar

from fixtures.compiled import FAMILIES
from mechtest.assertions import check_sufficient
from mechtest.discovery.record import DiscoveryRecord
from mechtest.discovery.tracing import CausalTrace, EmbeddingNoise, causal_trace
from mechtest.discovery.tracing.embedding_noise import NoisedModel, noised_pairs, subject_mask
from mechtest.errors import (
    ClaimInvalid,
    DiscoveryError,
    MetricError,
    NothingChangedError,
    PositionError,
    ShapeError,
    UnknownSiteError,
)
from mechtest.interventions import Places
from mechtest.models import HookedMamba
from mechtest.tasks import EncodedPairs, logit_difference
from tests.assertions.zoo import LEVEL, prompts, prose

SUBJECT = ("subject_first", "subject_last")
PLACES = ["subject_first-1", "subject_first", "subject_last", "subject_last+1", "last"]
disable_progress_bar()


def trace(pairs, **more):
    options = {"subject": SUBJECT, "positions": PLACES, "samples": 2, "progress": False}
    return causal_trace(prose(), pairs, **{**options, **more})


@pytest.fixture(scope="module")
def pairs():
    """Three prompts of three templates and lengths, so that padding takes part."""
    whole = prompts().discovery
    names = [row for row in whole.rows if len(row.clean.split()) in (5, 6, 8)][:3]
    return whole.filter(lambda row: row in names).encode(prose().tokenizer)


@pytest.fixture(scope="module")
def found(pairs):
    return trace(pairs, sites=["blocks.*.hook_resid_post", "blocks.*.hook_out_proj"])


class PlainScript:
    """The paper's procedure with nothing but PyTorch's hooks on transformers' Mamba.

    One prompt at a time, without padding; noise is given, positions are indices.
    """

    def __init__(self, path):
        self.model = MambaForCausalLM.from_pretrained(path).eval()
        self.blocks = self.model.backbone.layers

    def run(self, tokens, embeddings=None, restore=(), hold=()):
        """Return logits at the end and all outputs; edits are (module, position, value)."""
        seen, handles = {}, []

        def embed(module, given, out):
            return out if embeddings is None else embeddings[None]

        def hook(key):
            def edit(module, given, out):
                out = out.clone()
                for where, position, value in (*restore, *hold):
                    if where == key:
                        out[0, position] = value
                seen[key] = out
                return out

            return edit

        handles.append(self.model.backbone.embeddings.register_forward_hook(embed))
        for layer, block in enumerate(self.blocks):
            handles.append(block.register_forward_hook(hook((layer, "hook_resid_post"))))
            handles.append(block.mixer.register_forward_hook(hook((layer, "hook_out_proj"))))
        with torch.no_grad():
            logits = self.model(tokens[None], use_cache=False).logits[0, -1]
        for handle in handles:
            handle.remove()
        return logits, {key: value[0] for key, value in seen.items()}

    def effect(self, tokens, answer, noised, key, position, severed=False):
        """Return the probability that restoring one place of one noised run brings back."""
        _, clean = self.run(tokens)
        before, corrupted = self.run(tokens, noised)
        hold = []
        if severed:
            later = range(key[0] + 1, len(self.blocks))
            places = [(layer, "hook_out_proj") for layer in later]
            hold = [(one, position, corrupted[one][position]) for one in places]
        after, _ = self.run(tokens, noised, [(key, position, clean[key][position])], hold)
        return float(after.softmax(0)[answer] - before.softmax(0)[answer])


def cases(pairs, std, samples, seed=0):
    """Yield each prompt's row, tokens, places of the columns, and its noised embeddings."""
    model = prose()
    columns = {"subject_first": 0, "subject_last": 0, "last": 0}
    for row in range(len(pairs)):
        start = int(pairs.attention_mask.shape[1] - pairs.lengths[row])
        tokens = pairs.clean_tokens[row, start:]
        for role in columns:
            columns[role] = int(pairs.positions(role)[row]) - start
        first, last = columns["subject_first"], columns["subject_last"]
        places = [first - 1, first, last, last + 1, columns["last"]]
        subject = torch.tensor([first, last])
        noise = EmbeddingNoise(torch.ones(1, 1, dtype=torch.bool), std, samples, seed)
        ends = Places(torch.full((2,), int(pairs.order[row])), len(tokens) - subject)
        for sample in range(samples):
            embeddings = model.embedding.weight[tokens].detach().clone()
            embeddings[subject] = noise.noised(embeddings[subject], ends, sample)
            yield row, tokens, places, sample, embeddings


@pytest.mark.parametrize("sever", [None, "mixer"])
def test_effects_are_those_of_a_plain_script_with_the_same_noise(sever, pairs, found):
    traced = found if sever is None else trace(pairs, sites="blocks.*.hook_resid_post", sever=sever)
    script = PlainScript(prose().source)
    hooks = ["hook_resid_post", "hook_out_proj"][: len(traced.maps)]
    expected = {hook: np.zeros((2, 5, len(pairs))) for hook in hooks}
    corrupted = np.zeros((2, len(pairs)))
    for row, tokens, places, sample, noised in cases(pairs, traced.std, samples=2):
        answer = int(pairs.answers.answer_ids[row, 0])
        logits, _ = script.run(tokens, noised)
        corrupted[sample, row] = logits.softmax(0)[answer]
        for hook in hooks:
            for layer in range(2):
                for column, position in enumerate(places):
                    effect = script.effect(
                        tokens, answer, noised, (layer, hook), position, sever is not None
                    )
                    expected[hook][layer, column, row] += effect / 2
    np.testing.assert_allclose(traced.samples, corrupted, atol=1e-4)
    assert np.abs(expected["hook_resid_post"]).max() > 0.3
    for number, hook in enumerate(hooks):
        values = traced.maps[number].values
        assert np.isnan(values[:, 0]).all()
        assert np.abs(expected[hook][:, 0]).max() < 1e-6
        np.testing.assert_allclose(values[:, 1:], expected[hook][:, 1:], atol=1e-4)


def test_what_was_alike_has_no_number_but_a_reason(found):
    assert set(found.map.reasons) == {(0, 0), (1, 0)}
    assert "alike" in found.map.reasons[0, 0]


def test_everything_carried_past_the_subject_restores_everything(pairs):
    """All layers' states after the last noised token: what comes after sees the clean prompt."""
    whole = trace(
        pairs, sites="blocks.*.state", positions="subject_last", window=4, metric="logit_difference"
    )
    shares = whole.maps[0].values / (whole.clean - whole.corrupted)
    np.testing.assert_allclose(shares, 1, atol=1e-3)
    alone = trace(pairs, sites="blocks.*.state", positions="subject_last")
    assert alone.shares().mean()[0, 0] < 0.5


@pytest.mark.parametrize(
    ("site", "place"), [("hook_embed", "subject_first:subject_last+1"), ("hook_embed", "0:")]
)
def test_the_clean_embeddings_restore_everything(site, place, pairs):
    even = pairs[[0]] if place == "0:" else pairs
    whole = trace(even, sites=site, positions=[place], metric="logit_difference")
    np.testing.assert_allclose(whole.shares().mean(), 1, atol=1e-4)


def test_the_last_stream_restores_everything_severed_or_not(pairs, found):
    np.testing.assert_allclose(
        found.map.values[1, -1], found.clean - found.corrupted, rtol=1e-4, atol=1e-5
    )
    for path in ("conv", "gate"):
        cut = trace(pairs, sever=path)
        assert cut.map.values[1, -1] == pytest.approx(found.map.values[1, -1], abs=1e-5)
        assert path in cut.map.intervention
        assert "severed" in cut.lines()[0]
        # At the last token of the first layer, only that token's own later block goes on.
        assert not np.allclose(cut.map.values[0, -1], found.map.values[0, -1], atol=1e-4)


def test_severing_the_mixer_from_before_the_block_holds_that_block_too(pairs):
    """Restored before the last block, held in it: nothing of the subject reaches the answer."""
    before = trace(pairs, sites="blocks.*.hook_resid_pre", sever="mixer", positions="last")
    after = trace(pairs, sites="blocks.*.hook_resid_post", sever="mixer", positions="last")
    np.testing.assert_allclose(before.map.values[1], after.map.values[0], atol=1e-5)


def test_noise_is_keyed_by_prompt_token_and_sample(pairs, found, monkeypatch):
    monkeypatch.setattr("mechtest.discovery.tracing.restoring.ROWS", 2)
    monkeypatch.setattr("mechtest.discovery.tracing.restoring.LOGITS", 2**16)
    small = trace(pairs, sites=["blocks.*.hook_resid_post", "blocks.*.hook_out_proj"])
    for one, other in zip(small.maps, found.maps, strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-5)
    assert small.std == found.std
    more = trace(pairs, samples=4)
    np.testing.assert_allclose(more.samples[:2], found.samples, atol=1e-6)
    assert len({tuple(row) for row in more.samples.round(6).tolist()}) == 4
    other = trace(pairs, seed=1)
    assert not np.allclose(other.samples, found.samples, atol=1e-4)


def test_noise_has_the_size_that_was_asked_for(pairs):
    model = prose()
    mask = subject_mask(model, pairs, SUBJECT)
    weight = model.embedding.weight.detach()
    expected = 3 * float(weight[pairs.clean_tokens[mask]].double().std())
    assert trace(pairs).std == pytest.approx(expected)
    assert trace(pairs, noise_over="vocabulary").std == pytest.approx(3 * float(weight.std()))
    noise = EmbeddingNoise(mask, 0.5, samples=50)
    noised, made = noised_pairs(model, pairs, noise)
    words = noised.embedding.weight.detach()[-50 * int(mask.sum()) :].view(
        50, -1, model.cfg.d_model
    )
    rest = words - weight[pairs.clean_tokens[mask]]
    assert float(rest.std()) == pytest.approx(0.5, rel=0.02)
    assert abs(float(rest.mean())) < 0.02
    changed = (made.clean_tokens != made.corrupted_tokens).view(len(pairs), 50, -1)
    assert torch.equal(changed.all(1), mask)


def test_the_model_that_reads_noised_words_is_the_model(pairs):
    """Clean prompts give the model's own logits, and hooks put on it stay on it."""
    model = prose()
    noise = EmbeddingNoise(subject_mask(model, pairs, None), 1.0, samples=1)
    noised, made = noised_pairs(model, pairs, noise)
    assert isinstance(noised, NoisedModel)
    with torch.no_grad():
        ours = noised(made.clean_tokens, attention_mask=made.attention_mask)
        theirs = model(pairs.clean_tokens, attention_mask=pairs.attention_mask)
    torch.testing.assert_close(ours[:, -1], theirs[:, -1])
    calls = []
    with noised.hooks(fwd_hooks=[("hook_embed", lambda value, hook: calls.append(1))]):
        assert not model.has_any_hooks
        noised(made.clean_tokens, attention_mask=made.attention_mask)
    assert calls == [1]
    assert not model.has_any_hooks
    with pytest.raises(ShapeError, match="outside the vocabulary"):
        noised(made.clean_tokens + noised.words)


def test_by_default_the_words_that_differ_are_the_subject(pairs):
    assert torch.equal(subject_mask(prose(), pairs, None), subject_mask(prose(), pairs, SUBJECT))


def test_a_model_with_hooks_of_its_own_is_traced_by_hooks(pairs, found):
    """What packed rows refuse is done the plain way; and the metric may be anybody's."""
    model = HookedMamba.from_pretrained(prose().source)
    seen = []
    model.add_hook("blocks.0.hook_resid_pre", lambda value, hook: seen.append(value.shape[0]))

    class Doubled:
        name, unit, sign = "doubled", "logits", "positive: more"

        def __call__(self, logits, encoded, *, position=None, reference=None):
            assert isinstance(encoded, EncodedPairs)
            return 2 * logit_difference(logits, encoded)

    options = {"subject": SUBJECT, "positions": ["last"], "samples": 2, "progress": False}
    ours = causal_trace(model, pairs, metric=Doubled(), **options)
    plain = causal_trace(prose(), pairs, metric="logit_difference", **options)
    assert seen
    np.testing.assert_allclose(ours.map.values, 2 * plain.map.values, rtol=1e-3, atol=1e-3)


def test_a_window_restores_the_layers_around_each(pairs):
    wide = trace(pairs, sites="blocks.*.hook_out_proj", window=2, metric=logit_difference)
    both = trace(pairs, sites="blocks.*.hook_out_proj", window=3, metric=logit_difference)
    single = trace(pairs, sites="blocks.*.hook_out_proj", metric=logit_difference)
    # Of two layers, the one before and the layer itself: the first row is a single layer.
    np.testing.assert_allclose(wide.map.values[0, 1:], single.map.values[0, 1:], atol=1e-4)
    np.testing.assert_allclose(wide.map.values[1], both.map.values[1], atol=1e-4)
    assert "restoring 3 layers" in both.map.title()


def test_in_a_compiled_model_the_store_is_found():
    compiled = FAMILIES["token_shift"].build(seed=0, share=1.0, templates=4)
    found = causal_trace(
        compiled.model, compiled.prompts, sites="blocks.*.state", positions=[-2, -1], samples=2
    )
    np.testing.assert_allclose(found.shares().mean(), [[1, 0], [0, 0]], atol=0.01)
    scores = found.scores()
    assert max(scores, key=scores.get) == "blocks.0.state@-2"


def test_circuits_of_a_trace_are_tested_on_other_prompts():
    found = trace(prompts().discovery[::4], sites="blocks.*.state", samples=1)
    circuit = found.circuit(1)
    assert circuit.sites[0].layer == 1
    record = check_sufficient(prose(), circuit, prompts(), threshold=0.2, level=LEVEL)
    assert record.verdict == "supported", record.reason
    assert found.circuit(1, hook="blocks.*.state").sites == circuit.sites
    with pytest.raises(DiscoveryError, match="not traced"):
        found.circuit(hook="blocks.*.hook_y")


def test_what_is_saved_comes_back(found, tmp_path):
    back = DiscoveryRecord.load(found.save(tmp_path / "trace.json"))
    assert isinstance(back, CausalTrace)
    assert back == found
    assert "total effect" in back.lines()[0]
    assert back.total_interval().bounded is not None
    back.plot(tmp_path / "trace.png")
    assert (tmp_path / "trace.png").stat().st_size > 5000
    none = dataclasses.replace(found, corrupted=found.clean)
    with pytest.raises(MetricError, match="no effect to take shares of"):
        none.shares()


def test_what_cannot_be_traced_is_refused(pairs):
    with pytest.raises(NothingChangedError, match="corrupts nothing"):
        trace(pairs, noise=0.0)
    with pytest.raises(ClaimInvalid, match="discovery half"):
        causal_trace(prose(), prompts().test)
    for bad in (
        {"window": 0}, {"window": 2, "sites": ["hook_embed"]}, {"sever": "attention"},
        {"samples": 0}, {"sites": []}, {"noise_over": "words"},
    ):  # fmt: skip
        with pytest.raises(ShapeError):
            trace(pairs, **bad)
    for bad in ({"subject": "verb"}, {"subject": []}, {"positions": "verb"}):
        with pytest.raises(PositionError):
            trace(pairs, **bad)
    with pytest.raises(UnknownSiteError):
        trace(pairs, sites="blocks.*.hook_attention")
    with pytest.raises(MetricError):
        trace(pairs, metric="nothing")
    same = dataclasses.replace(pairs, corrupted_tokens=pairs.clean_tokens)
    with pytest.raises(PositionError, match="no subject"):
        trace(same, subject=None)
