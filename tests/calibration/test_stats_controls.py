"""Claims that are no more special than their controls are called special only at the level.

The warning case is here too: uniformly random subspaces call a subspace of leading principal axes
special whatever the task.
"""

import numpy as np
import pytest
from scipy.stats import binom

from mechtest.stats import (
    ControlTest,
    SubspaceControls,
    control_power,
    most_controls,
    spectrum_of_covariance,
)

DIM, RANK, LEVEL = 128, 4, 0.05


def gate(rate, runs, level):
    low, high = binom.ppf([0.0005, 0.9995], runs, level) / runs
    return low <= rate <= high


def show(what, rate, runs):
    print(f"{what}: {rate:.4f} of {runs}")


@pytest.mark.parametrize(("level", "runs"), [(0.05, 4000), (0.0125, 4000), (0.0025, 4000)])
def test_the_control_test_holds_its_level(level, runs):
    """Heavy tails, and stopping whenever it likes: the rate is the level itself."""
    rng = np.random.default_rng(0)
    specific, drawn = 0, 0
    for _ in range(runs):
        test = ControlTest(rng.standard_t(2), level)
        while test.stop == "running":
            test.feed(rng.standard_t(2, 16))
        specific += test.stop == "specific"
        drawn += test.next_control
    show(f"control test, level {level}, {drawn / runs:.0f} controls", specific / runs, runs)
    assert gate(specific / runs, runs, 3 / (most_controls(level) + 1))


def test_any_reported_p_is_valid():
    runs, rng = 2000, np.random.default_rng(1)
    p = [
        ControlTest(row[0], LEVEL).feed(row[1:]).summary().p for row in rng.normal(size=(runs, 60))
    ]
    for bound in (0.05, 0.1, 0.2, 0.5):
        rate = (np.array(p) <= bound * (1 + 1e-9)).mean()
        show(f"control test, P(p <= {bound})", rate, runs)
        assert rate <= binom.ppf(0.9995, runs, bound) / runs


def test_ties_make_the_control_test_conservative():
    runs, rng = 1000, np.random.default_rng(2)
    values = rng.integers(0, 5, (runs, 61)).astype(float)
    stops = [ControlTest(row[0], LEVEL).feed(row[1:]).stop for row in values]
    assert stops.count("specific") <= binom.ppf(0.999, runs, LEVEL)


def test_a_special_claim_is_found_as_often_as_planned():
    runs, rng = 1000, np.random.default_rng(3)
    share = 0.02
    found = [
        ControlTest(1.0, LEVEL).feed((rng.random(60) < share) * 2.0).stop == "specific"
        for _ in range(runs)
    ]
    assert gate(np.mean(found), runs, control_power(share, LEVEL))


# --- subspaces -------------------------------------------------------------------------------
# Activations with a power-law spectrum, a linear readout w, and the share of the readout's variance
# that goes through a subspace with projector P as the effect: w P Sigma w / w Sigma w.


def site(steepness):
    axes = np.linalg.qr(np.random.default_rng(7).normal(size=(DIM, DIM)))[0]
    covariance = axes * np.arange(1, DIM + 1) ** -steepness @ axes.T
    return spectrum_of_covariance(covariance), covariance


def effects(frames, covariance, readouts):
    """Return the effect of every frame under every readout, "readout frame"."""
    seen = readouts @ covariance
    moved = [((readouts @ frame) * (seen @ frame)).sum(axis=1) for frame in frames]
    return np.array(moved).T / (seen * readouts).sum(axis=1)[:, None]


def rejection_rate(kind, claim, readouts, rng, steepness=1.0, pool=300):
    """Rate at which the claim is called special; every run has its own readout and controls."""
    spectrum, covariance = site(steepness)
    controls = SubspaceControls(
        claim(spectrum) * spectrum.scale[:, None], spectrum, kind, 0, "calibration"
    )
    drawn = [controls.draw(number) for number in range(pool)]
    standard = covariance / np.outer(spectrum.scale, spectrum.scale)
    own = effects([controls.observed.frame], standard, readouts)[:, 0]
    # The readout is linear, so an edit of another size has an effect of another size.
    theirs = effects([draw.frame for draw in drawn], standard, readouts)
    theirs = theirs * [draw.gain for draw in drawn]
    specific = 0
    for run in range(len(readouts)):
        test = ControlTest(controls.statistic(own[run], controls.observed), LEVEL)
        for number in rng.permutation(pool)[: most_controls(LEVEL)]:
            test.feed(controls.statistic(theirs[run, number], drawn[number]))
        specific += test.stop == "specific"
    return specific / len(readouts)


def leading(spectrum):
    return spectrum.axes[:, :RANK]


def middle(spectrum):
    return spectrum.axes[:, 8 : 8 + RANK]


def span_of_activations(spectrum):
    rng = np.random.default_rng(11)
    return spectrum.axes @ (
        np.sqrt(spectrum.variances)[:, None] * rng.normal(size=(len(spectrum.variances), RANK))
    )


@pytest.mark.parametrize("steepness", [1.0, 2.0])
@pytest.mark.parametrize("claim", [leading, middle, span_of_activations])
@pytest.mark.parametrize("kind", ["block", "haar"])
def test_a_subspace_chosen_blind_to_the_task(kind, claim, steepness):
    """Matched controls call it special rarely, uniform ones most of the time."""
    runs, rng = 800, np.random.default_rng(5)
    rate = rejection_rate(kind, claim, rng.normal(size=(runs, DIM)), rng, steepness)
    show(f"blind {claim.__name__}, spectrum 1/i^{steepness}, {kind}, level {LEVEL}", rate, runs)
    if kind == "block":
        assert rate <= 0.08
    if kind == "haar" and claim is leading:
        assert rate > 0.9


@pytest.mark.parametrize("kind", ["power", "haar_norm"])
@pytest.mark.parametrize("claim", [leading, span_of_activations])
def test_other_kinds_on_a_subspace_chosen_blind_to_the_task(kind, claim):
    runs, rng = 800, np.random.default_rng(5)
    rate = rejection_rate(kind, claim, rng.normal(size=(runs, DIM)), rng)
    show(f"blind {claim.__name__}, spectrum 1/i^1.0, {kind}, level {LEVEL}", rate, runs)
    assert rate <= 0.08 if kind == "power" else rate > 0.1


def test_a_subspace_that_holds_the_readout_is_found():
    runs, rng = 200, np.random.default_rng(6)
    readout = rng.normal(size=DIM)

    def claim(spectrum):
        return np.column_stack([readout, rng.normal(size=(DIM, RANK - 1))])

    rate = rejection_rate("block", claim, np.tile(readout, (runs, 1)), rng)
    show("claim that holds the readout, controls block", rate, runs)
    assert rate == 1


def test_block_ranks_are_exact_for_a_claim_of_unknown_orientation():
    """Claims drawn from the family itself: the group argument, checked end to end."""
    runs, rng = 1500, np.random.default_rng(8)
    spectrum, covariance = site(1.0)
    standard = covariance / np.outer(spectrum.scale, spectrum.scale)
    base = span_of_activations(spectrum) * spectrum.scale[:, None]
    controls = SubspaceControls(base, spectrum, "block", 0, "exactness")
    drawn = [controls.draw(number) for number in range(400)]
    values = effects([d.frame for d in drawn], standard, rng.normal(size=(runs, DIM)))
    specific = 0
    for run in range(runs):
        order = rng.permutation(400)[:60]
        test = ControlTest(values[run, order[0]], LEVEL).feed(values[run, order[1:]])
        specific += test.stop == "specific"
    show("claims drawn from the block family", specific / runs, runs)
    assert gate(specific / runs, runs, LEVEL)


@pytest.mark.parametrize(
    ("first", "steepness", "comparison"), [(20, 1.0, "effect"), (8, 2.0, "effect per variance")]
)
def test_either_comparison_alone_calls_blind_claims_special_too_often(first, steepness, comparison):
    """Why a block control has two ways to count: claims at an end of a block gain from one."""
    runs, pool, rng = 1000, 200, np.random.default_rng(9)
    variances = np.arange(1, DIM + 1) ** -steepness
    spectrum = spectrum_of_covariance(np.diag(variances), standardise=False)
    claim = np.eye(DIM)[:, first : first + RANK]
    controls = SubspaceControls(claim, spectrum, "block", 0, "ends of a block")
    drawn = [controls.draw(number) for number in range(pool)]
    frames = [controls.observed.frame, *(draw.frame for draw in drawn)]
    values = effects(frames, np.diag(variances), rng.normal(size=(runs, DIM)))
    own, theirs = values[:, 0], values[:, 1:]
    ratios = np.array([controls.observed.captured / draw.captured for draw in drawn])
    alone = theirs * (ratios if comparison == "effect per variance" else 1.0)
    both = np.array(
        [[controls.statistic(x, d) for x, d in zip(row, drawn, strict=True)] for row in theirs]
    )
    rates = []
    for ranked in (alone, both):
        stops = [
            ControlTest(own[run], LEVEL).feed(ranked[run, rng.permutation(pool)[:59]]).stop
            for run in range(runs)
        ]
        rates.append(stops.count("specific") / runs)
    show(f"blind claim at the end of a block, {comparison} alone", rates[0], runs)
    show("both comparisons", rates[1], runs)
    assert rates[0] > 0.1
    assert rates[1] < 0.08
