"""Nodes are named as claims name places, and share no activation."""

import pytest

from mechtest.discovery.circuits.measuring import bench_of
from mechtest.discovery.circuits.nodes import (
    Node,
    circuit_of,
    circuits_of,
    node_named,
    nodes_of,
    rest_of_universe,
    scores_of,
)
from mechtest.discovery.subspaces import find_difference_subspace
from mechtest.errors import ClaimInvalid, DiscoveryError, ShapeError, UnknownSiteError
from mechtest.interventions import Circuit
from tests.assertions.zoo import prompts, prose
from tests.discovery.circuits.compiled_circuits import model_and_prompts


def names(nodes):
    return [node.name for node in nodes]


def test_names_circuits_and_patterns_become_nodes():
    model = prose()
    assert names(nodes_of(model, "blocks.*.state@last")) == [
        "blocks.0.state@last",
        "blocks.1.state@last",
    ]
    several = ["blocks.-1.state@last#5,3", Circuit("blocks.0.hook_out_proj@last", channels=[1])]
    found = nodes_of(model, several)
    assert names(found) == ["blocks.1.state@last#3,5", "blocks.0.hook_out_proj@last#1"]
    assert tuple(node_named(name) for name in names(found)) == found


def test_all_channels_are_the_whole_site():
    (node,) = nodes_of(prose(), [Circuit("blocks.0.state@last", channels=range(128))])
    assert node == Node("blocks.0.state@last")


@pytest.mark.parametrize(
    ("named", "error", "why"),
    [
        ([], DiscoveryError, "no node"),
        (["blocks.0.state@last", "blocks.-2.state@last"], DiscoveryError, "twice"),
        (["blocks.0.state@last#128"], ShapeError, "no channel 128"),
        (["blocks.0.state@last#a"], ShapeError, "channels"),
        (["blocks.7.state@last"], UnknownSiteError, "blocks.7"),
    ],
)
def test_what_is_no_node_is_said(named, error, why):
    with pytest.raises(error, match=why):
        nodes_of(prose(), named)


def test_directions_are_no_node():
    circuit = find_difference_subspace(prose(), "blocks.1.hook_h@last", prompts().discovery, rank=1)
    with pytest.raises(DiscoveryError, match="directions"):
        nodes_of(prose(), [circuit])


def test_a_ranking_is_read_from_names_in_order_too():
    scores = scores_of(prose(), ["blocks.1.state@last", "blocks.0.state@last"])
    assert sorted(scores, key=scores.get)[-1].name == "blocks.1.state@last"
    with pytest.raises(DiscoveryError, match="finite"):
        scores_of(prose(), {"blocks.1.state@last": float("nan")})
    with pytest.raises(DiscoveryError, match="on its own"):
        scores_of(prose(), {"blocks.*.state@last": 1.0})


def test_channels_of_one_site_are_edited_together():
    nodes = nodes_of(prose(), ["blocks.0.state@last#3", "blocks.0.state@last#1"])
    (circuit,) = circuits_of(nodes)
    assert circuit.channels == (1, 3)
    assert circuit_of(nodes, name="both").channels == (1, 3)
    with pytest.raises(DiscoveryError, match="no node is left"):
        circuit_of([])


def test_the_rest_is_every_layer_of_the_same_kind():
    (node,) = nodes_of(prose(), "blocks.0.state@last")
    assert names(rest_of_universe(prose(), [node])) == ["blocks.1.state@last"]
    (channel,) = nodes_of(prose(), "blocks.0.state@last#7")
    rest = rest_of_universe(prose(), [channel])
    assert len(rest) == 2 * 128 - 1
    assert channel not in rest
    (residual,) = nodes_of(prose(), "blocks.0.hook_resid_pre@last")
    with pytest.raises(ClaimInvalid, match="everything else"):
        rest_of_universe(prose(), [residual])


@pytest.mark.parametrize(
    "named",
    [
        ["blocks.0.state@last", "blocks.0.state@tail:"],  # a range that holds the last token
        ["blocks.0.state@last", "blocks.0.hook_h@last"],  # a part of the state
        ["blocks.0.state@last#3", "blocks.0.state@-1#3"],  # one place, two names
        ["blocks.0.state@last", "blocks.0.state@last#3"],
    ],
)
def test_nodes_that_share_an_activation_are_refused(named):
    model, pairs = model_and_prompts("marked_slots", 0.75)
    with pytest.raises(DiscoveryError, match="share activations"):
        bench_of(model, pairs, nodes_of(model, named), outside="keep")


def test_other_channels_of_one_place_are_apart():
    model, pairs = model_and_prompts("marked_slots", 0.75)
    nodes = nodes_of(model, ["blocks.0.state@last#3", "blocks.0.state@-1#4"])
    assert bench_of(model, pairs, nodes, outside="keep").nodes == nodes
