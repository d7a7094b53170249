"""How far back does influence reach, by gradient and by intervention?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from mechtest.discovery.dynamics.agreement import rank_correlation
from mechtest.discovery.dynamics.prompt_tables import prompt_table
from mechtest.discovery.dynamics.recurrence import TextRows, chosen_layers, rows_of
from mechtest.discovery.figures import new_figure, require_picture_path, write_figure
from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.discovery.record import About, DiscoveryRecord, about
from mechtest.discovery.record_values import part_of_records
from mechtest.discovery.temporal.block_influence import (
    jacobian_gains,
    patching_gains,
    streams_into,
)
from mechtest.discovery.temporal.metric_influence import metric_gradients
from mechtest.discovery.temporal.state_influence import state_gains
from mechtest.errors import ShapeError, closest_names
from mechtest.interventions import Circuit, Runner, SweepResult, sweep
from mechtest.models import HookedMamba
from mechtest.sites import Site
from mechtest.tasks import DiscoveryPairs, EncodedPairs, Metric, PromptPairs, logit_difference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["InfluenceMap", "RankAgreement", "influence_map"]

TARGETS = ("metric", "hook_resid_post", "hook_out_proj", "hook_h")
SHORT = "a prompt is too short to have this lag"
NO_TWIN = "no other prompt has something else at this lag"


@part_of_records
@dataclass(frozen=True)
class RankAgreement:
    """Whether a gradient ranks the lags of one row as interventions do.

    Attributes:
        row: Which row.
        places: Lags at which both have a number.
        sensitivity: Spearman's correlation of the gradient's length with the size of the effect;
            None where there are fewer than three places or nothing varies.
        first_order: The same of the effect predicted to first order; None without a metric.
    """

    row: str
    places: int
    sensitivity: float | None
    first_order: float | None


@dataclass(frozen=True, eq=False, repr=False)
class InfluenceMap(DiscoveryRecord):
    """Influence by layer and lag, measured twice.

    Attributes:
        sensitivity: Length of the Jacobian: what a small change in a random direction would do.
        effect: What replacing the activation by another prompt's did.
        first_order: For a metric: what the gradient says that replacing would do; else None.
        agreement: Rank correlations with the effect, a row each.
    """

    sensitivity: SweepResult
    effect: SweepResult
    first_order: SweepResult | None
    agreement: tuple[RankAgreement, ...]

    @property
    def maps(self) -> tuple[SweepResult, ...]:
        """Every table there is, the gradients first."""
        both = (self.sensitivity, self.effect)
        return both if self.first_order is None else (both[0], self.first_order, both[1])

    def lines(self) -> tuple[str, ...]:
        """Return the strongest effects, and how well gradients rank them."""
        strongest = tuple(f"{one.site}: {one.effect:.3g} {one.unit}" for one in self.effect.top(3))
        told = tuple(
            f"{one.row}: rank correlation with the effect {_said(one.sensitivity)} for the "
            f"gradient's length"
            + ("" if self.first_order is None else f", {_said(one.first_order)} to first order")
            for one in self.agreement
        )
        return strongest + told

    def plot(self, path: str | Path | None = None, *, prompt: int | str | None = None) -> Figure:
        """Draw the tables below each other: the gradient, and what interventions did."""
        require_picture_path(path)
        rows, columns = self.effect.shape
        figure = new_figure(min(3.4 + 0.45 * columns, 16.0), (1.5 + 0.25 * rows) * len(self.maps))
        for place, table in enumerate(self.maps):
            axes = figure.add_subplot(len(self.maps), 1, place + 1)
            table.plot(prompt=prompt, ax=axes)
        return write_figure(figure, path, "influence by lag")

    def scores(self) -> Mapping[str, float]:
        """Return each place's effect in either direction, larger where it matters more."""
        return {one.site: abs(one.effect) for one in self.effect.top(self.effect.values.size)}

    def circuit(self, count: int = 1, *, name: str | None = None) -> Circuit:
        """Return the places with the largest effects on the metric.

        Args:
            count: How many.
            name: How reports call the circuit.

        Raises:
            ShapeError: No metric was asked for, or there are fewer places.
        """
        best = self.effect.top(count)
        if self.first_order is None or not 0 < len(best) == count:
            raise ShapeError(
                "these influences name no such circuit",
                given=f"count={count} of {len(best)} places, target {self.effect.effect_name}",
                expected='target="metric", and a place for each',
            )
        sites = [one.site for one in best]
        return Circuit(*sites, name=name, fitted_on=self.about.fitted_on)


def influence_map(
    model: HookedMamba,
    prompts: PromptPairs | DiscoveryPairs | EncodedPairs,
    *,
    layers: int | Sequence[int] | None = None,
    max_lag: int = 8,
    target: str = "metric",
    site: str = "hook_resid_pre",
    channels: Sequence[int] | None = None,
    end: int = 0,
    probes: int | None = None,
    metric: Metric = logit_difference,
    progress: bool = True,
    seed: int = 0,
) -> InfluenceMap:
    """Measure how strongly something depends on a site some tokens earlier, in two ways.

    A gradient speaks of small changes in every direction, an intervention of one large change that
    prompts really make. Both are always measured, with the rank correlation between them.

    | `target` | gradient | intervention |
    | --- | --- | --- |
    | `metric` | of the metric at the last token, by the site at each lag | the twin's activation \
at one place, through a sweep; shares of the behaviour |
    | `hook_resid_post`, `hook_out_proj` | exact Jacobian of one block: its output at t by its \
input at t-lag, Frobenius norm over sqrt(d_model) | the next prompt's input at one token |
    | `hook_h` | d h_t / d h_{t-lag}, a product of decays, root mean square | the next prompt's \
state at t-lag |

    Args:
        model: The model.
        prompts: Pairs; their discovery half is taken.
        layers: Rows; None for all.
        max_lag: Columns are lags 0 to this one, counted back from the target.
        target: See the table.
        site: For `metric`: a hook inside a block, without `blocks.{l}.`; lags count from the last
            token.
        channels: For `hook_h`: only these channels.
        end: For a block or a state: tokens behind t; 0 is the last token.
        probes: For a block: random directions that the norm is estimated from; None is exact.
        metric: Reads logits.
        progress: Show bars on stderr, where that is a terminal.
        seed: Of the random directions.

    Raises:
        ShapeError: An unknown target, layer, site or channel, or a negative lag.
        MetricError: Clean and corrupted prompts score alike.
        ClaimInvalid: Prompts that are kept for testing claims.

    Memory: see `metric_gradients`, `jacobian_gains` and `state_gains`; a layer and a few prompts at
    a time.
    Sources: Nanda 2023 (attribution patching, for the first order); Ali et al. 2024 for what the
    state keeps.
    """
    at = chosen_layers(model, layers)
    _require(model, target, max_lag, end, channels)
    runner = looking_runner(model, prompts)
    settings: dict[str, Any] = {
        "layers": list(at), "max_lag": max_lag, "target": target,
        "channels": None if channels is None else list(channels), "end": end, "probes": probes,
        "seed": seed, "site": site if target == "metric" else "",
    }  # fmt: skip
    if target == "metric":
        core = about("influence_map", model, runner.pairs, metric=metric.name, **settings)
        return _of_metric(runner, at, site, max_lag, metric, core, progress=progress)
    rows = rows_of(model, runner.pairs, tool="influence_map", **settings)
    shape = (len(at), max_lag + 1, len(rows))
    gradient, patched = np.full(shape, np.nan), np.full(shape, np.nan)
    for index, layer in enumerate(at):
        if target == "hook_h":
            part = list(range(model.cfg.E)) if channels is None else list(channels)
            gradient[index], patched[index] = state_gains(
                model, rows, layer, lags=max_lag + 1, end=end, channels=part, progress=progress
            )
        else:
            gradient[index], patched[index] = _of_block(
                model, rows, layer, target, max_lag + 1, end, probes, seed, progress=progress
            )
    source = "hook_h" if target == "hook_h" else "hook_resid_pre"
    return _record(
        rows.about, at, source, gradient, patched, None,
        (f"gain of {target}", "change per unit of change"), end,
    )  # fmt: skip


def _of_metric(
    runner: Runner,
    layers: Sequence[int],
    hook: str,
    max_lag: int,
    metric: Metric,
    core: About,
    *,
    progress: bool,
) -> InfluenceMap:
    model, pairs = runner.model, runner.pairs
    sites = [Site.parse(f"blocks.{layer}.{hook}") for layer in layers]
    gap = behaviour_of(runner, metric).gap
    slope, product = metric_gradients(model, pairs, sites, metric, max_lag + 1, progress=progress)
    found = sweep(
        model, [str(site) for site in sites], pairs, metric=metric, progress=progress,
        positions=[-1 - lag for lag in range(max_lag + 1)]
        if int(pairs.lengths.min()) > max_lag
        else "*",
    )  # fmt: skip
    assert isinstance(found, SweepResult)
    effect = np.full(slope.shape, np.nan)
    columns = found.shape[1]
    by_lag = int(pairs.lengths.min()) > max_lag
    for lag in range(min(max_lag + 1, columns)):
        effect[:, lag] = found.values[:, lag if by_lag else columns - 1 - lag]
    # 0, not "no number": the runs agree there, so that replacing changes nothing.
    same = ~np.isnan(slope) & np.isnan(effect)
    effect[same] = 0.0
    unit = (f"{metric.name.replace('_', ' ')} lost", "share of behaviour")
    return _record(core, layers, hook, slope, effect, -product / gap, unit, 0)


def _of_block(
    model: HookedMamba,
    rows: TextRows,
    layer: int,
    output: str,
    lags: int,
    end: int,
    probes: int | None,
    seed: int,
    *,
    progress: bool,
) -> tuple[np.ndarray, np.ndarray]:
    gradient, patched = (np.full((lags, len(rows)), np.nan) for _ in range(2))
    generator = torch.Generator().manual_seed(seed)
    first = streams_into(model, rows.of(0)[None], layer)[0]
    donor, stream = first, first
    order = range(len(rows))
    for prompt in tqdm(order, desc=f"layer {layer}", disable=None if progress else True):
        last = prompt == len(rows) - 1
        donor = first if last else streams_into(model, rows.of(prompt + 1)[None], layer)[0]
        count = min(lags, len(stream) - end)
        if count > 0:
            gains = jacobian_gains(
                model, layer, stream, output=output, end=end, probes=probes, generator=generator
            )
            target = len(stream) - 1 - end
            gradient[:count, prompt] = gains[target - count + 1 : target + 1].flip(0).numpy()
            found = patching_gains(model, layer, stream, donor, output=output, end=end, lags=lags)
            patched[:, prompt] = found.numpy()
        stream = donor
    return gradient, patched


def _record(
    core: About,
    layers: Sequence[int],
    hook: str,
    gradient: np.ndarray,
    effect: np.ndarray,
    predicted: np.ndarray | None,
    name: tuple[str, str],
    end: int,
) -> InfluenceMap:
    sites = [
        [f"blocks.{layer}.{hook}@{-1 - end - lag}" for lag in range(gradient.shape[1])]
        for layer in layers
    ]

    def table(values: np.ndarray, what: str, effect: tuple[str, str]) -> SweepResult:
        short = {(int(r), int(c)): SHORT for r, c in np.argwhere(np.isnan(gradient).any(2))}
        empty = {(int(r), int(c)): NO_TWIN for r, c in np.argwhere(np.isnan(values).any(2))}
        return prompt_table(
            core, values, rows=([f"layer {layer}" for layer in layers], "layer"),
            columns=([str(lag) for lag in range(values.shape[1])], "lag"),
            sites=sites, what=what, effect=effect, reasons=empty | short,
        )  # fmt: skip

    metric = predicted is not None
    slope_unit = ("length of the gradient", "metric per unit") if metric else name
    slope = table(gradient, "gradient", slope_unit)
    other = table(effect, "resample", name)
    first = None if predicted is None else table(predicted, "first order", name)
    agreement = tuple(
        RankAgreement(row, int(np.isfinite(b).sum()), rank_correlation(a, b), c)
        for row, a, b, c in zip(
            slope.rows,
            slope.mean(),
            np.abs(other.mean()),
            [None] * len(layers)
            if first is None
            else [
                rank_correlation(np.abs(p), np.abs(e))
                for p, e in zip(first.mean(), other.mean(), strict=True)
            ],
            strict=True,
        )
    )
    return InfluenceMap(core, slope, other, first, agreement)


def _require(
    model: HookedMamba, target: str, max_lag: int, end: int, channels: Sequence[int] | None
) -> None:
    if target not in TARGETS:
        raise ShapeError(
            f"influence on {target!r} is not measured",
            given=f"target={target!r}",
            closest=closest_names(target, TARGETS),
            expected=" or ".join(TARGETS),
        )
    if max_lag < 0 or end < 0 or (end and target == "metric"):
        raise ShapeError(
            "lags are counted back from a token of the prompt",
            given=f"max_lag={max_lag}, end={end}",
            expected="max_lag >= 0; end >= 0, and 0 for the metric, which is read at the end",
        )
    if channels is not None and (
        target != "hook_h" or not channels or not all(0 <= c < model.cfg.E for c in channels)
    ):
        raise ShapeError(
            "channels restrict the state, and only that",
            given=f"channels={list(channels)[:5]}, target={target!r}",
            expected=f'target="hook_h", some of 0 to {model.cfg.E - 1}',
        )


def _said(value: float | None) -> str:
    return "not known" if value is None else f"{value:.2f}"
