"""Through which edges of the residual graph does the behaviour run, to first order?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from mechtest.discovery.attribution.agreement import (
    Agreement,
    compare,
    require_sample,
    sample_of_places,
)
from mechtest.discovery.attribution.edge_result import EdgeAttributionResult
from mechtest.discovery.attribution.edge_tables import (
    EdgePlaces,
    EdgeTable,
    edge_places,
    table_of_edges,
    table_of_taps,
)
from mechtest.discovery.attribution.first_order import layers_of, taps
from mechtest.discovery.attribution.path_patching import true_edge_effects
from mechtest.discovery.attribution.residual_graph import (
    changes_written,
    edges_exist,
    readers,
    slope_of_readers,
    slopes_needed,
    values_needed,
    writers,
)
from mechtest.discovery.attribution.traces import Trace, Tracer, Values
from mechtest.discovery.looking import Behaviour, behaviour_of, looking_runner
from mechtest.discovery.record import about
from mechtest.errors import DiscoveryError
from mechtest.interventions.rectangle import MEMORY
from mechtest.models import HookedMamba
from mechtest.tasks import (
    DiscoveryPairs,
    EncodedPairs,
    Metric,
    PromptPairs,
    logit_difference,
    metric_by_name,
)

__all__ = ["edge_attribution"]

METHODS = ("eap", "eap-ig")
SAMPLE = 24
STEPS = 5


def edge_attribution(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    *,
    method: Literal["eap", "eap-ig"] = "eap",
    steps: int = STEPS,
    positions: str | int | Sequence[str | int] | None = None,
    metric: Metric | str = logit_difference,
    sample: int = SAMPLE,
    memory: int = MEMORY,
    progress: bool = True,
    seed: int = 0,
) -> EdgeAttributionResult:
    """Return what patching each edge would do, by the slope of the metric, beside some truth.

    Writers are the embedding and, of each layer, the gated read-out of the state and the gated
    direct path (D x); readers are the convolution's branch and the gate of each later layer, and
    the logits. The effect of an edge is the change of what is written, times the slope at what that
    reader reads. Inside a layer, each tap of the convolution is an edge from an earlier token.

    Args:
        model: The model.
        prompts: Their discovery half is taken.
        method: `eap` takes slopes in the clean run; `eap-ig` their mean over `steps` runs from
            embeddings on the straight line from the clean to the corrupted ones.
        steps: Points on that line: the middles of as many equal parts. Only for `eap-ig`.
        positions: In the notation of sites; edges are then told apart by where they are. By default
            each edge is the sum over all positions.
        metric: One with a slope, or its name.
        sample: Edges that are truly patched as well, spread over the layers, and as many taps;
            never fewer than 3.
        memory: Bytes a batch may take; see `Tracer`. Never states.
        progress: Show a bar on stderr, where that is a terminal.
        seed: Of the sample, and of its intervals.

    Raises:
        ClaimInvalid: Prompts kept for testing claims.
        DiscoveryError: An unknown method, or no steps.
        MetricError: A metric without a slope, or no difference between the runs.
        ShapeError: A sample of fewer than 3 edges, or no position.
        PositionError: A position that does not exist.

    Sign: positive where the clean run loses the answer when the edge carries the twin's values.
    Exactness: over all writers, the edges into both branches of a layer sum to the attribution of
        its `hook_layer_input`; over all readers, those out of both parts of a layer to that of its
        `hook_out_proj`. With `eap-ig` those out of the embedding sum to 1 as steps grow.
    Sources: Syed et al. 2023 (EAP); Hanna et al. 2024, section 3 (EAP-IG, on inputs; their points
        are the right ends of the parts).
    """
    require_sample(sample)
    chosen = metric_by_name(metric) if isinstance(metric, str) else metric
    points = _points(method, steps)
    runner = looking_runner(model, prompts)
    behaviour = behaviour_of(runner, chosen)
    cfg = model.cfg
    tracer = Tracer(runner, chosen, memory, extra=cfg.n_layer * (8 * cfg.E + 8 * cfg.d_model))
    places = edge_places(runner, positions)
    edges = table_of_edges(cfg.n_layer, places, len(runner.pairs))
    inside = table_of_taps(cfg.n_layer, cfg.d_conv, places, len(runner.pairs))
    _attribute(tracer, places, (edges, inside), behaviour, points, progress=progress)
    core = about(
        "edge_attribution", model, runner.pairs, metric=chosen.name, method=method,
        steps=points, positions=list(places.names), sample=sample, seed=seed,
    )  # fmt: skip
    cost, before = tracer.cost(0), runner.forward_tokens
    agreements = [
        _beside(tracer, behaviour, table, core.templates, picked, seed)
        for table, picked in (
            (edges, sample_of_places(edges.strata(), sample, seed)),
            (inside, sample_of_places(inside.strata(), sample, seed)),
            (edges, edges.strongest(core.templates)),
        )
    ]
    return EdgeAttributionResult(
        core,
        edges.result(runner, chosen, method),
        inside.result(runner, chosen, method),
        agreements[0],
        agreements[1],
        agreements[2],
        cost.with_truth(runner.forward_tokens - before),
    )


def _points(method: str, steps: int) -> int:
    """Return how many points on the way are asked for; 0 is the clean run alone."""
    counted = isinstance(steps, int) and not isinstance(steps, bool) and steps >= 1
    if method not in METHODS or not counted:
        raise DiscoveryError(
            "edges are attributed by one of two methods, over at least one step",
            given=f"method={method!r}, steps={steps!r}",
            expected="method='eap' or 'eap-ig', steps=5",
        )
    return steps if method == "eap-ig" else 0


def _beside(
    tracer: Tracer,
    behaviour: Behaviour,
    table: EdgeTable,
    templates: Sequence[str],
    places: Sequence[tuple[int, int]],
    seed: int,
) -> Agreement:
    """Return how a table agrees with true patching at some of its edges."""
    edges = [table.edges[at] for at in places]
    true = true_edge_effects(tracer, behaviour, edges)
    mine = np.array([table.values[at] for at in places]).reshape(true.shape)
    return compare([edge.name for edge in edges], mine, true, templates, seed)


def _attribute(
    tracer: Tracer,
    places: EdgePlaces,
    tables: tuple[EdgeTable, EdgeTable],
    behaviour: Behaviour,
    points: int,
    *,
    progress: bool,
) -> None:
    """Fill both tables, a batch of prompts at a time."""
    model = tracer.model
    n_layer = model.cfg.n_layer
    # None: shown where stderr is a terminal.
    bar = tqdm(
        total=len(tracer.runner.pairs),
        desc="edges",
        unit="prompt",
        disable=None if progress else True,
    )
    with bar:
        for part, batch in tracer.batches():
            clean, slopes, at_readers = _slopes(tracer, batch, points)
            corrupted = tracer.values(batch, "corrupted", values_needed(n_layer))
            differs = batch.changed.cumsum(1).bool() & batch.attention_mask
            masks = [mask[part] for mask in places.masks]
            written = changes_written(model, writers(n_layer), clean, corrupted, differs)
            for number, reader in enumerate(readers(n_layer)):
                so_far = written[: edges_exist(reader)]
                found = torch.einsum("wbpd,bpd->wbp", so_far.double(), at_readers[number].double())
                for index, mask in enumerate(masks):
                    row = number * len(masks) + index
                    _fill(tables[0], row, part, found * mask, so_far, mask, behaviour.gap)
            for layer, block in enumerate(layers_of(model)):
                found = torch.stack(taps(block, Trace(clean, slopes), corrupted, differs))
                for index, mask in enumerate(masks):
                    row = layer * len(masks) + index
                    each = found.double().sum(-1) * mask
                    _fill(tables[1], row, part, each, found, mask, behaviour.gap)
            bar.update(len(batch))


def _fill(
    table: EdgeTable,
    row: int,
    part: slice,
    effects: torch.Tensor,
    carried: torch.Tensor,
    mask: torch.Tensor,
    gap: float,
) -> None:
    """Put the effects "column prompt pos" of one row in, as shares lost."""
    values = -effects.sum(2).cpu().numpy() / gap
    table.values[row, : len(values), part] = values
    differ = ((carried != 0).any(-1) & mask).flatten(1).any(1)
    table.changed |= {(row, column) for column in differ.nonzero().flatten().tolist()}


def _slopes(
    tracer: Tracer, batch: EncodedPairs, points: int
) -> tuple[Values, Values, torch.Tensor]:
    """Return clean values, the slopes at the convolutions, and those at what readers read."""
    n_layer = tracer.model.cfg.n_layer
    conv = [f"blocks.{layer}.hook_conv" for layer in range(n_layer)]
    names = slopes_needed(n_layer)
    if not points:
        trace = tracer.trace(batch, "clean", [*names, *values_needed(n_layer)])
        slopes = {name: trace.slopes[name] for name in conv}
        return trace.values, slopes, slope_of_readers(tracer.model, trace)
    clean = tracer.values(batch, "clean", values_needed(n_layer))
    ends = [clean["hook_embed"], tracer.values(batch, "corrupted", ["hook_embed"])["hook_embed"]]
    slopes, at_readers = {}, torch.zeros(())
    for point in range(points):
        share = (point + 0.5) / points
        trace = tracer.trace(batch, "clean", names, ends[0] + share * (ends[1] - ends[0]))
        at_readers = at_readers + slope_of_readers(tracer.model, trace) / points
        for name in conv:
            slopes[name] = slopes.get(name, 0) + trace.slopes[name] / points
    return clean, slopes, at_readers
