"""A circuit may have other channels at every site, and is carried out, kept and controlled so."""

import pytest
import torch

from mechtest.assertions.control_sets import channel_sets
from mechtest.assertions.minimality import parts_of
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, ResampleAblation, Runner
from mechtest.interventions.complement import complement_of
from tests.assertions.zoo import prompts, prose

ONE, OTHER = "blocks.0.state@last", "blocks.1.state@last"
CHANNELS = {ONE: [5, 2], OTHER: [7, 2, 9]}


@pytest.fixture(scope="module")
def runner():
    return Runner(prose(), prompts("ioi").discovery.encode(prose().tokenizer)[:6])


def test_each_site_has_its_own_channels_and_asking_for_one_set_is_refused():
    circuit = Circuit(ONE, OTHER, channels=CHANNELS)
    assert circuit.by_site == ((2, 5), (2, 7, 9))
    assert circuit.channel_total == 5
    assert "5 channels" in repr(circuit)
    assert [(str(one.sites[0]), one.channels) for one in circuit.pieces] == [
        (ONE, (2, 5)),
        (OTHER, (2, 7, 9)),
    ]
    with pytest.raises(ShapeError, match="different channels"):
        _ = circuit.channels


def test_equal_channels_by_site_are_the_circuit_with_these_channels():
    circuit = Circuit(ONE, OTHER, channels={ONE: [2, 1], OTHER: [1, 2]})
    assert circuit.channels == (1, 2)
    assert circuit.pieces == (circuit,)
    assert circuit.channel_key == Circuit(ONE, OTHER, channels=[1, 2]).channel_key


@pytest.mark.parametrize(
    ("channels", "why"),
    [
        ({ONE: [1]}, "blocks.1.state@last"),
        ({ONE: [1], OTHER: [2], "blocks.1.hook_h@last": [3]}, "hook_h"),
        ({ONE: [], OTHER: [2]}, "no channel of blocks.0"),
    ],
)
def test_channels_of_other_sites_are_refused(channels, why):
    with pytest.raises(ShapeError, match=why):
        Circuit(ONE, OTHER, channels=channels)


@pytest.mark.parametrize("engine", ["packed", "hooked"])
def test_it_is_what_its_sites_are_together(runner, engine):
    runner = Runner(prose(), runner.pairs, engine=engine)
    parts = [Circuit(site, channels=channels) for site, channels in CHANNELS.items()]
    whole = Circuit(ONE, OTHER, channels=CHANNELS)
    for one, other in (
        ([whole], parts),
        ([Circuit(ONE, OTHER, channels={ONE: None, OTHER: [3]})],
         [Circuit(ONE), Circuit(OTHER, channels=[3])]),
    ):  # fmt: skip
        found, expected = (runner.logits_after([edit], ResampleAblation()) for edit in (one, other))
        assert torch.equal(found, expected)
    assert not torch.equal(found[0], runner.logits("clean"))


def test_other_channels_at_two_positions_of_one_hook(runner):
    sites = {"blocks.0.hook_out_proj@last": [1, 2], "blocks.0.hook_out_proj@S2": [3]}
    parts = [Circuit(site, channels=channels) for site, channels in sites.items()]
    found, expected = (
        runner.logits_after([edit], ResampleAblation())
        for edit in ([Circuit(*sites, channels=sites)], parts)
    )
    assert torch.equal(found, expected)


def test_what_is_left_is_all_other_channels_of_each_site():
    circuit = Circuit(ONE, OTHER, channels=CHANNELS)
    rest = {str(one.sites[0]): one.channels for one in complement_of(circuit, [circuit], prose())}
    assert set(rest) == {ONE, OTHER}
    for site, channels in CHANNELS.items():
        assert set(rest[site]) == set(range(128)) - set(channels)


def test_controls_are_as_many_channels_of_the_same_kind_at_the_same_position():
    sites = {ONE: [1, 2], OTHER: [3], "blocks.1.hook_out_proj@last": [4, 5, 6, 7]}
    sets = channel_sets(prose(), Circuit(*sites, channels=sites), 0, 0.2)
    for number in range(3):
        counts = {}
        for one in sets.draw(number).circuits:
            kind = one.sites[0].hook
            counts[kind] = counts.get(kind, 0) + len(one.channels)
        assert counts == {"state": 3, "hook_out_proj": 4}


def test_its_parts_are_its_sites_with_their_channels():
    circuit = Circuit(ONE, OTHER, channels={ONE: [1], OTHER: None})
    parts = parts_of(prose(), circuit, None)
    assert [one.channels for one in parts.pieces] == [(1,), None]
    whole, channels = parts.subset({0, 1})
    assert (str(whole.sites[0]), str(channels.sites[0])) == (OTHER, ONE)


def test_a_claim_about_it_is_tested_like_any_other():
    from mechtest.assertions import check_sufficient

    circuit = Circuit(ONE, OTHER, channels={ONE: range(120), OTHER: [3]})
    options = {"level": 0.2, "threshold": 0.3}
    kept = check_sufficient(prose(), circuit, prompts("ioi"), mode="keep", **options)
    assert kept.verdict == "supported"
