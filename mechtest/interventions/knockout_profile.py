"""In which layers does one token's word reach another?

A knockout profile: the same knockout in every window of neighbouring layers, one window at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
import torch

from mechtest.errors import ShapeError
from mechtest.interventions.claim_runner import runner_for_claim
from mechtest.interventions.native.knockout import Knockout, KnockoutMode
from mechtest.interventions.sweep_result import SweepResult
from mechtest.interventions.sweeping import (
    UNCHANGED,
    SweepEffects,
    identity_of,
    pairs_for_sweep,
    sweep_bar,
)
from mechtest.kernels import backend_name
from mechtest.models import HookedMamba
from mechtest.tasks import (
    EncodedPairs,
    Metric,
    PromptPair,
    PromptPairs,
    logit_difference,
    metric_by_name,
)

__all__ = ["knockout"]

T = TypeVar("T")


@dataclass(frozen=True)
class _Row:
    """One knockout, in every window.

    Attributes:
        operator: What is done.
        channels: `all`, `fast` or `slow`.
    """

    operator: Knockout
    channels: str

    @property
    def parts(self) -> dict[str, str]:
        """What it may be told apart by."""
        sender = "-" if self.operator.sender is None else str(self.operator.sender)
        return {"mode": self.operator.mode, "sender": sender, "channels": self.channels}


@torch.no_grad()
def knockout(
    model: HookedMamba,
    prompts: PromptPairs | PromptPair | EncodedPairs,
    *,
    mode: KnockoutMode | Sequence[KnockoutMode] = "zero_attention",
    sender: str | int | Sequence[str | int] | None = None,
    target: str | int = "last",
    window: int = 9,
    channels: str | Sequence[str] = "all",
    factor: float = 2.0,
    metric: Metric | str = logit_difference,
    progress: bool = True,
) -> SweepResult:
    """Knock out what a position receives from others, in every window of neighbouring layers.

    Args:
        model: The model.
        prompts: A collection (its discovery half is taken), one pair, or encoded prompts.
        mode: One of `KNOCKOUT_MODES`, or several: each is a row. See `Knockout`.
        sender: Positions in the notation of sites (`subject_last`, `S2`, -3), or several: each is a
            row. Modes that have no sender leave it out.
        target: The receivers, likewise.
        window: Layers knocked out at once; each window is a column.
        channels: `all`, `fast`, `slow` (see `decay_channels`), or several: each is a row.
        factor: Of `increase_delta`.
        metric: A metric, or its name.
        progress: Show a bar on stderr, where that is a terminal.

    Returns:
        Shares of the behaviour lost in the clean run, a number for each window and prompt. Rows are
        labelled by what they differ in; `engine["operators"]` has their names in full. The site of
        a place names all layers of its window.

    Raises:
        ShapeError: Prompts kept for testing claims, a window that does not fit into the model, or
            an unknown mode or class of channels.
        MetricError: No difference between clean and corrupted prompts.
        PositionError: A position that some prompt lacks.

    Memory: hooks carry it out, `Runner`'s batch of prompts at a time; of one layer the activations
        it reads, and two states a prompt.
    Sources: Geva et al. 2023, section 5 (windows of layers); Endy et al. 2025 (modes, classes).

    Example:
        >>> profile = knockout(model, prompts, sender="subject_last", window=1)
        >>> profile.plot("profile.png")
    """
    rows = list(_rows(_several(mode), _several(sender), _several(channels), factor))
    starts = range(_windows(model, window))
    pairs = pairs_for_sweep(model, prompts)
    chosen = metric_by_name(metric) if isinstance(metric, str) else metric
    runner = runner_for_claim(model, pairs)
    effects = SweepEffects(runner, chosen, "clean")
    values = np.full((len(rows), len(starts), len(pairs)), np.nan)
    reasons: dict[tuple[int, int], str] = {}
    sites = []
    with sweep_bar(len(rows) * len(starts), progress=progress) as bar:
        for at, row in enumerate(rows):
            here = []
            for start in starts:
                circuits = row.operator.circuits(
                    model,
                    layers=range(start, start + window),
                    positions=target,
                    channels=row.channels,
                )
                here.append(", ".join(str(site) for one in circuits for site in one.sites))
                found, changed = effects.of([runner.variant(circuits, row.operator)])
                if changed.any():
                    values[at, start] = found[0]
                else:
                    reasons[at, start] = UNCHANGED
                bar.update(1)
            sites.append(tuple(here))
    operators = list(dict.fromkeys(row.operator.name for row in rows))
    modes = list(dict.fromkeys(row.operator.mode for row in rows))
    named = operators if len(operators) == 1 else [f"knockout {', '.join(modes)}"]
    parts = _telling_parts(rows)
    return SweepResult(
        rows=tuple(", ".join(row.parts[part] for part in parts) for row in rows),
        columns=tuple(_span(start, window) for start in starts),
        row_name=", ".join(parts),
        column_name="layer" if window == 1 else "layers",
        sites=tuple(sites),
        values=values,
        reasons=reasons,
        prompt_ids=pairs.ids,
        templates=tuple(pairs.templates[index] for index in pairs.cluster),
        effect_name=f"{chosen.name.replace('_', ' ')} lost",
        unit="share of behaviour",
        intervention=named[0],
        base="clean",
        metric=chosen.name,
        model=identity_of(model),
        engine={
            "executor": "hooked",
            "kernels": backend_name(model.device.type, model.embedding.weight.dtype),
            "forward_tokens": runner.forward_tokens,
            "forward_passes": runner.forward_passes,
            "operators": [row.operator.name for row in rows],
            "channels": [row.channels for row in rows],
            "window": window,
        },
    )


def _rows(
    modes: Sequence[KnockoutMode],
    senders: Sequence[str | int | None],
    channels: Sequence[str],
    factor: float,
) -> Iterator[_Row]:
    """Yield every combination once; senders count for the modes that have one."""
    seen = set()
    for mode, sender, kind in product(modes, senders, channels):
        sends = mode in ("zero_attention", "zero_delta", "increase_delta")
        row = _Row(Knockout(mode, sender if sends else None, factor), kind)
        if row not in seen:
            seen.add(row)
            yield row


def _telling_parts(rows: Sequence[_Row]) -> list[str]:
    """Return what the rows differ in; their mode where there is one row."""
    differ = [part for part in rows[0].parts if len({row.parts[part] for row in rows}) > 1]
    return differ or ["mode"]


def _several(one_or_more: T | Sequence[T]) -> list[T]:
    if isinstance(one_or_more, list | tuple):
        return list(one_or_more)
    return [one_or_more]  # type: ignore[list-item]


def _windows(model: HookedMamba, window: int) -> int:
    count = model.cfg.n_layer
    if isinstance(window, bool) or not 1 <= window <= count:
        raise ShapeError(
            f"a window of {window} layers does not fit into a model of {count}",
            given=f"window={window!r}",
            expected=f"1 to {count}",
        )
    return count - window + 1


def _span(start: int, window: int) -> str:
    return str(start) if window == 1 else f"{start}-{start + window - 1}"
