"""A ranking that knows the circuit has a curve that rises at once; chance rises in between."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.discovery.circuits import FaithfulnessCurve, faithfulness_curve, greedy_prune
from mechtest.discovery.circuits.faithfulness import _trapezoid_weights
from mechtest.errors import DiscoveryError
from tests.assertions.zoo import prompts, prose
from tests.discovery.circuits.compiled_circuits import (
    FIRST,
    SECOND,
    STORES,
    THIRD,
    compiled,
    model_and_prompts,
)


@pytest.fixture(scope="module")
def planted():
    """The planted channels first: five of the 96 of both stores."""
    built = compiled("marked_slots", 1.0)
    model, pairs = model_and_prompts("marked_slots", 1.0)
    channels = built.row("store channels 0").circuit.channels
    ranking = {f"{FIRST}#{channel}": 1.0 for channel in channels}
    return faithfulness_curve(model, pairs, ranking, rankings=10, progress=False)


def test_the_planted_channels_keep_everything_from_their_number_on(planted):
    assert len(planted.nodes) == 96
    assert planted.ranked == 5
    assert planted.smallest(0.99) == 5
    assert planted.cpr.estimate > 0.95
    assert planted.cmd < 0.05
    assert planted.p == pytest.approx(1 / 11)
    assert max(planted.random_cpr) < planted.cpr.estimate
    assert planted.circuit(5).channels == tuple(
        sorted(int(name.partition("#")[2]) for name in planted.nodes[:5])
    )


def test_the_ends_are_nothing_and_everything(planted):
    assert (planted.sizes[0], planted.sizes[-1]) == (0, 96)
    assert planted.shares[0].estimate == 0.0
    assert planted.shares[-1].estimate == pytest.approx(1.0, abs=1e-6)


def test_the_wrong_way_round_the_curve_stays_low():
    model, pairs = model_and_prompts("conjunction")
    good = faithfulness_curve(model, pairs, [FIRST, SECOND, THIRD], rankings=0, progress=False)
    bad = faithfulness_curve(model, pairs, [THIRD, FIRST, SECOND], rankings=0, progress=False)
    # 0, 0, 1, 1 against 0, 0, 0, 1 over thirds.
    assert good.cpr.estimate == pytest.approx(1 / 2, abs=2e-3)
    assert bad.cpr.estimate == pytest.approx(1 / 6, abs=2e-3)
    assert good.cmd == pytest.approx(1 / 2, abs=2e-3)
    assert good.p is None


def test_a_record_that_ranks_is_a_ranking(tmp_path):
    model, pairs = model_and_prompts("conjunction")
    pruned = greedy_prune(model, pairs, STORES, progress=False)
    curve = faithfulness_curve(model, pairs, pruned, rankings=3, progress=False)
    assert set(curve.nodes[:2]) == {FIRST, SECOND}
    assert curve.scores()[curve.nodes[0]] == 1.0
    back = FaithfulnessCurve.load(curve.save(tmp_path / "curve.json"))
    assert back == curve
    assert np.array_equal(back.random, curve.random)
    curve.plot(tmp_path / "curve.svg")


def test_the_same_seed_gives_the_same_rankings_by_chance():
    model, pairs = model_and_prompts("conjunction")
    one, same, other = (
        faithfulness_curve(model, pairs, [FIRST], rankings=6, seed=seed, progress=False)
        for seed in (0, 0, 1)
    )
    assert one == same
    assert not np.array_equal(one.random, other.random)


@pytest.mark.parametrize("sizes", [[3], [1.5], [-1], [True]])
def test_sizes_that_do_not_fit_are_refused(sizes):
    with pytest.raises(DiscoveryError, match="size"):
        faithfulness_curve(prose(), prompts(), {"blocks.1.state@last": 1.0}, sizes=sizes)


def test_more_nodes_than_there_are_make_no_circuit(planted):
    with pytest.raises(DiscoveryError, match="count=97"):
        planted.circuit(97)


@given(
    st.lists(st.integers(1, 98), min_size=1, max_size=8, unique=True),
    st.lists(st.floats(-2, 2), min_size=10, max_size=10),
)
@settings(database=None, deadline=None, max_examples=40)
def test_the_weights_are_those_of_trapezoids(inner, values):
    x = np.array([0, *sorted(inner), 99]) / 99
    y = np.array(values[: len(x)])
    assert y @ _trapezoid_weights(x) == pytest.approx(np.trapezoid(y, x), abs=1e-12)
