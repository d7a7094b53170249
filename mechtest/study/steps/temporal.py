"""From which earlier tokens does the answer come, and how long is it kept?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from mechtest.discovery.temporal import decay_fit, hidden_attention, influence_map
from mechtest.errors import MechtestError
from mechtest.interventions import SweepResult, knockout, sweep
from mechtest.study.bench import Bench, shared_roles
from mechtest.study.step import Found, Record
from mechtest.study.steps.selection import settled

__all__ = ["follow_time"]


def follow_time(bench: Bench) -> Found:
    """Follow the answer through time, in five ways.

    Ablate every layer's state after every token; read a layer's hidden attention; measure the
    influence of earlier tokens, by gradient and by intervention; fit its decay; and knock out what
    the last token receives from each role. One that fails is told, and the others go on.
    """
    told, found = bench.settings, Found()
    layer = _layer(bench)

    def by_token() -> SweepResult:
        with torch.no_grad():
            effects = sweep(
                bench.model, bench.sites(told["sites"]), bench.pairs, positions="*",
                metric=bench.metric, journal=bench.journal("by-token"), progress=bench.progress,
            )  # fmt: skip
        assert isinstance(effects, SweepResult)
        return settled(effects)

    lags = min(told["max_lag"], int(bench.pairs.clean_tokens.shape[1]) - 1)
    influence: dict[str, Any] = {
        "progress": bench.progress, "max_lag": lags, "metric": bench.metric, "seed": bench.seed,
    }  # fmt: skip
    tools: dict[str, Callable[[], Record]] = {
        "by-token": by_token,
        "hidden-attention": lambda: hidden_attention(
            bench.model, bench.pairs, layer, progress=bench.progress
        ),
        "influence": lambda: influence_map(bench.model, bench.pairs, **influence),
        "decay": lambda: decay_fit(
            influence_map(bench.model, bench.pairs, **influence | {"target": "hook_h"})
        ),
        "knockout": lambda: settled(
            knockout(
                bench.model, bench.pairs, sender=shared_roles(bench.pairs) or None,
                window=min(told["window"], bench.model.cfg.n_layer), metric=bench.metric,
                progress=bench.progress,
            )
        ),
    }  # fmt: skip
    for name, tool in tools.items():
        try:
            found.keep(name, tool(), count=2)
        except MechtestError as error:
            found.warnings.append(f"no {name}: {error.what}")
    return found


def _layer(bench: Bench) -> int:
    """Return the layer of the best circuit, or the last one."""
    for circuit in bench.best().values():
        if circuit.sites[0].layer is not None:
            return circuit.sites[0].layer % bench.model.cfg.n_layer
    return bench.model.cfg.n_layer - 1
