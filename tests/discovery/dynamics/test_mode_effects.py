"""Modes are found by what they do, where their variance points elsewhere."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr

from fixtures.compiled import FAMILIES
from mechtest.discovery.dynamics import ModeEffects, mode_effects, state_rank
from mechtest.discovery.dynamics.agreement import rank_correlation
from mechtest.discovery.dynamics.mode_groups import grouped
from mechtest.discovery.dynamics.state_rank import StateRank, covariance_rank
from mechtest.errors import ClaimInvalid, PositionError, ShapeError
from mechtest.interventions import ResampleAblation, Runner
from mechtest.tasks import logit_difference
from tests.assertions.zoo import prompts, prose


@pytest.fixture(scope="module")
def short():
    return prompts(templates=6)


@pytest.fixture(scope="module")
def found(short):
    return mode_effects(prose(), short, 1)


def lost(circuit, pairs):
    runner = Runner(prose(), pairs)
    clean, twin, after = (
        logit_difference(logits, pairs).double().numpy()
        for logits in (
            runner.logits("clean"),
            runner.logits("corrupted"),
            runner.run(circuit, ResampleAblation()).logits,
        )
    )
    clusters = np.unique(pairs.cluster)
    changes, gaps = (
        np.mean([values[pairs.cluster == c].mean() for c in clusters])
        for values in (clean - after, clean - twin)
    )
    return changes / gaps


def test_the_circuit_does_what_its_group_did(found, short):
    """By a mask of coordinates, and by a subspace of them."""
    pairs = short.discovery.encode(prose().tokenizer)
    circuit = found.circuit()
    assert circuit.subspace.rank == max(
        found.groups, key=lambda one: abs(one.effect or 0)
    ).modes  # fmt: skip
    assert lost(circuit, pairs) == pytest.approx(found.map.top(1)[0].effect, abs=1e-4)
    assert circuit.fitted_on == found.about.fitted_on


def test_one_group_of_everything_is_the_whole_state(short):
    every = {"all": [(channel, state) for channel in range(128) for state in range(16)]}
    whole = mode_effects(prose(), short, 1, groups=every)
    (one,) = whole.groups
    assert (one.variance, one.difference, one.energy) == pytest.approx((1, 1, 1))
    pairs = short.discovery.encode(prose().tokenizer)
    circuit = whole.circuit()
    assert circuit.subspace is circuit.channels is None
    assert one.effect == pytest.approx(lost(circuit, pairs), abs=1e-5)


def test_channels_are_channels(short, tmp_path):
    whole = mode_effects(prose(), short, 1, groups="rank", by="channels", count=4)
    circuit = whole.circuit(2)
    assert len(circuit.channels) == 64
    pairs = short.discovery.encode(prose().tokenizer)
    one = whole.circuit(1)
    assert lost(one, pairs) == pytest.approx(whole.map.top(1)[0].effect, abs=1e-5)
    assert whole.agreement["modes"] is None  # all alike
    whole.plot(tmp_path / "w.svg")
    assert ModeEffects.load(whole.save(tmp_path / "w.json")) == whole


def test_shares_add_up_and_intervals_hold_their_effect(found):
    for name in ("variance", "difference", "energy"):
        assert sum(getattr(one, name) for one in found.groups) == pytest.approx(1)
        assert -1 <= found.agreement[name] <= 1
    assert sum(one.modes for one in found.groups) == 128 * 16
    for one in found.groups:
        assert one.low <= one.effect <= one.high
    assert "rank correlation" in found.lines()[-1]
    assert sum(found.scores().values()) == pytest.approx(
        sum(abs(one.effect) for one in found.groups)
    )


def test_the_compiled_stores_channels_are_found():
    """Their copies vary as much, and are read by nothing."""
    built = FAMILIES["decay"].build(seed=0, templates=6, per_template=4)
    near = built.prompts.filter(behaviour="near")
    whole = mode_effects(built.model, near, 0, groups="each", by="channels")
    scores = whole.scores()
    store, copies = (
        [scores[f"blocks.0.hook_h@last#{channel}"] for channel in built.anatomy.channels(0, name)]
        for name in ("store", "copy")
    )
    # A colour that no clean prompt or twin has moves nothing.
    moved = [value for value in store if value > 1e-3]
    assert len(moved) > len(store) / 2
    assert max(copies) < 1e-3
    others = set(scores.values()) - set(store)
    assert max(others) < min(moved)
    best = whole.circuit(len(moved))
    assert set(best.channels) <= set(built.anatomy.channels(0, "store"))
    by_variance = {one.label: one.variance for one in whole.groups}
    top = sorted(by_variance, key=by_variance.get)[-len(moved) :]
    wrong = [label for label in top if int(label.split()[1]) not in best.channels]
    assert wrong  # variance names channels that nothing reads


def test_where_nothing_differs_there_is_no_effect(short):
    first = mode_effects(prose(), short, 1, at="0", groups="rank", count=2)
    assert [one.effect for one in first.groups] == [None, None]
    assert set(first.map.reasons.values()) == {"the runs do not differ in these modes"}
    assert ModeEffects.from_json(first.to_json()) == first
    with pytest.raises(ShapeError, match="not that many groups"):
        first.circuit()


def test_groups_of_modes():
    lives = np.array([[0.6, 1.5, 3.0], [0.7, 2.5, 100.0]])
    labels, member = grouped(lives, "octave", by="modes", count=8)
    assert labels == ("0.5-1 tokens", "1-2 tokens", "2-4 tokens", "64-128 tokens")
    assert member.tolist() == [[0, 1, 2], [0, 2, 3]]
    labels, member = grouped(lives, "rank", by="modes", count=3)
    assert member.tolist() == [[0, 1, 2], [0, 1, 2]]
    labels, member = grouped(lives, "octave", by="channels", count=8)
    assert member.tolist() == [[0, 0, 0], [1, 1, 1]]
    labels, member = grouped(lives, {"a": [(1, 2)], "b": [(0, 0)]}, by="modes", count=8)
    assert member.tolist() == [[1, -1, -1], [-1, -1, 0]]
    for bad in ("each", "x", {}, {"a": []}, {"a": [(2, 0)]}, {"a": [(0, 0)], "b": [(0, 0)]}):
        with pytest.raises(ShapeError):
            grouped(lives, bad, by="modes", count=8)
    with pytest.raises(ShapeError):
        grouped(lives, "rank", by="channels", count=3)


def test_bad_input_is_refused(short):
    with pytest.raises(ClaimInvalid):
        mode_effects(prose(), short.test, 1)
    with pytest.raises(ShapeError, match="one token of each prompt"):
        mode_effects(prose(), short, 1, at="-2:")
    with pytest.raises(PositionError):
        mode_effects(prose(), short, 1, at="nowhere")


@settings(database=None, deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=3, max_size=12))
def test_rank_correlation_is_spearmans(pairs):
    a, b = np.array(pairs, dtype=float).T
    found = rank_correlation(a, b)
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert found is None
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)


def test_rank_correlation_needs_something_to_rank():
    line = np.arange(4.0)
    assert rank_correlation(line, line**3) == pytest.approx(1)
    assert rank_correlation(line, -line) == pytest.approx(-1)
    assert rank_correlation(line[:2], line[:2]) is None
    assert rank_correlation(line, np.ones(4)) is None
    assert rank_correlation(line, np.array([1.0, np.nan, np.nan, 2])) is None


def test_directions_of_difference_are_counted():
    generator = torch.Generator().manual_seed(0)
    axes = torch.linalg.qr(torch.randn(50, 3, generator=generator, dtype=torch.float64)).Q
    codes = torch.linalg.qr(torch.randn(20, 4, generator=generator, dtype=torch.float64)).Q
    codes = torch.linalg.qr(codes - codes.mean(0)).Q[:, :3]
    plain, _ = covariance_rank(codes @ axes.T + 7)
    assert plain == pytest.approx(3)
    scaled = codes * torch.tensor([1.0, 10, 100], dtype=torch.float64)
    plain, equal = covariance_rank(torch.cat([scaled, torch.ones(20, 1)], 1))
    assert plain < 1.1
    assert equal == pytest.approx(3)
    assert covariance_rank(torch.ones(5, 3)) == (0.0, 0.0)


def test_ranks_by_layer_and_position(short, tmp_path):
    found = state_rank(prose(), short, positions=["0", "-2", "last"])
    assert found.rank.shape == (2, 3)
    assert (found.rank[:, 0] == 0).all()  # all prompts begin alike
    assert (found.rank[:, 1:] > 1).all()
    assert (found.scaled[:, 1:] <= found.largest + 1e-6).all()
    assert StateRank.load(found.save(tmp_path / "r.json")) == found
    found.plot(tmp_path / "r.png")
    assert "layer 0" in found.lines()[0]
    with pytest.raises(ClaimInvalid):
        state_rank(prose(), short.test)
    with pytest.raises(ShapeError, match="three prompts"):
        state_rank(prose(), short, positions=[])
    with pytest.raises(ShapeError, match="one token a prompt"):
        state_rank(prose(), short, positions=["-2:"])
