"""Edges sum to places, patching an edge changes one reader alone, and integrals are complete."""

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mechtest.discovery.attribution import attribution_patching, edge_attribution
from mechtest.discovery.attribution.path_patching import Edge, Tap, true_edge_effects
from mechtest.discovery.attribution.residual_graph import Reader, Writer, input_after, readers
from mechtest.discovery.attribution.traces import Tracer
from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.tasks import logit_difference
from tests.discovery.attribution.linear_limit import (
    gap_of,
    looked_at,
    metric_with,
    values_at,
    wide_model,
)

QUICK = {"progress": False, "sample": 3}


@pytest.fixture(scope="module")
def model():
    return wide_model(8)


@pytest.fixture(scope="module")
def pairs(model):
    return looked_at(model, [6, 6])


@pytest.fixture(scope="module")
def found(model, pairs):
    return edge_attribution(model, pairs, progress=False)


@pytest.fixture(scope="module")
def tracer(model, pairs):
    return Tracer(looking_runner(model, pairs), logit_difference, 2**20)


def over_positions(model, pairs, site):
    found = attribution_patching(model, pairs, site, **QUICK).map
    return np.nansum(found.values, axis=1)


# --- sums ----------------------------------------------------------------------------------------


@settings(
    max_examples=2,
    database=None,
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
@given(seed=st.integers(0, 50))
def test_edges_into_a_layer_and_out_of_it_sum_to_its_places(seed):
    model = wide_model(seed)
    pairs = looked_at(model, [6, 6], seed, differs=0)
    edges = np.nan_to_num(edge_attribution(model, pairs, **QUICK).map.values)
    into = edges[:-1].sum(1).reshape(2, 2, -1).sum(1)  # both branches of a layer
    out_of = edges.sum(0)[1:].reshape(2, 2, -1).sum(1)  # both parts of a layer
    near = {"rel": 1e-8, "abs": 1e-11}
    assert into == pytest.approx(over_positions(model, pairs, "blocks.*.hook_layer_input"), **near)
    assert out_of == pytest.approx(over_positions(model, pairs, "blocks.*.hook_out_proj"), **near)
    embedding = over_positions(model, pairs, "hook_embed")[0]
    assert edges[:, 0].sum(0) == pytest.approx(embedding, **near)
    assert edges[-1].sum(0) == pytest.approx(
        over_positions(model, pairs, "blocks.1.hook_resid_post")[0], **near
    )


def test_taps_sum_to_the_convolution(model, pairs, found):
    whole = over_positions(model, pairs, "blocks.*.hook_conv")
    assert found.taps.columns == ("tap 0", "tap 1", "tap 2", "tap 3")
    assert np.nan_to_num(found.taps.values).sum(1) == pytest.approx(whole, rel=1e-10)


def test_positions_sum_to_all(model, pairs, found):
    apart = edge_attribution(model, pairs, positions=[*range(6)], **QUICK)
    assert apart.map.rows[:2] == ("0.conv@0", "0.conv@1")
    assert apart.map.sites[1][0] == "blocks.0.hook_in_proj@1"
    sums = np.nan_to_num(apart.map.values).reshape(5, 6, 5, 2).sum(1)
    assert sums == pytest.approx(np.nan_to_num(found.map.values), rel=1e-10, abs=1e-14)
    assert np.nan_to_num(apart.taps.values).reshape(2, 6, 4, 2).sum(1) == pytest.approx(
        np.nan_to_num(found.taps.values), rel=1e-10, abs=1e-14
    )


def test_nothing_is_read_before_it_is_written(found):
    shape = np.isnan(found.map.mean())
    # A token that differs is never the same embedding, so every edge that exists has a number.
    assert shape.tolist() == [
        [False, True, True, True, True],
        [False, True, True, True, True],
        [False, False, False, True, True],
        [False, False, False, True, True],
        [False, False, False, False, False],
    ]
    assert found.map.reasons[0, 1] == "nothing is read before it is written"


# --- integrals -----------------------------------------------------------------------------------


def test_integrals_out_of_the_embedding_are_complete_as_steps_grow(model, pairs):
    errors = [
        abs(edge_attribution(model, pairs, method="eap-ig", steps=n, **QUICK).out_of_embedding - 1)
        for n in (1, 4, 16)
    ]
    assert errors[0] > errors[1] > 5 * errors[2]
    assert errors[2] < 0.02


def test_an_integral_over_a_short_way_is_the_slope(pairs):
    """With embeddings close to one another every point of the way has the same slopes."""
    close = wide_model(8, tie_embeddings=False)
    with torch.no_grad():
        rows = close.embedding.weight
        rows.copy_(rows.mean(0) + 3e-3 * (rows - rows.mean(0)))
    one, many = (
        edge_attribution(close, pairs, method=method, **QUICK).map.values
        for method in ("eap", "eap-ig")
    )
    assert np.nan_to_num(one) == pytest.approx(np.nan_to_num(many), rel=0.1, abs=0.01)


# --- true patching of edges ----------------------------------------------------------------------


def written(model, values, writer):
    """Return what a writer writes, from the weights."""
    if writer.layer < 0:
        return values["hook_embed"]
    mixer = model.blocks[writer.layer].mixer
    start = f"blocks.{writer.layer}."
    inner = values[start + "hook_y"]
    if writer.part == "direct":
        inner = values[start + "hook_ssm_output"] - inner
    gate = torch.nn.functional.silu(values[start + "hook_skip"])
    return (inner * gate) @ mixer.out_proj.weight.T


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        (Writer("embed"), Reader("conv", 0)),
        (Writer("embed"), Reader("logits", 2)),
        (Writer("state", 0), Reader("conv", 1)),
        (Writer("direct", 0), Reader("gate", 1)),
        (Writer("state", 1), Reader("logits", 2)),
    ],
)
def test_a_patched_edge_is_the_layer_run_with_another_input(model, pairs, tracer, writer, reader):
    """What the branch holds is taken from a run in which the layer's whole input was edited."""
    names = ["hook_embed"]
    for layer in range(2):
        names += [f"blocks.{layer}.{h}" for h in ("hook_y", "hook_ssm_output", "hook_skip")]
    clean, twin = (values_at(model, pairs, names, run) for run in ("clean", "corrupted"))
    change = written(model, twin, writer) - written(model, clean, writer)
    if reader.part == "logits":
        hooks = [(reader.site, lambda value, hook: value + change)]
    else:
        kept = {}
        whole = f"blocks.{reader.layer}.hook_layer_input"
        metric_with(
            model,
            pairs,
            [
                (whole, lambda value, hook: value + change),
                (reader.site, lambda value, hook: kept.update(rows=value)),
            ],
        )
        hooks = [(reader.site, lambda value, hook: kept["rows"])]
    lost = metric_with(model, pairs, []) - metric_with(model, pairs, hooks)
    behaviour = behaviour_of(tracer.runner)
    got = true_edge_effects(tracer, behaviour, [Edge(writer, reader)])[0]
    assert got == pytest.approx(lost.numpy() / gap_of(model, pairs), rel=1e-8, abs=1e-10)


def test_a_patched_tap_is_the_convolution_of_another_row(model, pairs, tracer):
    name = "blocks.0.hook_in_proj"
    clean, twin = (values_at(model, pairs, [name], run)[name] for run in ("clean", "corrupted"))
    weight = model.blocks[0].mixer.conv1d.weight[:, 0, 2]  # of the row one token before

    def edit(value, hook):
        value[:, 1:] += (twin - clean)[:, :-1] * weight
        return value

    with torch.no_grad():
        lost = metric_with(model, pairs, []) - metric_with(
            model, pairs, [("blocks.0.hook_conv", edit)]
        )
    got = true_edge_effects(tracer, behaviour_of(tracer.runner), [Tap(0, 1)])[0]
    assert got == pytest.approx(lost.numpy() / gap_of(model, pairs), rel=1e-8, abs=1e-12)


def test_the_slope_of_an_edge_by_finite_differences(model, pairs, found):
    """A little more of what 0.state wrote on the twin, read by the gate of layer 1 alone."""
    names = ["blocks.0.hook_y", "blocks.0.hook_skip", "blocks.1.hook_resid_pre"]
    clean, twin = (values_at(model, pairs, names, run) for run in ("clean", "corrupted"))
    writer, reader = Writer("state", 0), Reader("gate", 1)
    change = written(model, twin, writer) - written(model, clean, writer)
    step = 1e-5
    up, down = (
        metric_with(
            model,
            pairs,
            [
                (
                    reader.site,
                    lambda value, hook, share=share: input_after(
                        model, reader, clean[names[2]], share * change
                    ),
                )
            ],
        )
        for share in (step, -step)
    )
    slope = -(up - down).numpy() / (2 * step) / gap_of(model, pairs)
    row = [one.name for one in readers(2)].index("1.gate")
    assert found.map.values[row, 1] == pytest.approx(slope, rel=1e-5)


def test_prompts_taken_out_of_order_keep_their_rows(model, found):
    """Patched rows are looked up by prompt, and a part of a collection keeps its numbers."""
    pairs = looked_at(model, [6, 6])
    turned = edge_attribution(model, pairs[[1, 0]], progress=False)
    assert turned.agreement.places == found.agreement.places
    assert turned.agreement.true_means == pytest.approx(found.agreement.true_means, rel=1e-9)
    back = turned.map.values[:, :, ::-1]
    assert np.nan_to_num(back) == pytest.approx(np.nan_to_num(found.map.values), rel=1e-9)


def test_prompts_of_different_lengths(model):
    """A padded prompt gives what it gives alone."""
    pairs = looked_at(model, [6, 4])
    both = np.nan_to_num(edge_attribution(model, pairs, **QUICK).map.values)
    short = next(iter(pairs.by_length()))
    alone = np.nan_to_num(edge_attribution(model, short, **QUICK).map.values)
    share = gap_of(model, short) / gap_of(model, pairs)
    assert both[:, :, 1] == pytest.approx(alone[:, :, 0] * share, rel=1e-8, abs=1e-12)
