"""Half-lives are ln 2 / (delta |A|), counted over every token, channel and state."""

import math

import numpy as np
import pytest
import torch

from fixtures.compiled import FAMILIES
from mechtest.discovery.dynamics import Eigenmodes, Timescales, eigenmodes, timescales
from mechtest.discovery.dynamics.prompt_tables import template_means
from mechtest.discovery.dynamics.timescales import QUANTILES
from mechtest.errors import ClaimInvalid, ShapeError
from tests.assertions.zoo import prompts, prose


@pytest.fixture(scope="module")
def found():
    return timescales(prose(), prompts(templates=6))


@pytest.fixture(scope="module")
def half_lives():
    """Every half-life of layer 1 on each prompt, by hand."""
    pairs = prompts(templates=6).discovery.encode(prose().tokenizer)
    rates = torch.exp(prose().blocks[1].mixer.A_log.detach().double())
    each = []
    for row, length in zip(pairs.clean_tokens, pairs.lengths.tolist(), strict=True):
        _, cache = prose().run_with_cache(row[-length:][None], names_filter="blocks.1.hook_delta")
        delta = cache["blocks.1.hook_delta"][0].double()
        each.append((math.log(2) / (delta[:, :, None] * rates)).numpy())
    return pairs, each


def test_quantiles_are_those_of_all_half_lives(found, half_lives):
    _, each = half_lives
    for prompt, values in enumerate(each):
        exact = np.quantile(values, QUANTILES)
        assert np.allclose(found.map.values[1, :, prompt], exact, rtol=0.01)


def test_shares_count_every_template_once(found, half_lives):
    pairs, each = half_lives
    names = [pairs.templates[index] for index in pairs.cluster]
    fast = template_means(np.array([(values < 1).mean() for values in each]), names)
    slow = template_means(np.array([(values >= 16).mean() for values in each]), names)
    assert found.fast[1] == pytest.approx(float(fast), abs=2e-3)
    assert found.slow[1] == pytest.approx(float(slow), abs=2e-3)
    assert np.allclose(found.octaves.sum(1), 1)
    start = 4 - found.lowest
    assert found.octaves[1, start:].sum() == pytest.approx(found.slow[1])


def test_tokens_are_ordered_by_their_step(found, half_lives, tmp_path):
    pairs, _ = half_lives
    own = [one for one in found.gate if one.layer == 0]
    assert [one.delta for one in own] == sorted((one.delta for one in own), reverse=True)
    assert len(own) == 16
    texts = [text for row in pairs.clean_tokens for text in prose().to_str_tokens(row)]
    assert all(one.count <= texts.count(one.token) for one in own)
    assert len(found.table()) == len(found.gate)
    assert Timescales.load(found.save(tmp_path / "t.json")) == found
    found.plot(tmp_path / "t.png")
    assert "median half-life" in found.lines()[0]


def test_a_step_of_zero_lasts_for_ever():
    model = prose()
    zero = ("blocks.0.hook_delta", lambda value, hook: torch.zeros_like(value))
    with model.hooks(fwd_hooks=[zero]):
        found = timescales(model, prompts(templates=2), layers=0)
    assert found.slow == (1.0,)
    assert Timescales.from_json(found.to_json()) == found


def test_modes_of_the_compiled_store_last_as_long_as_it_says(tmp_path):
    built = FAMILIES["decay"].build(seed=0, templates=4, per_template=1, half_life=3.0)
    modes = eigenmodes(built.model, built.prompts, 0)
    store = list(built.anatomy.channels(0, "store"))
    assert np.allclose(modes.half_lives[store], 3.0, rtol=1e-4)
    groups = modes.groups()
    assert sum(map(len, groups.values())) == modes.half_lives.size
    inside = {tuple(pair) for pair in groups["2-4 tokens"].tolist()}
    assert {(channel, 0) for channel in store} <= inside
    assert Eigenmodes.load(modes.save(tmp_path / "m.json")) == modes
    modes.plot(tmp_path / "m.svg")


def test_bad_input_is_refused():
    whole = prompts(templates=2)
    with pytest.raises(ClaimInvalid):
        timescales(prose(), whole.test)
    with pytest.raises(ShapeError, match="no such layers"):
        timescales(prose(), whole, layers=[])
    for bad in ({"fast_below": 0.0}, {"slow_from": math.inf}, {"top": 0}):
        with pytest.raises(ShapeError, match="positive numbers"):
            timescales(prose(), whole, **bad)
    with pytest.raises(ShapeError, match="no such layers"):
        eigenmodes(prose(), whole, -3)
