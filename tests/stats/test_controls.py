"""Controls over subspaces: what each kind preserves, and when a family is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mechtest.errors import (
    ControlsError,
    NonFiniteError,
    SampleError,
    UnattainableLevelError,
)
from mechtest.stats import (
    KINDS,
    ComponentControls,
    SubspaceControls,
    measure_spectrum,
    position_strata,
    spectrum_of_covariance,
)
from mechtest.stats.frames import haar_frame, mean_squared_cosine, orthonormal_frame

DIM, RANK = 24, 3


def activations(samples=200, dim=DIM, seed=0):
    rng = np.random.default_rng(seed)
    shape = np.arange(1, dim + 1) ** -0.5
    return rng.normal(0, 1, (samples, dim)) * shape @ haar_square(dim, rng) * 3 + 1


def haar_square(dim, rng):
    return np.linalg.qr(rng.normal(size=(dim, dim)))[0]


def family(kind="block", claim=None, spectrum=None, seed=0):
    spectrum = measure_spectrum(activations()) if spectrum is None else spectrum
    claim = np.random.default_rng(9).normal(size=(DIM, RANK)) if claim is None else claim
    return SubspaceControls(claim, spectrum, kind, seed, "c")


# --- spectra ---------------------------------------------------------------------------------


def test_axes_are_those_of_the_correlation_matrix():
    values = activations()
    found = measure_spectrum(values)
    expected = np.linalg.eigvalsh(np.corrcoef(values.T))[::-1]
    np.testing.assert_allclose(found.variances, expected, rtol=1e-9)
    np.testing.assert_allclose(found.scale, values.std(axis=0))
    np.testing.assert_allclose(found.axes.T @ found.axes, np.eye(DIM), atol=1e-9)
    again = spectrum_of_covariance(np.cov(values.T, bias=True))
    np.testing.assert_allclose(again.variances, found.variances, rtol=1e-9)
    np.testing.assert_allclose(again.scale, found.scale)
    raw = measure_spectrum(values, standardise=False)
    np.testing.assert_allclose(raw.variances.sum(), values.var(axis=0).sum())


def test_fewer_samples_than_dimensions_give_fewer_axes():
    found = measure_spectrum(activations(samples=10))
    assert found.axes.shape == (DIM, 9)
    assert found.captured(np.eye(DIM)[:, :5]) <= 1


def test_blocks_span_a_factor_of_at_most_two_and_a_half():
    spectrum = spectrum_of_covariance(np.diag([10, 5, 4, 3.9, 1, 0.5, 0.41]), standardise=False)
    assert [(block.start, block.stop) for block in spectrum.blocks] == [(0, 3), (3, 4), (4, 7)]


def test_the_edit_moves_a_point_inside_the_claimed_directions_only():
    spectrum = measure_spectrum(activations() * np.linspace(0.1, 50, DIM))
    claim = np.random.default_rng(0).normal(size=(DIM, RANK))
    own = family(claim=claim, spectrum=spectrum).observed
    change = own.basis @ own.dual.T @ np.random.default_rng(1).normal(size=DIM)
    coefficients = np.linalg.lstsq(claim, change, rcond=None)[0]
    np.testing.assert_allclose(claim @ coefficients, change, atol=1e-9)
    # A projection: what is inside arrives whole.
    np.testing.assert_allclose(own.basis @ own.dual.T @ claim, claim, atol=1e-9)


def test_a_dimension_that_never_varies_is_left_alone():
    values = activations()
    values[:, 4] = 7.0
    found = measure_spectrum(values)
    assert found.scale[4] == np.delete(found.scale, 4).min()
    assert np.abs(found.axes[4]).max() < 1e-12


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.ones((1, 4)), SampleError, r"at least two samples(.|\n)*\(1, 4\)"),
        (np.ones(4), SampleError, "samples by dimensions"),
        (np.ones((5, 4)), SampleError, "do not vary"),
        (np.array([[1.0, 2], [np.nan, 1], [0, 0]]), NonFiniteError, r"1 of 3(.|\n)*sample 1"),
    ],
)
def test_unusable_activations_are_refused(values, error, message):
    with pytest.raises(error, match=message):
        measure_spectrum(values)


def test_unusable_covariances_are_refused():
    for covariance, message in [
        (np.ones((2, 3)), "is square"),
        (np.zeros((2, 2)), "is zero"),
        (np.array([[1.0, 5], [5, 1]]), "no negative eigenvalues"),
    ]:
        with pytest.raises(SampleError, match=message):
            spectrum_of_covariance(covariance)


# --- what every kind keeps -------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("samples", [200, 12])
def test_controls_are_frames_of_the_same_rank_and_depend_on_their_number_only(kind, samples):
    controls = family(kind, spectrum=measure_spectrum(activations(samples)))
    forward = [controls.draw(k) for k in range(4)]
    np.testing.assert_allclose(forward[2].frame.T @ forward[2].frame, np.eye(RANK), atol=1e-9)
    np.testing.assert_array_equal(controls.draw(2).frame, forward[2].frame)
    assert not np.allclose(forward[1].frame, forward[2].frame)
    assert not np.allclose(family(kind, seed=1).draw(2).frame, forward[2].frame)
    assert (forward[2].number, forward[2].rank, controls.observed.number) == (2, RANK, -1)
    assert controls.observed.overlap == pytest.approx(1)
    assert all(0 <= draw.captured <= 1 for draw in forward)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from([200, 12]))
def test_block_keeps_the_share_of_the_frame_in_every_block(number, samples):
    spectrum = measure_spectrum(activations(samples))
    controls = family(spectrum=spectrum)
    own, drawn = controls.observed.frame, controls.draw(number).frame
    for block in spectrum.blocks:
        axes = spectrum.axes[:, block]
        np.testing.assert_allclose(
            np.linalg.svd(axes.T @ drawn, compute_uv=False),
            np.linalg.svd(axes.T @ own, compute_uv=False),
            atol=1e-9,
        )


def test_block_turns_directions_uniformly_within_a_block():
    """Three equal variances: a claimed axis goes everywhere on the sphere, and nowhere else."""
    spectrum = spectrum_of_covariance(np.diag([9, 9, 9, 1, 1.0]), standardise=False)
    controls = family(claim=np.eye(5)[:, 0], spectrum=spectrum)
    drawn = np.array([controls.draw(k).frame[:, 0] for k in range(600)])
    assert np.abs(drawn[:, 3:]).max() < 1e-12
    np.testing.assert_allclose((drawn[:, :3] ** 2).mean(axis=0), 1 / 3, atol=0.05)
    np.testing.assert_allclose((drawn[:, :3] ** 4).mean(axis=0), 1 / 5, atol=0.05)


def test_block_draws_do_not_depend_on_which_axes_a_block_happened_to_get():
    """Equal variances have arbitrary axes: rounding must not draw other controls."""
    claim = np.random.default_rng(3).normal(size=(6, 2))
    plain = spectrum_of_covariance(np.diag([4, 4, 4, 1, 1, 1.0]), standardise=False)
    turn = np.zeros((6, 6))
    turn[:3, :3] = haar_square(3, np.random.default_rng(4))
    turn[3:, 3:] = -haar_square(3, np.random.default_rng(5))
    turned = type(plain)(plain.scale, plain.variances, turn, 0)
    one, other = (family(claim=claim, spectrum=spectrum).draw(0) for spectrum in (plain, turned))
    np.testing.assert_allclose(one.frame, other.frame, atol=1e-9)


def test_sign_keeps_the_covariance_inside_the_subspace():
    spectrum = measure_spectrum(activations())
    controls = family("sign", spectrum=spectrum)
    covariance = spectrum.axes * spectrum.variances @ spectrum.axes.T
    own, drawn = controls.observed.frame, controls.draw(5).frame
    np.testing.assert_allclose(
        np.linalg.eigvalsh(drawn.T @ covariance @ drawn),
        np.linalg.eigvalsh(own.T @ covariance @ own),
    )
    assert controls.draw(5).overlap < 0.9


@pytest.mark.parametrize("columns", [range(4), range(10, 14), range(20, 24)])
@pytest.mark.parametrize("samples", [200, 12])
def test_power_captures_what_the_claim_captures(columns, samples):
    spectrum = measure_spectrum(activations(samples))
    axes = measure_spectrum(activations()).axes[:, list(columns)]
    tilted = axes + 0.3 * np.random.default_rng(0).normal(size=axes.shape) / np.sqrt(DIM)
    controls = family("power", claim=tilted * spectrum.scale[:, None], spectrum=spectrum)
    for number in range(5):
        assert controls.draw(number).captured == pytest.approx(controls.observed.captured, rel=0.1)


def test_haar_is_uniform_and_haar_norm_matches_the_size_of_the_edit():
    controls = family("haar_norm")
    overlaps = [controls.draw(k).overlap for k in range(200)]
    assert np.mean(overlaps) == pytest.approx(RANK / DIM, abs=0.02)
    drawn = controls.draw(0)
    assert drawn.gain**2 * drawn.captured == pytest.approx(controls.observed.captured)
    assert family("haar").draw(0).gain == 1
    assert {kind for kind in KINDS if KINDS[kind].weak} == {"haar", "haar_norm"}


def test_a_block_control_gets_the_better_of_two_comparisons():
    """Its effect, and its effect if it captured as much variance as the claim."""
    controls = family()
    draws = [controls.draw(k) for k in range(20)]
    ratios = [controls.observed.captured / draw.captured for draw in draws]
    assert min(ratios) < 1 < max(ratios)
    for draw, ratio in zip(draws, ratios, strict=True):
        assert controls.statistic(0.6, draw) == pytest.approx(0.6 * max(1, ratio))
        assert controls.statistic(-0.6, draw) == pytest.approx(-0.6 * min(1, ratio))
        assert family("sign").statistic(0.6, draw) == 0.6
    assert controls.statistic(0.6, controls.observed) == 0.6


# --- families that are refused ---------------------------------------------------------------


def test_a_claim_of_whole_blocks_has_no_controls_of_kind_block():
    spectrum = spectrum_of_covariance(np.diag([100, 30, 8, 2, 2, 2, 1.0]), standardise=False)
    with pytest.raises(ControlsError, match=r"identical to the claim(.|\n)*40 of 40(.|\n)*rank 2"):
        family(claim=np.eye(7)[:, :2], spectrum=spectrum)
    family("haar", claim=np.eye(7)[:, :2], spectrum=spectrum)


def test_a_claim_of_principal_axes_has_no_controls_of_kind_sign():
    spectrum = measure_spectrum(activations())
    claim = spectrum.axes[:, 3:6] * spectrum.scale[:, None]
    with pytest.raises(ControlsError, match=r"identical(.|\n)*kind 'sign'"):
        family("sign", claim=claim, spectrum=spectrum)
    family("block", claim=claim, spectrum=spectrum)


def test_the_whole_site_is_no_subspace():
    with pytest.raises(ControlsError, match=r"is the whole site(.|\n)*rank 24 of 24"):
        family(claim=np.eye(DIM))


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (np.ones((DIM, 2)), r"rank-deficient(.|\n)*2 columns of rank 1(.|\n)*claim 1 dimensions"),
        (np.zeros((DIM, 1)), r"columns of rank 0(.|\n)*not zero"),
        (np.ones((DIM, DIM + 1)), "rank-deficient"),
        (np.ones((DIM + 1, 2)), r"do not belong to this site(.|\n)*\(24, rank\)"),
        (np.ones((DIM, 0)), "one column a direction"),
    ],
)
def test_frames_that_span_less_than_they_say_are_refused(claim, message):
    with pytest.raises(SampleError, match=message):
        family(claim=claim)


def test_frames_are_orthonormalised_without_changing_their_span():
    columns = np.random.default_rng(0).normal(size=(DIM, 3)) * [1, 1e4, 1e-4]
    frame = orthonormal_frame(columns, DIM)
    np.testing.assert_allclose(frame.T @ frame, np.eye(3), atol=1e-9)
    assert mean_squared_cosine(frame, np.linalg.qr(columns)[0]) == pytest.approx(1)
    with pytest.raises(NonFiniteError, match="coordinate 0"):
        orthonormal_frame(columns * np.nan, DIM)


def test_a_subspace_without_variance_can_carry_nothing():
    values = activations()
    values[:, 4] = 7.0
    with pytest.raises(ControlsError, match="do not vary inside the claimed subspace"):
        family(claim=np.eye(DIM)[:, 4], spectrum=measure_spectrum(values))


def test_an_unknown_kind_is_refused_with_the_nearest():
    with pytest.raises(SampleError, match=r"closest +block"):
        family("blocks")


# --- components and positions ----------------------------------------------------------------

STRATA = {f"blocks.{layer}.{i}": layer for layer in range(3) for i in range(6)}


def test_component_controls_keep_the_count_in_every_stratum():
    claim = ("blocks.0.1", "blocks.0.2", "blocks.2.5")
    controls = ComponentControls(claim, STRATA, 0, "c")
    assert controls.family_size == 15 * 6
    drawn = [controls.draw(k) for k in range(400)]
    for draw in drawn:
        layers = [STRATA[name] for name in draw.members]
        assert (len(set(draw.members)), layers.count(0), layers.count(2)) == (3, 2, 1)
        assert draw.identical is (set(draw.members) == set(claim))
    assert controls.draw(7) == drawn[7]
    share = np.mean([draw.identical for draw in drawn])
    assert share == pytest.approx(1 / 90, abs=0.02)
    assert len({draw.members for draw in drawn}) > 80


def test_a_family_smaller_than_the_level_is_refused():
    controls = ComponentControls(("blocks.0.1", "blocks.0.2"), STRATA, 0, "c")
    controls.require_level(1 / 15)
    with pytest.raises(UnattainableLevelError, match=r"15 sets(.|\n)*at least 20 sets"):
        controls.require_level(0.05)


@pytest.mark.parametrize(
    ("claim", "error", "message"),
    [
        ((), SampleError, "names its components"),
        ("blocks.0.1", SampleError, "names its components"),
        (("blocks.0.1", "blocks.0.1"), SampleError, "claimed twice"),
        (("blocks.0.9",), SampleError, r"in no stratum(.|\n)*closest +blocks\.0\."),
        (
            tuple(f"blocks.1.{i}" for i in range(6)),
            ControlsError,
            r"everything in its strata(.|\n)*6 in 1",
        ),
    ],
)
def test_unusable_sets_of_components_are_refused(claim, error, message):
    with pytest.raises(error, match=message):
        ComponentControls(claim, STRATA, 0, "c")


def test_positions_are_compared_with_others_of_their_class_and_distance():
    classes = ["bos", "name", "verb", "name", "name", "verb", "name", "name"]
    strata = position_strata(classes, width=4, first=1)
    assert strata["7"] == strata["6"] == strata["4"] == ("name", 0)
    assert strata["1"] == strata["3"] == ("name", 1)
    assert "0" not in strata
    controls = ComponentControls(("7",), strata, 0, "c")
    assert {controls.draw(k).members for k in range(50)} == {("4",), ("6",), ("7",)}
    with pytest.raises(SampleError, match="width 0"):
        position_strata(classes, width=0)


def test_haar_frames_have_no_preferred_sign():
    first = [haar_frame(3, 1, np.random.default_rng(k))[0, 0] for k in range(400)]
    assert np.mean(np.array(first) > 0) == pytest.approx(0.5, abs=0.1)
