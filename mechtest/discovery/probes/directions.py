"""Which directions does a probe read, and what happens when they are ablated?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from mechtest.discovery.looking import Behaviour
from mechtest.discovery.probes.fitting import ProbeModel
from mechtest.interventions import Circuit, ResampleAblation, Runner, Subspace

__all__ = ["ProbeDirections", "effects_of", "probe_directions"]

NOTHING = 1e-6
"""Singular values below this share of the largest are rounding."""

LOGITS = 2**28
"""Bytes of logits that are held at once."""


@dataclass(frozen=True, eq=False)
class ProbeDirections:
    """A subspace of a site in standardised coordinates: divided by their spread.

    Attributes:
        frame: Orthonormal columns, the most important first.
        scale: Spread of each coordinate.
    """

    frame: Float[np.ndarray, "dim rank"]
    scale: Float[np.ndarray, " dim"]

    @property
    def rank(self) -> int:
        """Number of directions."""
        return int(self.frame.shape[1])

    def circuit(self, site: str, **options: Any) -> Circuit:
        """Return these directions of a site; the whole site where they span it."""
        if self.rank >= len(self.scale):
            return Circuit(site, **options)
        scale = torch.from_numpy(np.array(self.scale))
        columns = torch.from_numpy(np.array(self.frame)) * scale[:, None]
        return Circuit(site, subspace=Subspace.spanned_by(columns, scale), **options)


def probe_directions(fitted: Any, rank: int | None) -> ProbeDirections | None:
    """Return the directions a fitted pipeline reads; None if it reads nothing at all.

    Names have one direction less than there are: what adds to all of them decides nothing.

    Args:
        fitted: See `ProbeModel.fitted`.
        rank: Keep so many at most, those with the largest weights.
    """
    weights = ProbeModel.weights(fitted)
    if len(weights) > 1:
        weights = weights - weights.mean(axis=0)
    _, sizes, axes = np.linalg.svd(weights, full_matrices=False)
    if not sizes.size or not sizes[0] > 0:
        return None
    kept = int((sizes > NOTHING * sizes[0]).sum())
    return ProbeDirections(axes[: min(kept, rank or kept)].T, np.asarray(fitted[0].scale_))


def effects_of(
    runner: Runner, behaviour: Behaviour, circuits: Mapping[Any, Circuit]
) -> tuple[dict[Any, np.ndarray], dict[Any, str]]:
    """Return the share of the behaviour that resampling each circuit loses, one a prompt.

    Args:
        runner: Model and prompts.
        behaviour: Of the same prompts.
        circuits: By any key.

    Returns:
        The effects, and for keys without any, why.
    """
    found: dict[Any, np.ndarray] = {}
    reasons: dict[Any, str] = {}
    each = 4 * len(runner.pairs) * runner.model.cfg.d_vocab
    size = max(1, LOGITS // each)
    keys = list(circuits)
    for start in range(0, len(keys), size):
        part = keys[start : start + size]
        values, changed = _chunk(runner, behaviour, [circuits[key] for key in part])
        for key, one, any_change in zip(part, values, changed, strict=True):
            if any_change:
                found[key] = one
            else:
                reasons[key] = "the clean and the corrupted run do not differ here"
    return found, reasons


def _chunk(
    runner: Runner, behaviour: Behaviour, circuits: Sequence[Circuit]
) -> tuple[list[np.ndarray], list[bool]]:
    variants = [runner.variant([circuit], ResampleAblation()) for circuit in circuits]
    logits, changed = runner.sweep_logits(variants, "clean")
    lost = [behaviour.clean - behaviour.metric(one, runner.pairs) for one in logits]
    values = [(one.double() / behaviour.gap).cpu().numpy() for one in lost]
    return values, changed.any(1).tolist()
