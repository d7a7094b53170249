"""How much of the behaviour does a circuit carry on the prompts that are looked at?

The same two numbers that claims are about, read on the discovery half: what is lost without the
circuit, and what comes back when it alone is restored. Intervals have templates as their unit, and
are too narrow for a circuit that was chosen among many by these very numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from mechtest.errors import NothingChangedError, SampleError
from mechtest.interventions import Circuit, Intervention, Patch, ResampleAblation, Runner
from mechtest.stats import cluster_effect, inversion_interval, keyed_generator
from mechtest.tasks import Metric

__all__ = ["CONFIDENCE", "Share", "channel_total", "measure_share", "part_name"]

CONFIDENCE = 0.95

Mode = Literal["ablate", "restore"]


@dataclass(frozen=True)
class Share:
    """One effect.

    Attributes:
        value: Share of the behaviour; None where nothing was changed.
        low: Lower end of the interval, None where there is none.
        high: Upper end.
        reason: Why a number is missing.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""

    @property
    def floor(self) -> float:
        """What it is at least, as far as this sample goes; below everything without a number."""
        known = self.low if self.low is not None else self.value
        return -1e9 if known is None else known


def measure_share(
    runner: Runner,
    metric: Metric,
    circuit: Circuit,
    mode: Mode = "ablate",
    intervention: Intervention | None = None,
) -> Share:
    """Return the share of the behaviour that a circuit carries.

    Args:
        runner: Model and prompts.
        metric: Reads logits.
        circuit: Where.
        mode: `ablate` in the clean run, or `restore` in the corrupted one.
        intervention: For `ablate`; by default resampling.

    Raises:
        MetricError, NonFiniteError, SiteError: As `Runner.run`.
    """
    clean, corrupted = (_read(runner, metric, runner.logits(run)) for run in _RUNS)
    labels = [runner.pairs.templates[index] for index in runner.pairs.cluster]
    try:
        if mode == "ablate":
            run = runner.run(circuit, intervention or ResampleAblation())
            moved = clean - _read(runner, metric, run.logits)
        else:
            run = runner.run(circuit, Patch("clean"), "corrupted")
            moved = _read(runner, metric, run.logits) - corrupted
    except NothingChangedError as error:
        return Share(None, reason=error.what)
    if len(set(labels)) < 2:
        gap = float((clean - corrupted).mean())
        return Share(float(moved.mean()) / gap if gap else None, reason="one template alone")
    effect = cluster_effect(moved, clean - corrupted, labels)
    if effect.estimate is None:
        return Share(None, reason="there is no behaviour to take a share of")
    try:
        interval = inversion_interval(
            effect, CONFIDENCE, generator=keyed_generator(0, circuit.name, "sign flips", mode)
        )
    except SampleError as error:
        return Share(effect.estimate, reason=error.what)
    return Share(effect.estimate, interval.low, interval.high, interval.reason)


def part_name(circuit: Circuit) -> str:
    """Return what of its sites a circuit is, for tables."""
    if circuit.subspace is not None:
        return f"{circuit.subspace.rank} directions"
    counts = [len(one) for one in circuit.by_site if one is not None]
    if not counts:
        return "whole"
    return f"{sum(counts)} channels" + ("" if len(counts) == 1 else f" at {len(counts)} sites")


def channel_total(circuit: Circuit) -> float:
    """Return how much of a model a circuit is, for choosing the smaller of two."""
    if circuit.subspace is not None:
        return float(circuit.subspace.rank)
    return float(sum(_WHOLE if one is None else len(one) for one in circuit.by_site))


_WHOLE = 10**6
_RUNS: tuple[Literal["clean"], Literal["corrupted"]] = ("clean", "corrupted")


def _read(runner: Runner, metric: Metric, logits: object) -> np.ndarray:
    if getattr(metric, "needs_reference", False):
        reference = runner.logits("clean")
        found = -metric(logits, runner.pairs, reference=reference)  # type: ignore[arg-type]
    else:
        found = metric(logits, runner.pairs)  # type: ignore[arg-type]
    return np.asarray(found.detach().cpu().double().numpy())
