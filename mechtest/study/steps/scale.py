"""Is it the same in larger models, and earlier in training?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.discovery.record import about
from mechtest.errors import MechtestError
from mechtest.interventions import Circuit, SweepResult, sweep
from mechtest.models import HookedMamba
from mechtest.study.bench import Bench
from mechtest.study.chosen_models import load_model
from mechtest.study.measured import measure_share
from mechtest.study.step import Found
from mechtest.study.table import StepTable

__all__ = ["scale_up"]


@torch.no_grad()
def scale_up(bench: Bench) -> Found:
    """Draw the map anew in further models, and hold the best place against the studied one's.

    Layers of models of another depth have no counterpart: only the hook and the position of the
    studied circuit are kept, and the layer is looked for.
    """
    found = Found()
    told = bench.study.scale
    circuits = list(bench.best().values())
    if not (told["models"] or told["checkpoints"]) or not circuits:
        found.lines.append("not asked for: the study file names nothing under [scale]")
        return found
    site = circuits[0].sites[0]
    position = str(site).partition("@")[2] or "last"
    rows: list[tuple[Any, ...]] = []
    for name in _names(bench):
        try:
            rows.append((name, *_in_model(bench, name, site.hook, position)))
        except MechtestError as error:
            found.warnings.append(f"{name}: {error.what}")
    found.keep(
        "scale",
        StepTable(
            about("scale", bench.model, bench.pairs, metric=bench.metric.name),
            title=f"where {site.hook}@{position} matters most, model by model",
            columns=("model", "layers", "gap", "its best place", "lost", "lost low", "lost high"),
            rows=tuple(rows),
            bars=("lost",),
            unit="share of behaviour",
        ),
        count=7,
    )
    return found


def _names(bench: Bench) -> Iterator[str]:
    yield bench.chosen.name
    for step in bench.study.scale["checkpoints"]:
        yield f"{bench.chosen.name} at {step}"
    yield from bench.study.scale["models"]


def _loaded(bench: Bench, name: str) -> HookedMamba:
    if name == bench.chosen.name:
        return bench.model
    told = bench.chosen
    if name.startswith(f"{told.name} at "):
        step = name.removeprefix(f"{told.name} at ")
        return load_model(told.name, told.seed, step, told.device, suite=told.suite)
    return load_model(name, told.seed, "last", told.device)


def _in_model(bench: Bench, name: str, hook: str, position: str) -> tuple[Any, ...]:
    model = _loaded(bench, name)
    runner = looking_runner(model, bench.prompts.discovery)
    behaviour = behaviour_of(runner, bench.metric)
    effects = sweep(
        model, bench.sites([f"blocks.*.{hook}"], model), runner.pairs, positions=[position],
        metric=bench.metric, progress=bench.progress,
    )  # fmt: skip
    assert isinstance(effects, SweepResult)
    best = effects.top(1)
    if not best:
        return model.cfg.n_layer, behaviour.gap, "", None, None, None
    share = measure_share(runner, bench.metric, Circuit(best[0].site))
    return (
        model.cfg.n_layer, behaviour.gap, best[0].site, share.value, share.low, share.high
    )  # fmt: skip
