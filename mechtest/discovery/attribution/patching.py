"""What would patching do at every place, to first order, for the price of three passes?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from mechtest.discovery.attribution.agreement import (
    STRONGEST,
    Agreement,
    compare,
    require_sample,
    sample_of_places,
    strongest_places,
    true_effects,
)
from mechtest.discovery.attribution.attribution_result import AttributionResult
from mechtest.discovery.attribution.first_order import (
    first_order,
    hooks_needed,
    kept_per_token,
    moved,
    require_served,
)
from mechtest.discovery.attribution.traces import Tracer
from mechtest.discovery.looking import Behaviour, behaviour_of, looking_runner
from mechtest.discovery.record import about, identity_of
from mechtest.errors import ShapeError
from mechtest.interventions import Circuit, Patch, ResampleAblation, Run, Runner, SweepResult
from mechtest.interventions.plan import Planner
from mechtest.interventions.rectangle import MEMORY
from mechtest.interventions.sweep_places import SweepTable, lay_out_table
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import (
    DiscoveryPairs,
    EncodedPairs,
    Metric,
    PromptPairs,
    logit_difference,
    metric_by_name,
)

__all__ = ["attribution_patching"]

UNCHANGED = "the activations of both runs are the same here"
SAMPLE = 24


def attribution_patching(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    sites: str | Sequence[str] = "blocks.*.hook_out_proj",
    *,
    positions: str | int | Sequence[str | int] = "*",
    channels: int | Literal["each"] | None = None,
    base: Run = "clean",
    metric: Metric | str = logit_difference,
    sample: int = SAMPLE,
    memory: int = MEMORY,
    progress: bool = True,
    seed: int = 0,
) -> AttributionResult:
    """Return what patching each place would do, by the slope of the metric, beside some truth.

    The effect of a place is its change between the two runs times the slope of the metric there in
    the run that is intervened in: two passes forward and one back a batch of prompts, for all
    sites, positions and channels together.

    Args:
        model: The model.
        prompts: Their discovery half is taken.
        sites: As for `sweep`: sites without positions, or patterns of them, `blocks.*.state`
            included; a row each.
        positions: As for `sweep`; a column each. A state is attributed at one position a column.
        channels: Groups of this many channels at one position instead, a column each; `each` is 1.
        base: `clean`: shares of the behaviour lost when the clean run gets the corrupted run's
            values; `corrupted`: shares restored by clean values.
        metric: One with a slope, or its name.
        sample: Places that are truly patched as well, spread over the rows; never fewer than 3.
        memory: Bytes a batch may take; see `Tracer`. States of one layer come on top:
            12 d_inner d_state bytes a token.
        progress: Show a bar on stderr, where that is a terminal.
        seed: Of the sample, and of its intervals.

    Raises:
        ClaimInvalid: Prompts kept for testing claims.
        MetricError: A metric without a slope, or no difference between the runs.
        ShapeError: A range of positions of a state, or a sample of fewer than 3 places.
        SiteNotServedError: A hook without positions.
        UnknownSiteError, PositionError: A place that does not exist.

    Exactness: exact where the metric is linear in the activations of a place. Elsewhere it errs, by
        saturation and by cancellation (Kramar et al. 2024, section 3): see `agreement`.
    Sources: Nanda 2023 (attribution patching); Syed et al. 2023, section 2. Slopes at states: the
        adjoint of Gu & Dao 2023, algorithm 2.
    """
    require_sample(sample)
    runner = looking_runner(model, prompts)
    chosen = metric_by_name(metric) if isinstance(metric, str) else metric
    behaviour = behaviour_of(runner, chosen)
    size = 1 if channels == "each" else channels
    table, rows = _table(model, runner.planner, sites, positions, size)
    tracer = Tracer(runner, chosen, memory, extra=kept_per_token(model, rows))
    values, changed = _attributed(tracer, table, rows, behaviour, base, progress=progress)
    reasons = dict(table.reasons)
    for place in table.circuits:
        if not changed[place]:
            reasons[place] = UNCHANGED
    values[tuple(np.array(list(reasons), dtype=int).reshape(-1, 2).T)] = np.nan
    core = about(
        "attribution_patching", model, runner.pairs, metric=chosen.name, base=base,
        sample=sample, seed=seed,
    )  # fmt: skip
    strata = [
        [place for place in table.circuits if place[0] == row and place not in reasons]
        for row in range(len(rows))
    ]
    before = runner.forward_tokens
    agreements = [
        _beside(runner, behaviour, table, values, places, base, seed)
        for places in (
            sample_of_places(strata, sample, seed),
            strongest_places(values, core.templates, STRONGEST),
        )
    ]
    return AttributionResult(
        core,
        _map(model, runner, table, values, reasons, chosen, base),
        agreements[0],
        agreements[1],
        tracer.cost(runner.forward_tokens - before),
    )


def _beside(
    runner: Runner,
    behaviour: Behaviour,
    table: SweepTable,
    values: np.ndarray,
    places: Sequence[tuple[int, int]],
    base: Run,
    seed: int,
) -> Agreement:
    """Return how the attribution agrees with true patching at some places."""
    ablation = ResampleAblation() if base == "clean" else Patch("clean")
    variants = [runner.variant([table.circuits[place]], ablation) for place in places]
    true = true_effects(runner, behaviour, variants, base)
    mine = np.array([values[place] for place in places]).reshape(true.shape)
    pairs = runner.pairs
    templates = [pairs.templates[index] for index in pairs.cluster]
    return compare([_place(table, at) for at in places], mine, true, templates, seed)


def _table(
    model: HookedMamba,
    planner: Planner,
    sites: str | Sequence[str],
    positions: str | int | Sequence[str | int],
    channels: int | None,
) -> tuple[SweepTable, list[Site]]:
    """Return the places, and the site of each row."""
    asked = [sites] if isinstance(sites, str) else list(sites)
    for site in (site for name in asked for site in model.resolver.sites(name)):
        require_served(site)
    table = lay_out_table(model, sites, planner, positions, channels)
    rows = []
    for line in table.sites:
        site = Site.parse(next(name for name in line if name))
        rows.append(Site(site.hook, site.layer))
    for (row, _), circuit in table.circuits.items():
        _require_single_state(rows[row], circuit, planner)
    return table, rows


def _require_single_state(site: Site, circuit: Circuit, planner: Planner) -> None:
    """Raise for several positions of a state: what is put in later overwrites what came before."""
    if not any(part.spec.per_position for part in site.parts):
        return
    for edit in planner.plan(circuit):
        if int(edit.known_spots.mask.sum(1).max()) > 1:
            raise ShapeError(
                "a state is attributed at one position: the effect of several is not their sum",
                given=circuit.name,
                expected=f"{site}@last, or a column for each position",
            )


def _attributed(
    tracer: Tracer,
    table: SweepTable,
    rows: Sequence[Site],
    behaviour: Behaviour,
    base: Run,
    *,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return effects "row column prompt", and which places differ between the runs."""
    model, pairs = tracer.model, tracer.runner.pairs
    shape = (len(table.rows), len(table.columns))
    values, changed = np.zeros((*shape, len(pairs))), np.zeros(shape, dtype=bool)
    twin: Run = "corrupted" if base == "clean" else "clean"
    sign = -1.0 if base == "clean" else 1.0
    names = list(dict.fromkeys(name for site in rows for name in hooks_needed(site)))
    # None: shown where stderr is a terminal.
    bar = tqdm(
        total=len(pairs), desc="attribution", unit="prompt", disable=None if progress else True
    )
    with bar:
        for part, batch in tracer.batches():
            trace = tracer.trace(batch, base, names)
            other = tracer.values(batch, twin, names)
            # What comes before the first differing token is the same, whatever rounding says.
            differs = batch.changed.cumsum(1).bool() & batch.attention_mask
            for row, site in enumerate(rows):
                found = first_order(model, site, trace, other, differs, batch.attention_mask)
                touched = differs & moved(site, trace, other)
                for column in range(shape[1]):
                    circuit = table.circuits.get((row, column))
                    if circuit is None:
                        continue
                    where = _where(tracer.runner.planner, circuit)[part].to(found.device)
                    picked = found if circuit.channels is None else found[..., circuit.channels]
                    # Sums over thousands of channels: in float64, like every mean that follows.
                    effect = (picked.double().sum(-1) * where).sum(1)
                    values[row, column, part] = sign * effect.cpu().numpy() / behaviour.gap
                    changed[row, column] |= bool((where & touched).any())
            bar.update(len(batch))
    return values, changed


def _where(planner: Planner, circuit: Circuit) -> torch.Tensor:
    """Return where a circuit's one site is meant, bool "prompt pos"."""
    return planner.plan(circuit)[0].known_spots.mask


def _map(
    model: HookedMamba,
    runner: Runner,
    table: SweepTable,
    values: np.ndarray,
    reasons: dict[tuple[int, int], str],
    metric: Metric,
    base: Run,
) -> SweepResult:
    verb = "lost" if base == "clean" else "restored"
    pairs = runner.pairs
    return SweepResult(
        rows=table.rows,
        columns=table.columns,
        row_name=table.row_name,
        column_name=table.column_name,
        sites=table.sites,
        values=values,
        reasons=reasons,
        prompt_ids=pairs.ids,
        templates=tuple(pairs.templates[index] for index in pairs.cluster),
        effect_name=f"{metric.name.replace('_', ' ')} {verb}, to first order",
        unit="share of behaviour",
        intervention="attribution",
        base=base,
        metric=metric.name,
        model=identity_of(model),
        engine={"executor": "gradient"},
        prompt_columns=table.prompt_columns,
    )


def _place(table: SweepTable, at: tuple[int, int]) -> str:
    site = table.sites[at[0]][at[1]]
    return f"{site}#{table.columns[at[1]]}" if table.column_name == "channels" else site
