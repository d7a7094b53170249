"""Training is fixed by its seed, whatever interrupts it, and finds what was planted."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.compiled import FAMILIES
from mechtest.discovery.sae import SAE, match_features, train_sae
from mechtest.discovery.sae.losses import Penalties, jump, sae_loss
from mechtest.discovery.sae.trainer import Schedule, Trainer, geometric_median
from mechtest.errors import ClaimInvalid, DiscoveryFileError, FitError, ShapeError
from tests.assertions.zoo import prompts, prose

SITE = "blocks.1.hook_resid_pre"
SHORT = {"d_sae": 96, "steps": 60, "batch": 128, "progress": False}


def short(**options):
    return train_sae(prose(), SITE, prompts("gender", count=2), **(SHORT | options))


@pytest.fixture(scope="module", params=["topk", "relu", "jumprelu"])
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def trained(kind):
    return short(kind=kind)


def same(one, other):
    return all(
        torch.equal(value, other.get_parameter(name)) for name, value in one.named_parameters()
    )


def test_what_was_interrupted_ends_in_the_same_weights(kind, trained, tmp_path, monkeypatch):
    path = tmp_path / "training.safetensors"
    learn = Trainer.learn

    def until_37(self, rows):
        if self.step == 37:
            raise KeyboardInterrupt
        learn(self, rows)

    monkeypatch.setattr(Trainer, "learn", until_37)
    with pytest.raises(KeyboardInterrupt):
        short(kind=kind, checkpoint=path, checkpoint_every=10)
    steps = []
    monkeypatch.setattr(
        Trainer, "learn", lambda self, rows: (steps.append(self.step), learn(self, rows))
    )
    resumed = short(kind=kind, checkpoint=path, checkpoint_every=10)
    assert steps == list(range(30, 60))
    assert same(resumed, trained)
    assert resumed.origin == trained.origin
    with pytest.raises(DiscoveryFileError, match="another training"):
        short(kind=kind, checkpoint=path, seed=1)


def test_directions_have_length_1_and_units_are_the_models_own(trained):
    assert trained.W_dec.norm(dim=1) == pytest.approx(torch.ones(96), abs=1e-5)
    assert trained.origin.log[-1].explained_variance > 0.5
    assert trained.origin.log[-1].step == 60
    assert trained.origin.fitted_on & prompts("gender", count=2).discovery.fingerprints


def test_the_seed_decides(trained, kind):
    assert not same(short(kind=kind, seed=1), trained)


def test_small_buffers_are_streamed(monkeypatch):
    """The rows of an epoch are those of the model, each once, whatever the size of the buffer."""
    from mechtest.discovery.sae.activations import (
        ActivationStream,
        one_hook,
        read_rows,
        sequences_of,
    )

    site = one_hook(prose(), SITE)
    whole = sequences_of(prose(), prompts("ioi", count=1), SITE, "*")
    stream = ActivationStream(prose(), site, whole, batch=16, buffer=64, seed=0)
    assert stream.parts > 2
    rows = torch.cat([stream.part(number) for number in range(stream.parts)])
    plain = read_rows(prose(), site, whole)
    assert len(rows) == len(plain) == int(whole.wanted.sum())
    assert torch.allclose(rows.double().sum(0), plain.double().sum(0), atol=1e-3)
    other = torch.cat([stream.part(number) for number in range(stream.parts, 2 * stream.parts)])
    assert not torch.equal(rows, other)
    assert torch.equal(stream.part(1), stream.part(1))
    places = [
        (part, offset) for (part, offset, _), _ in zip(stream.batches(), range(6), strict=False)
    ]
    again = [one[:2] for one, _ in zip(stream.batches(*places[2]), range(3), strict=False)]
    assert again == places[3:]


def test_states_are_read_at_their_position():
    found = train_sae(
        prose(), "blocks.0.hook_h", prompts("gender", count=1), positions="last", d_sae=16, k=2,
        steps=5, progress=False,
    )  # fmt: skip
    assert found.d_in == 2048
    assert str(found.circuit([3, 1]).sites[0]) == "blocks.0.hook_h@last"
    assert found.circuit([3, 1]).subspace.rank == 2


def test_texts_are_training_data_too():
    texts = ["Ruth found an apple because she", "Ivan found a drum because he"]
    found = train_sae(prose(), SITE, texts, d_sae=8, k=1, steps=3, progress=False)
    assert found.origin.fitted_on.texts


@pytest.fixture(scope="module")
def planted():
    """Values that the state of marked slots holds: each about the mean of its slot."""
    compiled = FAMILIES["marked_slots"].build(seed=0, share=0.7, templates=24)
    words = ("red", "blue", "green", "white", "black")
    pairs = [(one, two) for one in words for two in words]
    texts = [f"so then box {one} now jar {two} here unbox" for one, two in pairs]
    _, cache = compiled.model.run_with_cache(
        compiled.model.to_tokens(texts), names_filter=["blocks.0.hook_h"]
    )
    states = cache["blocks.0.hook_h"][:, -1].flatten(1).double()
    values = []
    for slot in (0, 1):
        means = torch.stack(
            [states[[pair[slot] == word for pair in pairs]].mean(0) for word in words]
        )
        values.append(means - means.mean(0))
    whole = torch.cat(values)
    return compiled, whole / whole.norm(dim=1, keepdim=True)


def test_planted_values_are_found(planted):
    """Each of ten values is a feature; a random direction has cosines of a tenth."""
    compiled, values = planted
    found = train_sae(
        compiled.model, "blocks.0.hook_h", compiled.prompts, kind="relu", d_sae=16, l1=0.05,
        positions="last", steps=600, batch=128, lr=1e-2, seed=0, progress=False,
    )  # fmt: skip
    largest = (values @ found.W_dec.double().T).max(1).values
    assert (largest > 0.9).sum() >= 8


def test_topk_recovers_a_dictionary_whose_words_come_and_go():
    generator = torch.Generator().manual_seed(0)
    words = torch.linalg.qr(torch.randn(32, 12, generator=generator)).Q.T
    there = torch.rand(4096, 12, generator=generator) < 0.12
    rows = (there * (1 + torch.rand(4096, 12, generator=generator))) @ words
    schedule = Schedule(
        steps=400,
        lr=1e-2,
        warmup=1,
        dead_after=40,
        resample_dead=True,
        resample_every=80,
        log_every=50,
    )
    trainer = Trainer(rows, 24, Penalties("topk", 3, 0, 0, 0), schedule, seed=0)
    for step in range(400):
        trainer.learn(rows[(torch.arange(256) + 256 * step) % 4096])
    cosines = (words @ trainer.finished()["W_dec"].T).max(1).values
    assert cosines.min() > 0.9
    assert trainer.log[-1].explained_variance > 0.95


def test_dead_features_are_begun_anew():
    rows = torch.randn(512, 8, generator=torch.Generator().manual_seed(0))
    schedule = Schedule(
        steps=40,
        lr=1e-3,
        warmup=1,
        dead_after=4,
        resample_dead=True,
        resample_every=5,
        log_every=10,
    )
    trainer = Trainer(rows, 16, Penalties("relu", 1, 0.01, 0, 0), schedule, seed=0)
    with torch.no_grad():
        trainer.weights["b_enc"][:4] = -1e3
    before = trainer.weights["W_dec"][:4].clone()
    for _ in range(6):
        trainer.learn(rows)
    assert not torch.allclose(trainer.weights["W_dec"][:4], before)
    assert (trainer.weights["b_enc"][:4] > -1).all()
    assert not trainer.dead.any()


@settings(max_examples=20, deadline=None, database=None)
@given(st.floats(0.05, 1.0), st.floats(0.01, 0.5))
def test_pseudo_derivatives_are_those_of_a_ramp(threshold, width):
    """Equations 11 and 12 of Rajamanoharan et al. 2024."""
    pre = torch.linspace(-1, 2, 301, dtype=torch.float64)[:, None]
    theta = torch.tensor([threshold], dtype=torch.float64, requires_grad=True)
    features, active = jump(pre, theta, width)
    inside = ((pre - threshold).abs() < width / 2).double().sum()
    assert torch.equal(features, pre * (pre > threshold))
    assert torch.equal(active, (pre > threshold).double())
    by_features = torch.autograd.grad(features.sum(), theta, retain_graph=True)[0]
    by_active = torch.autograd.grad(active.sum(), theta)[0]
    assert by_features.item() == pytest.approx(-threshold / width * inside.item())
    assert by_active.item() == pytest.approx(-inside.item() / width)


def test_saying_nothing_costs_1():
    rows = torch.randn(1000, 8, generator=torch.Generator().manual_seed(0))
    schedule = Schedule(
        steps=10,
        lr=1e-3,
        warmup=1,
        dead_after=5,
        resample_dead=False,
        resample_every=5,
        log_every=5,
    )
    trainer = Trainer(rows, 4, Penalties("relu", 1, 0.0, 0, 0), schedule, seed=0)
    with torch.no_grad():
        trainer.weights["b_enc"] -= 1e3
    scaled = (rows - trainer.centre) / trainer.unit
    found = sae_loss(
        trainer.weights,
        scaled,
        trainer.penalties,
        warmth=1.0,
        dead=torch.zeros(4, dtype=torch.bool),
    )
    assert found.loss.item() == pytest.approx(1, abs=1e-5)


def test_the_median_is_not_pulled_by_few():
    rows = torch.cat(
        [torch.zeros(99, 3) + 0.01 * torch.eye(3).repeat(33, 1), 1e4 * torch.ones(1, 3)]
    )
    assert geometric_median(rows).norm() < 0.1
    assert rows.mean(0).norm() > 100


def test_seeds_are_matched():
    one, other = short(k=4), short(k=4, seed=1)
    match = match_features([one, other, one])
    assert match.mmcs[0, 2] == pytest.approx(1)
    assert np.diagonal(match.mmcs) == pytest.approx(np.ones(3))
    cosines = (one.W_dec[list(one.alive)] @ other.W_dec[list(other.alive)].T).max(1).values
    assert match.mmcs[0, 1] == pytest.approx(float(cosines.mean()), abs=1e-5)
    assert match.by_chance < match.mmcs[0, 1]
    assert len(match.lines()) == 3


def test_bad_input_is_refused(tmp_path):
    for options, kind, why in [
        ({"kind": "gated"}, FitError, "no such kind"),
        ({"k": 500}, FitError, "k features"),
        ({"steps": 0}, FitError, "positive"),
        ({"positions": "nowhere"}, Exception, "nowhere"),
    ]:
        with pytest.raises(kind, match=why):
            short(**options)
    with pytest.raises(FitError, match="ran away"):
        train_sae(
            prose(), SITE, prompts("gender", count=1), d_sae=8, k=2, steps=30, lr=1e30,
            progress=False,
        )  # fmt: skip
    with pytest.raises(ClaimInvalid):
        train_sae(prose(), SITE, prompts("gender", count=1).test, **SHORT)
    with pytest.raises(ShapeError, match="one hook"):
        train_sae(prose(), "blocks.0.state", prompts("gender", count=1), **SHORT)
    (tmp_path / "bad").write_text("x")
    with pytest.raises(DiscoveryFileError, match="gone on from"):
        short(checkpoint=tmp_path / "bad")
    assert issubclass(SAE, torch.nn.Module)
