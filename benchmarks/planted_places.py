"""Which places of a compiled model matter, and does a ranking of places put them first?

Two questions a family: which layers and positions (the exact effect of each place, measured in
float64 over all prompts, says what is planted), and which channels of the site that carries it
(the design says which).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.stats import rankdata

from fixtures.compiled import FAMILIES, CompiledModel, Recipe, measure_all, runner_on
from mechtest.interventions import Circuit
from mechtest.tasks import DiscoveryPairs

__all__ = ["BEHAVIOURS", "Case", "auroc", "cases"]

BEHAVIOURS = {
    "marked_slots": ("first", ("first slot", "store channels 0")),
    "token_shift": ("shift", ("shift channels 0",)),
    "redundancy": ("either", ("lane a 0",)),
    "conjunction": ("both", ("lane a 0",)),
    "parity": ("first", ("lane a 0",)),
    "decay": ("near", ("store channels 0",)),
}
"""The behaviour that is looked at in each family, and the rows whose channels are planted."""

PLANTED = 0.1
"""Share of the behaviour, ablated or restored, from which on a place counts as planted."""


@dataclass(frozen=True, eq=False)
class Case:
    """One model and what is planted in it.

    Attributes:
        compiled: The model with its truth.
        prompts: The discovery half of the prompts of one behaviour.
        hooks: Whose places are ranked.
        positions: Roles, in the notation of sites.
        places: Whether each `blocks.L.HOOK@POSITION` is planted.
        channel_site: The site whose channels are ranked.
        channels: Whether each channel is planted.
    """

    compiled: CompiledModel
    prompts: DiscoveryPairs
    hooks: tuple[str, ...]
    positions: tuple[str, ...]
    places: Mapping[str, bool]
    channel_site: str
    channels: Mapping[int, bool]


@cache
def built(family: str, noise: float, templates: int = 32) -> CompiledModel:
    """Return a compiled model."""
    return FAMILIES[family].build(
        **vars(Recipe()) | {"noise": noise, "templates": templates, "per_template": 2}
    )


def case(family: str, noise: float, hooks: tuple[str, ...] = ("state", "hook_out_proj")) -> Case:
    """Return a case with what is planted, as measured in float64 over all prompts."""
    compiled = built(family, noise)
    behaviour, names = BEHAVIOURS[family]
    rows = [row for row in compiled.truth if row.name in names and row.circuit.channels]
    prompts = compiled.prompts.filter(behaviour=behaviour)
    positions = (*sorted({role for pair in prompts for role, _ in pair.positions}), "last")
    positions = tuple(dict.fromkeys(positions))
    names_of_places = [
        f"blocks.{layer}.{hook}@{position}"
        for layer in range(compiled.model.cfg.n_layer)
        for hook in hooks
        for position in positions
    ]
    runner = runner_on(compiled.wide, compiled.prompts, behaviour)
    found = measure_all(runner, [Circuit(name) for name in names_of_places])
    places = {
        name: max(abs(one.ablated), abs(one.restored)) >= PLANTED
        for name, one in zip(names_of_places, found, strict=True)
    }
    planted = {channel for row in rows for channel in row.circuit.channels or ()}
    (site,) = {str(row.circuit.sites[0]) for row in rows}
    channels = {channel: channel in planted for channel in range(compiled.model.cfg.d_inner)}
    return Case(compiled, prompts.discovery, hooks, positions, places, site, channels)


def cases(noises: tuple[float, ...]) -> list[tuple[str, float, Case]]:
    """Return every family at every noise."""
    return [(family, noise, case(family, noise)) for family in BEHAVIOURS for noise in noises]


def auroc(scores: Mapping[str, float], planted: Mapping[str, bool]) -> float | None:
    """Return how often a planted place is ranked before another one; ties count half.

    A place without a score ranks last. None where all places are of one kind.
    """
    names = list(planted)
    lowest = min(scores.values(), default=0.0) - 1
    ranks = rankdata([scores.get(name, lowest) for name in names])
    is_planted = np.array([planted[name] for name in names])
    n, m = int(is_planted.sum()), int((~is_planted).sum())
    if not n or not m:
        return None
    return float((ranks[is_planted].sum() - n * (n + 1) / 2) / (n * m))
