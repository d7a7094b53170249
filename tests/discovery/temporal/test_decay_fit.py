"""Half-lives are those that were built in, and what does not fade says so."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fixtures.compiled import FAMILIES
from mechtest.discovery.temporal import DecayFit, decay_fit, influence_map
from mechtest.discovery.temporal.decay_fit import fit_rate, receptive_field
from mechtest.errors import ShapeError
from tests.assertions.zoo import prompts, prose


@pytest.fixture(scope="module")
def of_state():
    return influence_map(prose(), prompts(templates=12), max_lag=6, target="hook_h")


@settings(database=None, deadline=None, max_examples=30)
@given(
    half_life=st.floats(0.2, 60), start=st.floats(1e-3, 1e3), first=st.integers(0, 3),
    count=st.integers(3, 20),
)  # fmt: skip
def test_an_exponential_is_fitted_exactly(half_life, start, first, count):
    lags = list(range(first, first + count))
    influence = start * 2.0 ** (-np.array(lags) / half_life)
    rate, level, r_squared = fit_rate(lags, influence)
    assert math.log(2) / rate == pytest.approx(half_life, rel=1e-6)
    assert level == pytest.approx(start, rel=1e-6)
    assert r_squared == pytest.approx(1)


def test_receptive_fields_hold_their_share():
    lags = [0, 1, 2, 3]
    assert receptive_field(lags, np.array([9.0, 1, 0, 0]), 0.9) == 0
    assert receptive_field(lags, np.array([9.0, 1, 0, 0.01]), 0.9) == 1
    assert receptive_field(lags, np.ones(4), 0.75) == 2
    assert receptive_field(lags, np.array([np.nan, 0, 0, 2.0]), 0.5) == 3
    assert receptive_field(lags, np.zeros(4), 0.5) is None


def test_the_compiled_store_halves_when_it_says():
    """Family decay: a half-life and a horizon are facts of the model."""
    built = FAMILIES["decay"].build(seed=0, templates=4, per_template=1, half_life=3.0)
    channels = built.anatomy.channels(0, "store")
    found = influence_map(
        built.model, built.prompts, layers=0, max_lag=5, target="hook_h", channels=channels
    )
    for of in ("sensitivity", "effect"):
        (fit,) = decay_fit(found, of=of).decays
        assert fit.half_life == pytest.approx(built.facts["half_life"], rel=1e-4)
        assert fit.r_squared == pytest.approx(1)
    # What is left at the horizon is the threshold the model answers by: an eighth.
    assert 2.0 ** (-built.facts["horizon"] / fit.half_life) == pytest.approx(1 / 8, rel=1e-3)


def test_fits_are_kept_and_drawn(of_state, tmp_path):
    found = decay_fit(of_state)
    assert DecayFit.load(found.save(tmp_path / "d.json")) == found
    found.plot(tmp_path / "d.png")
    assert "half-life" in found.lines()[0]
    for one in found.decays:
        assert one.low < one.half_life < one.high
        assert one.half_life == pytest.approx(math.log(2) / one.rate)
    assert found.about.tool == "decay_fit"
    assert found.about.fitted_on == of_state.about.fitted_on
    later = decay_fit(of_state, first_lag=2)
    assert later.lags == (2, 3, 4, 5, 6)


def faked(of_state, curve):
    """Return the map with one curve for all prompts of layer 0."""
    values = np.array(of_state.sensitivity.values)
    values[0] = np.array(curve)[:, None]
    return replace(of_state, sensitivity=replace(of_state.sensitivity, values=values))


def test_what_does_not_fade_has_no_half_life(of_state, tmp_path):
    grows = decay_fit(faked(of_state, 1.1 ** np.arange(7)))
    assert grows.decays[0].half_life is None
    assert "does not fade" in grows.lines()[0]
    grows.plot(tmp_path / "grows.svg")
    nothing = decay_fit(faked(of_state, np.zeros(7)))
    assert nothing.decays[0].rate is None
    assert nothing.decays[0].receptive_field is None
    assert "fewer than 3" in nothing.lines()[0]
    assert DecayFit.from_json(nothing.to_json()) == nothing


def test_bad_input_is_refused(of_state):
    for bad in ({"of": "x"}, {"coverage": 1.0}, {"confidence": 0.0}, {"first_lag": 5}):
        with pytest.raises(ShapeError):
            decay_fit(of_state, **bad)
