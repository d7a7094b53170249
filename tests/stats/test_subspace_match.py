"""Subspaces of two models match when hardly any others of equal spectrum are as alike."""

import jaxtyping
import numpy as np
import pytest
from scipy.stats import binom

from mechtest.errors import NonFiniteError, SampleError
from mechtest.stats import MatchSide, SubspaceControls, linear_cka, match_test, measure_spectrum

LEVEL, NULLS = 0.05, 500
LATENTS, DIM, SAMPLES, RANK = 24, 40, 100, 2


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    """Shapes of every call are checked elsewhere, and so is that controls can differ."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    monkeypatch.setattr(SubspaceControls, "_refuse_copies", lambda self: None)


@pytest.fixture(scope="module")
def models():
    """Two models that read the same prompts: one spectrum of latents, mixed in two ways."""
    rng = np.random.default_rng(0)
    latents = rng.standard_normal((2 * SAMPLES, LATENTS)) / np.arange(1, LATENTS + 1)
    values = [latents @ rng.standard_normal((LATENTS, DIM)) for _ in range(2)]
    values = [one + 0.05 * rng.standard_normal(one.shape) for one in values]
    return latents, values, [measure_spectrum(one[:SAMPLES]) for one in values]


def sides(models, columns, seed):
    _, values, spectra = models
    return [
        MatchSide(one[SAMPLES:], SubspaceControls(part, spectrum, "block", seed, f"model {k}"))
        for k, (one, spectrum, part) in enumerate(zip(values, spectra, columns, strict=True))
    ]


def p_of_match(models, columns, seed):
    left, right = sides(models, columns, seed)
    return max(p_one_way(left, right), p_one_way(right, left))


def p_one_way(held, drawn):
    return match_test(held, drawn, LEVEL, losses=1).p  # 19 controls instead of 57


def reading(models, *latents):
    """Return the directions of each model that read some latents, by least squares."""
    known, values, spectra = models
    wanted = known[:SAMPLES, list(latents)]
    return [
        np.linalg.lstsq(one[:SAMPLES] / spectrum.scale, wanted, rcond=None)[0]
        * spectrum.scale[:, None]
        for one, spectrum in zip(values, spectra, strict=True)
    ]


def rate_below(p_values):
    return np.mean([p <= LEVEL + 1e-12 for p in p_values])


def test_subspaces_chosen_blindly_match_at_the_level(models):
    """Drawn from their families; each direction alone is exact, both together are stricter."""
    rng = np.random.default_rng(1)
    both, one_way = [], []
    for number in range(NULLS):
        starts = [rng.standard_normal((DIM, RANK)) * s.scale[:, None] for s in models[2]]
        families = sides(models, starts, number)
        drawn = [side.controls.draw(10**6).basis for side in families]
        left, right = sides(models, drawn, number + NULLS)
        there = p_one_way(left, right)
        one_way.append(there)
        both.append(max(there, p_one_way(right, left)) if there <= LEVEL + 1e-12 else there)
    low, high = binom.interval(0.99, NULLS, LEVEL)
    print(f"\nfalse matches: {rate_below(one_way):.3f} one way, {rate_below(both):.3f} both")
    assert low <= NULLS * rate_below(one_way) <= high
    assert NULLS * rate_below(both) <= high


def test_subspaces_that_read_the_same_latents_match(models):
    rng = np.random.default_rng(2)
    found, alike = [], []
    for number in range(20):
        latents = rng.choice(np.arange(1, 8), RANK, replace=False)
        columns = reading(models, *latents)
        left, right = sides(models, columns, number)
        alike.append(linear_cka(left.claimed, right.claimed))
        found.append(p_of_match(models, columns, number))
    print(f"\nfound {rate_below(found):.2f} of matches, mean CKA {np.mean(alike):.2f}")
    assert np.mean(alike) > 0.85
    assert rate_below(found) >= 0.9


def test_cka_is_its_definition():
    rng = np.random.default_rng(3)
    x, y = rng.standard_normal((30, 3)), rng.standard_normal((30, 5))
    centre = np.eye(30) - 1 / 30
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    hsic = [np.trace(a @ b) for a, b in ((k, m), (k, k), (m, m))]
    assert linear_cka(x, y) == pytest.approx(hsic[0] / np.sqrt(hsic[1] * hsic[2]))
    assert linear_cka(x, y) == pytest.approx(linear_cka(y, x))


def test_cka_knows_no_rotation_no_scale_and_no_shift():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((30, 4))
    turned = 7 * x @ np.linalg.qr(rng.standard_normal((4, 4)))[0] + 100
    assert linear_cka(x, turned) == pytest.approx(1)
    assert linear_cka(x[:, :1], x[:, :1]) == pytest.approx(1)


def test_bad_input_is_refused():
    x = np.random.default_rng(5).standard_normal((10, 2))
    with pytest.raises(SampleError, match="different samples"):
        linear_cka(x, x[:9])
    with pytest.raises(SampleError, match="do not vary"):
        linear_cka(x, np.ones((10, 2)))
    with pytest.raises(SampleError, match="at least 3 samples"):
        linear_cka(x[:2], x[:2])
    with pytest.raises(NonFiniteError):
        linear_cka(x, np.full((10, 2), np.nan))
