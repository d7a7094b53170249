"""What comes back says how far it can be trusted, is kept, drawn, and made into a circuit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mechtest.assertions import check_necessary
from mechtest.discovery.attribution import attribution_patching, edge_attribution
from mechtest.discovery.attribution.agreement import compare, sample_of_places, true_effects
from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import (
    ClaimInvalid,
    DiscoveryError,
    MetricError,
    PositionError,
    ShapeError,
    SiteNotServedError,
    UnknownSiteError,
)
from mechtest.interventions import Circuit, ResampleAblation, sweep
from tests.assertions.zoo import facts, prompts, prose
from tests.compiled.builds import built

POSITIONS = ["subject_first", "subject_last", "last"]


@pytest.fixture(scope="module")
def states():
    return attribution_patching(prose(), prompts(), "blocks.*.state", positions=POSITIONS)


@pytest.fixture(scope="module")
def channels():
    site = "blocks.*.hook_ssm_output"
    return attribution_patching(prose(), prompts(), site, positions="last", channels="each")


@pytest.fixture(scope="module")
def edges():
    return edge_attribution(prose(), prompts(), positions=["subject_last", "last"])


# --- beside the truth ----------------------------------------------------------------------------


def test_true_effects_are_those_of_a_sweep(states):
    swept = sweep(prose(), "blocks.*.state", prompts(), positions=POSITIONS)
    true = {
        site: value
        for names, row in zip(swept.sites, swept.mean(), strict=True)
        for site, value in zip(names, row, strict=True)
    }
    assert len(states.agreement.places) == 6
    for place, value in zip(states.agreement.places, states.agreement.true_means, strict=True):
        assert value == pytest.approx(true[place], abs=1e-5)
    mean = states.map.mean()
    told = dict(zip(states.agreement.places, states.agreement.attributed_means, strict=True))
    assert told["blocks.1.state@last"] == pytest.approx(mean[1, 2])


def test_the_correlation_is_high_where_the_order_is_right_and_the_size_is_not(states):
    """Saturation: in the clean run the metric has gone flat, and half of the effect is seen."""
    assert states.agreement.rank_correlation > 0.8
    place, error = states.agreement.largest_error
    assert place.startswith("blocks.1.state")
    assert error < -0.3
    low, high = states.agreement.rank_interval
    assert -1 <= low <= states.agreement.rank_correlation <= high <= 1


def test_the_strongest_places_are_patched_whatever_the_sample(states):
    assert states.strongest.places == tuple(place.site for place in states.top(5))
    assert "truly 0.9" in states.lines()[0]


def test_what_two_stores_do_together_no_slope_of_one_says():
    """An OR: either store may go, both may not; to restore one is to restore all."""
    compiled = built("redundancy")
    asked = {"positions": "last", "sample": 3}
    stores = "blocks.*.state"
    lost = attribution_patching(compiled.model, compiled.prompts, stores, **asked)
    assert lost.map.mean() == pytest.approx(0, abs=2e-3)
    assert lost.agreement.true_means == pytest.approx(0, abs=2e-3)
    assert lost.agreement.rank_correlation is None
    assert "do not differ" in lost.agreement.reason
    runner = looking_runner(compiled.model, compiled.prompts)
    both = [Circuit("blocks.0.state@last"), Circuit("blocks.1.state@last")]
    variant = runner.variant(both, ResampleAblation())
    together = true_effects(runner, behaviour_of(runner), [variant])
    assert together.mean() == pytest.approx(1, abs=2e-3)
    back = attribution_patching(compiled.model, compiled.prompts, stores, base="corrupted", **asked)
    assert back.map.mean()[:, 0] == pytest.approx([0.5, 0.5, 0], abs=2e-3)
    assert back.agreement.true_means == pytest.approx([1, 1, 0], abs=2e-3)
    assert back.agreement.largest_error[1] == pytest.approx(-0.5, abs=2e-3)


def test_an_integral_that_misleads_says_so():
    """Slopes on the way see both stores of an OR work, though each alone does nothing."""
    compiled = built("redundancy")
    found = edge_attribution(compiled.model, compiled.prompts, method="eap-ig", sample=60)
    assert found.agreement.rank_correlation < 0.7
    assert "the order is not to be trusted here" in "\n".join(found.lines())
    assert found.agreement.largest_error[1] > 0.5


def test_of_a_straight_path_the_edges_are_the_truth():
    compiled = built("token_shift")
    found = edge_attribution(compiled.model, compiled.prompts, method="eap-ig", sample=60)
    strongest = [(edge.writer, edge.reader) for edge in found.edges(4)]
    assert set(strongest) == {
        ("embed", "0.conv"),
        ("0.direct", "logits"),
        ("embed", "1.conv"),
        ("1.direct", "logits"),
    }
    assert found.agreement.rank_correlation > 0.95
    assert found.agreement.largest_error[1] == pytest.approx(0, abs=2e-3)
    assert np.nanargmax(found.taps.mean()[0]) == 2  # "red so unbox": two tokens before
    assert (found.out_of_embedding, found.into_logits) == pytest.approx((1, 1), abs=2e-3)


# --- cost ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("sites", ["blocks.*.hook_y", ["blocks.*.hook_*_proj", "blocks.*.state"]])
def test_two_passes_forward_and_one_back_whatever_the_number_of_sites(sites):
    tokens = prompts().discovery.encode(prose().tokenizer).clean_tokens.numel()
    cost = attribution_patching(prose(), prompts(), sites, positions="last", sample=3).cost
    assert (cost.forward_passes, cost.backward_passes) == (2, 1)
    assert cost.forward_tokens == 2 * tokens
    assert cost.true_effect_tokens > 0


def test_an_integral_costs_a_pass_there_and_back_a_step(edges):
    assert (edges.cost.forward_passes, edges.cost.backward_passes) == (2, 1)
    found = edge_attribution(prose(), prompts(), method="eap-ig", steps=3, sample=3)
    assert found.cost.backward_passes == 3
    assert found.cost.forward_passes == 3 + 3
    assert "3 back" in found.lines()[-1]


# --- what is made of it --------------------------------------------------------------------------


def test_scores_are_sizes_by_site(states, channels, edges):
    scores = states.scores()
    assert list(scores)[-1] == "blocks.1.state@last"
    assert max(scores, key=scores.get) == states.top(1)[0].site
    assert min(scores.values()) >= 0
    single = channels.scores()
    assert len(single) == 2 * 128
    strongest = channels.top(1)[0]
    assert single[f"{strongest.site}#{strongest.column}"] == max(single.values())
    ends = edges.scores()
    assert max(ends, key=ends.get) == "blocks.1.hook_out_proj@last"
    assert not any("embed" in site or "resid" in site for site in ends)


def test_scores_of_a_group_are_those_of_its_channels():
    asked = {"positions": "last", "channels": 50, "sample": 3}
    found = attribution_patching(prose(), prompts(), "blocks.1.hook_y", **asked)
    scores = found.scores()
    assert len(scores) == 128
    values = np.abs(found.map.mean()[0])
    assert scores["blocks.1.hook_y@last#0"] == scores["blocks.1.hook_y@last#49"] == values[0]
    assert scores["blocks.1.hook_y@last#127"] == values[2]


def test_a_circuit_that_was_found_can_be_claimed_on_the_other_half(states):
    circuit = states.circuit(1, name="found by slope")
    assert [str(site) for site in circuit.sites] == [states.top(1)[0].site]
    assert circuit.fitted_on == states.about.fitted_on
    record = check_necessary(prose(), circuit, prompts(), threshold=0.5, **facts())
    assert record.verdict == "supported"


def test_circuits_of_channels_and_of_edges(channels, edges):
    found = channels.circuit(4)
    assert str(found.sites[0]) == "blocks.1.hook_ssm_output@last"
    best = [int(place.column) for place in channels.top(4)]
    assert found.channels == tuple(sorted(best))
    other = channels.circuit(2, site="blocks.0.hook_ssm_output@last")
    assert len(other.channels) == 2
    assert [str(site) for site in edges.circuit(1).sites] == ["blocks.1.hook_out_proj@last"]
    sites = [str(site) for site in edges.circuit(2).sites]
    assert sites == [
        "blocks.1.hook_out_proj@last",
        "blocks.0.hook_out_proj@subject_last",
        "blocks.1.hook_in_proj@subject_last",
    ]


@pytest.mark.parametrize("count", [0, -1, 10**6, True])
def test_circuits_of_more_than_there_is(states, edges, count):
    for found in (states, edges):
        with pytest.raises(ShapeError):
            found.circuit(count)


# --- kept and drawn ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["states", "channels", "edges"])
def test_records_come_back_bit_by_bit(name, request, tmp_path):
    found = request.getfixturevalue(name)
    back = DiscoveryRecord.load(found.save(tmp_path / "found.json"))
    assert back == found
    assert back.map.values.tobytes() == found.map.values.tobytes()
    assert back.agreement.true.tobytes() == found.agreement.true.tobytes()
    assert (back.scores(), back.lines()) == (found.scores(), found.lines())


@pytest.mark.parametrize("name", ["states", "edges"])
def test_pictures_show_the_map_and_the_truth(name, request, tmp_path):
    found = request.getfixturevalue(name)
    figure = found.plot(tmp_path / "found.svg")
    assert (tmp_path / "found.svg").read_text().startswith("<?xml")
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert any("Spearman" in title for title in titles)


def test_the_same_seed_gives_the_same_record(states):
    again = attribution_patching(prose(), prompts(), "blocks.*.state", positions=POSITIONS)
    assert again == states


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [0, 2, None, False])
def test_the_comparison_cannot_be_switched_off(sample):
    for tool in (attribution_patching, edge_attribution):
        with pytest.raises(ShapeError, match="always compared with true patching"):
            tool(prose(), prompts(), sample=sample)


def test_prompts_kept_for_testing_are_refused():
    for tool in (attribution_patching, edge_attribution):
        with pytest.raises(ClaimInvalid, match="discovery half"):
            tool(prose(), prompts().split()[1])


def test_a_metric_without_a_slope_is_refused():
    for tool in (attribution_patching, edge_attribution):
        with pytest.raises(MetricError, match="accuracy has no slope"):
            tool(prose(), prompts(), metric="accuracy")
        with pytest.raises(MetricError, match="reference"):
            tool(prose(), prompts(), metric="kl_divergence")


def test_places_that_cannot_be_attributed():
    asked = {"sample": 3, "progress": False}
    with pytest.raises(SiteNotServedError, match="the same in the clean and the corrupted run"):
        attribution_patching(prose(), prompts(), "blocks.0.hook_A", **asked)
    with pytest.raises(ShapeError, match="at one position"):
        attribution_patching(
            prose(), prompts(), "blocks.*.state", positions="subject_last:", **asked
        )
    with pytest.raises(UnknownSiteError):
        attribution_patching(prose(), prompts(), "blocks.7.hook_y", **asked)
    with pytest.raises(PositionError):
        edge_attribution(prose(), prompts(), positions="object", **asked)
    with pytest.raises(ShapeError, match="one position"):
        edge_attribution(prose(), prompts(), positions=[], **asked)


@pytest.mark.parametrize("asked", [{"method": "acdc"}, {"steps": 0}, {"steps": 2.5}])
def test_methods_that_do_not_exist(asked):
    with pytest.raises(DiscoveryError, match="one of two methods"):
        edge_attribution(prose(), prompts(), **asked)


def test_where_nothing_can_change_there_is_a_reason_and_no_zero():
    found = attribution_patching(prose(), prompts(), positions=0, sample=3)
    assert np.isnan(found.map.values).all()
    assert set(found.map.reasons.values()) == {"the activations of both runs are the same here"}
    assert found.agreement.places == ()
    assert "no comparison" in found.lines()[1]


# --- the comparison itself -----------------------------------------------------------------------


def test_perfect_agreement_and_its_opposite():
    values = np.arange(5.0)[:, None] + np.array([0.0, 0.1, 0.3, 0.2])
    templates = ["a", "a", "b", "c"]
    same = compare("abcde", values, values, templates, 0)
    assert (same.rank_correlation, same.linear_correlation) == pytest.approx((1, 1))
    assert same.rank_interval == pytest.approx((1, 1))
    assert same.templates == ("a", "b", "c")
    assert same.true[0] == pytest.approx([0.05, 0.3, 0.2])
    turned = compare("abcde", -values, values, templates, 0)
    assert turned.rank_correlation == pytest.approx(-1)


@settings(max_examples=20, database=None, deadline=None, derandomize=True)
@given(
    pairs=st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=3, max_size=12),
)
def test_correlations_are_the_textbook_ones(pairs):
    left, right = np.array(pairs, dtype=float).T
    found = compare(
        [str(i) for i in range(len(left))], left[:, None], right[:, None], ["a"], seed=0
    )
    if np.ptp(left) == 0 or np.ptp(right) == 0:
        assert found.rank_correlation is None
        return
    expected = stats.spearmanr(left, right).statistic, stats.pearsonr(left, right).statistic
    got = found.rank_correlation, found.linear_correlation
    assert got == pytest.approx(expected, abs=1e-9)


def test_too_little_to_compare_has_a_reason():
    values = np.arange(9.0).reshape(3, 3)
    one = compare("abc", values, values, ["a"] * 3, 0)
    assert one.rank_interval == ()
    assert "one template" in one.reason
    two = compare("ab", np.eye(2), np.eye(2), ["a", "b"], 0)
    assert two.rank_correlation is None
    assert "fewer than 3 places" in two.reason
    flat = compare("abc", np.zeros((3, 2)), np.eye(3)[:, :2], ["a", "b"], 0)
    assert flat.linear_correlation is None


def test_a_sample_takes_from_every_stratum():
    strata = [[(row, column) for column in range(9)] for row in range(4)]
    places = sample_of_places(strata, 10, seed=0)
    rows = [row for row, _ in places]
    assert {rows.count(row) for row in range(4)} <= {2, 3}
    assert places == sorted(set(places)) == sample_of_places(strata, 10, seed=0)
    assert places != sample_of_places(strata, 10, seed=1)
    assert len(sample_of_places(strata, 100, seed=0)) == 36
