"""What does one intervention do at every place of a model?

A sweep is a table: sites by positions, or sites by groups of channels. It looks, and tests nothing:
it takes the discovery half of the prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from mechtest.errors import MetricError, ShapeError
from mechtest.interventions.claim_runner import runner_for_claim
from mechtest.interventions.cost import Cost
from mechtest.interventions.digests import digest_of
from mechtest.interventions.jobs import Variant
from mechtest.interventions.run import Engine, Runner
from mechtest.interventions.spec import Intervention, Patch, ResampleAblation, Run
from mechtest.interventions.sweep_journal import FinishedCell, SweepJournal, plan_digest
from mechtest.interventions.sweep_places import SweepTable, lay_out_table
from mechtest.interventions.sweep_result import SweepResult
from mechtest.kernels import backend_name
from mechtest.models import HookedMamba
from mechtest.records import ModelIdentity
from mechtest.tasks import (
    ConfirmationPairs,
    DiscoveryPairs,
    EncodedPairs,
    Metric,
    PromptPair,
    PromptPairs,
    logit_difference,
    metric_by_name,
)

__all__ = [
    "UNCHANGED",
    "SweepEffects",
    "SweepPlan",
    "identity_of",
    "pairs_for_sweep",
    "sweep",
    "sweep_bar",
]

CHUNK_FLOPS = 1e11
"""Cells are computed and written down in chunks of about this much arithmetic."""

SMALLEST_GAP = 1e-6
"""Smallest mean difference between the runs, in the metric's unit, that shares are taken of."""

UNCHANGED = "the intervention changes no activation here"


@dataclass(frozen=True, eq=False)
class SweepPlan:
    """What a sweep would do.

    Attributes:
        table: Its places.
        prompts: Number of prompts.
        chunks: How many times results are written down.
        cost: What it costs, the unedited runs left out.
    """

    table: SweepTable
    prompts: int
    chunks: int
    cost: Cost

    def __str__(self) -> str:
        rows, columns = len(self.table.rows), len(self.table.columns)
        return (
            f"{rows} x {columns} places, {self.prompts} prompts, {self.chunks} chunks: {self.cost}"
        )


@torch.no_grad()
def sweep(
    model: HookedMamba,
    sites: str | Sequence[str],
    prompts: PromptPairs | PromptPair | EncodedPairs,
    *,
    positions: str | int | Sequence[str | int] = "*",
    channels: int | None = None,
    intervention: Intervention | None = None,
    base: Run = "clean",
    metric: Metric | str = logit_difference,
    journal: str | Path | None = None,
    progress: bool = True,
    dry_run: bool = False,
    memory: int | None = None,
    engine: Engine | None = None,
) -> SweepResult | SweepPlan:
    """Intervene at every place of a table, one place at a time.

    Args:
        model: The model.
        sites: Sites without positions, or a pattern of them: `blocks.*.hook_h`,
            `["blocks.0.state", "blocks.1.hook_out_proj"]`. Each is a row.
        prompts: A collection (its discovery half is taken), one pair, or encoded prompts.
        positions: `"*"` for every position, or some in the notation of sites (`last`, `S2+1`, -3).
            Each is a column. Among prompts of different lengths, `"*"` counts from the end.
        channels: Sweep groups of this many channels instead, at one position: each group is a
            column.
        intervention: By default `ResampleAblation()` of the clean run, and `Patch("clean")` of the
            corrupted one.
        base: The run intervened in. `clean`: how much of the behaviour is lost; `corrupted`: how
            much of it comes back.
        metric: A metric, or its name.
        journal: File that finished places are written to; a sweep that was killed goes on from it.
        progress: Show a bar on stderr, where that is a terminal.
        dry_run: Return the plan and its cost; nothing runs.
        memory: Bytes a batch may take; by default the running claim's, or 512 MiB. No part of the
            result.
        engine: See `Runner`; by default the running claim's, or `auto`.

    Returns:
        The effects as shares of the behaviour, a number for each place and prompt; the plan, for a
        dry run.

    Raises:
        ShapeError: Prompts kept for testing claims, several positions with `channels`, or no place.
        MetricError: No difference between clean and corrupted prompts.
        UnknownSiteError, PositionError: A place that does not exist.
        SweepFileError: The journal belongs to another sweep, or another process writes it.
    """
    pairs = pairs_for_sweep(model, prompts)
    chosen = metric_by_name(metric) if isinstance(metric, str) else metric
    ablation = intervention or (ResampleAblation() if base == "clean" else Patch("clean"))
    runner = runner_for_claim(model, pairs, memory=memory, engine=engine)
    table = lay_out_table(model, sites, runner.planner, positions, channels)
    cells = [
        (place, runner.variant([circuit], ablation)) for place, circuit in table.circuits.items()
    ]
    runner.prepare([variant for _, variant in cells], base)
    flops = runner.work([variant for _, variant in cells])
    chunks = list(_chunks(cells, flops))
    if dry_run:
        cost = sum((runner.cost([v for _, v in chunk]) for chunk in chunks), Cost())
        return SweepPlan(table, len(pairs), len(chunks), cost)
    effects = SweepEffects(runner, chosen, base)
    shape = (len(table.rows), len(table.columns), len(pairs))
    values, reasons = np.full(shape, np.nan), dict(table.reasons)
    header = None if journal is None else _header(model, pairs, table, effects, ablation)
    for cell in _cells(effects, chunks, journal, header, progress=progress):
        values[cell.row, cell.column] = cell.values
        if cell.reason:
            reasons[cell.row, cell.column] = cell.reason
    verb = "lost" if base == "clean" else "restored"
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
        effect_name=f"{chosen.name.replace('_', ' ')} {verb}",
        unit="share of behaviour",
        intervention=ablation.name,
        base=base,
        metric=chosen.name,
        model=identity_of(model),
        engine={
            "executor": "packed" if runner.packs([v for _, v in cells]) else "hooked",
            "kernels": backend_name(model.device.type, model.embedding.weight.dtype),
            "forward_tokens": runner.forward_tokens,
            "forward_passes": runner.forward_passes,
            "predicted_gflop": round(sum(flops) / 1e9, 3),
        },
        prompt_columns=table.prompt_columns,
    )


class SweepEffects:
    """Turns logits into shares of the behaviour."""

    def __init__(self, runner: Runner, metric: Metric, base: Run) -> None:
        self.runner, self.metric, self.base = runner, metric, base
        self.pairs = runner.pairs
        self._columns: torch.Tensor | None = None
        self._answers: Any = self.pairs
        if getattr(metric, "answers_only", False) and getattr(metric, "vocabulary", None) is None:
            self._columns, self._answers = self.pairs.answers.among_themselves()
        clean, corrupted = (
            self._read(runner.logits("clean")),
            self._read(runner.logits("corrupted")),
        )
        self._from = clean if base == "clean" else corrupted
        self._gap = _mean_over_templates(clean - corrupted, self.pairs)
        if not abs(self._gap) > SMALLEST_GAP:
            raise MetricError(
                "clean and corrupted prompts score alike, so there is no behaviour to take shares "
                "of",
                given=f"{metric.name} differs by {self._gap:.3g} {metric.unit}",
                expected="a model that does the task, and prompts that differ in what matters",
                next_step="look at prompts.explain(model.tokenizer)",
            )

    def _read(self, logits: torch.Tensor) -> np.ndarray:
        if getattr(self.metric, "needs_reference", False):
            found = -self.metric(logits, self.pairs, reference=self.runner.logits("clean"))
        else:
            found = self.metric(logits, self.pairs)
        return np.asarray(found.cpu().double().numpy())

    def of(self, variants: Sequence[Variant]) -> tuple[np.ndarray, np.ndarray]:
        """Return effects "variant prompt", and whether an activation changed, shaped alike."""
        logits, changed = self.runner.sweep_logits(variants, self.base, columns=self._columns)
        sign = 1.0 if self.base == "clean" else -1.0
        if self._columns is None:
            values = np.array([self._read(one) for one in logits])
        else:  # one question for all of them
            read = self.metric(logits.flatten(0, 1), self._answers.repeated(len(logits)))
            values = read.cpu().double().numpy().reshape(len(logits), -1)
        return sign * (self._from - values) / self._gap, changed.cpu().numpy()


def _cells(
    effects: SweepEffects,
    chunks: Sequence[Sequence[tuple[tuple[int, int], Variant]]],
    journal: str | Path | None,
    header: dict[str, Any] | None,
    *,
    progress: bool,
) -> Iterator[FinishedCell]:
    """Yield every place, those of an earlier run first."""
    total = sum(map(len, chunks))
    if journal is None or header is None:
        with sweep_bar(total, progress=progress) as bar:
            for chunk in chunks:
                yield from _computed(effects, chunk)
                bar.update(len(chunk))
        return
    with SweepJournal(journal, plan_digest(header), header) as book:
        yield from book.finished.values()
        with sweep_bar(total, progress=progress) as bar:
            for chunk in chunks:
                left = [cell for cell in chunk if cell[0] not in book.finished]
                if left:
                    # The whole chunk, so that batches are those of an undisturbed run.
                    done = list(_computed(effects, chunk))
                    done = [c for c in done if (c.row, c.column) not in book.finished]
                    book.write(done)
                    yield from done
                bar.update(len(chunk))


def _computed(
    effects: SweepEffects, chunk: Sequence[tuple[tuple[int, int], Variant]]
) -> Iterator[FinishedCell]:
    values, changed = effects.of([variant for _, variant in chunk])
    for (place, _), value, touched in zip(chunk, values, changed, strict=True):
        if touched.any():
            yield FinishedCell(*place, value)
        else:
            yield FinishedCell(*place, np.full_like(value, np.nan), UNCHANGED)


def _chunks(
    cells: Sequence[tuple[tuple[int, int], Variant]], flops: Sequence[float]
) -> Iterator[list[tuple[tuple[int, int], Variant]]]:
    """Yield the places in order, about `CHUNK_FLOPS` of arithmetic at a time."""
    chunk: list[tuple[tuple[int, int], Variant]] = []
    work = 0.0
    for cell, each in zip(cells, flops, strict=True):
        chunk.append(cell)
        work += each
        if work >= CHUNK_FLOPS:
            yield chunk
            chunk, work = [], 0.0
    if chunk:
        yield chunk


def sweep_bar(total: int, *, progress: bool) -> tqdm:
    """Return the bar of a sweep, shown where stderr is a terminal."""
    return tqdm(total=total, desc="sweep", unit="place", disable=None if progress else True)


def _header(
    model: HookedMamba,
    pairs: EncodedPairs,
    table: SweepTable,
    effects: SweepEffects,
    intervention: Intervention,
) -> dict[str, Any]:
    """Return everything the values depend on, by name."""
    return {
        "mechtest": version("mechtest"),
        "weights": identity_of(model).weights or digest_of(list(model.state_dict().values())),
        "dtype": str(model.embedding.weight.dtype),
        "prompts": digest_of([pairs.clean_tokens, pairs.corrupted_tokens, pairs.attention_mask]),
        "order": digest_of(pairs.order.tolist()),  # what noise is keyed by
        "roles": digest_of([list(pairs.roles), pairs.role_positions]),
        "answers": digest_of([pairs.answers.answer_ids, pairs.answers.foil_ids]),
        "templates": digest_of([list(pairs.templates), pairs.cluster.tolist()]),
        "sites": digest_of([list(row) for row in table.sites]),
        "channels": digest_of([list(c.channels or ()) for c in table.circuits.values()]),
        "intervention": f"{intervention.name} {digest_of(intervention)}",
        "base": effects.base,
        "metric": effects.metric.name,
        "vocabulary": getattr(effects.metric, "vocabulary", None),
        "engine": effects.runner.engine,
    }


def _mean_over_templates(values: np.ndarray, pairs: EncodedPairs) -> float:
    return float(np.mean([values[pairs.cluster == c].mean() for c in np.unique(pairs.cluster)]))


def pairs_for_sweep(
    model: HookedMamba, prompts: PromptPairs | PromptPair | EncodedPairs
) -> EncodedPairs:
    """Return the prompts a sweep may look at, encoded.

    Raises:
        ShapeError: Prompts kept for testing claims, or none.
    """
    if isinstance(prompts, EncodedPairs):
        if prompts.side == "test":
            raise _kept_for_testing()
        return prompts
    if isinstance(prompts, ConfirmationPairs):
        raise _kept_for_testing()
    if isinstance(prompts, PromptPair):
        return PromptPairs((prompts,), source="one pair").encode(model.tokenizer)
    chosen = prompts if isinstance(prompts, DiscoveryPairs) else prompts.discovery
    if not len(chosen):
        raise ShapeError(
            "no template of these prompts falls on the discovery half",
            given=repr(prompts),
            expected="templates on both halves",
            next_step="sweep one PromptPair, or prompts.encode(model.tokenizer) if no claim is "
            "going to be tested on them",
        )
    return chosen.encode(model.tokenizer)


def _kept_for_testing() -> ShapeError:
    return ShapeError(
        "a sweep looks for places, and these prompts are kept for testing claims",
        given="the test half of the prompts",
        expected="prompts, or prompts.discovery",
    )


def identity_of(model: HookedMamba) -> ModelIdentity:
    """Return which weights a sweep was made in."""
    known = model.fingerprint
    return ModelIdentity(
        name=model.source,
        weights="" if known is None else known.weights,
        tokenizer="" if known is None else known.tokenizer or "",
        dtype=str(model.embedding.weight.dtype).removeprefix("torch."),
        device=str(model.device),
    )
