"""Does the same circuit carry the behaviour in models of other training seeds?"""

from __future__ import annotations

from typing import Any

import torch

from mechtest.discovery.circuits.seed_matching import match_across_seeds
from mechtest.discovery.looking import behaviour_of, looking_runner
from mechtest.discovery.record import about
from mechtest.errors import MechtestError
from mechtest.interventions import Circuit, SweepResult, sweep
from mechtest.models import HookedMamba
from mechtest.study.bench import Bench
from mechtest.study.measured import measure_share
from mechtest.study.step import Found
from mechtest.study.table import StepTable

__all__ = ["compare_seeds"]


@torch.no_grad()
def compare_seeds(bench: Bench) -> Found:
    """Ablate the best circuit in every other seed, and look for the best place of each anew.

    A seed may do the same at another layer: beside the effect at the same place stands the place
    that an effect map of the seed itself puts first. Channels and directions have no counterpart in
    another seed, so that of parts the whole site is compared.
    """
    found = Found()
    circuits = {one.name: one for one in map(_whole, bench.best(3).values())}
    if bench.chosen.suite is None or not circuits:
        found.warnings.append("one checkpoint has no other seeds to compare with")
        found.lines.append("not compared: the model is no suite of several seeds")
        return found
    rows: list[tuple[Any, ...]] = []
    name, circuit = next(iter(circuits.items()))
    models = [(bench.chosen.seed, bench.model), *bench.chosen.other_seeds()]
    models = models[: bench.settings["seeds"] or None]
    for seed, model in models:
        try:
            rows.append((f"seed {seed}", *_in_seed(bench, model, circuit)))
        except MechtestError as error:
            rows.append((f"seed {seed}", None, None, None, "", None))
            found.warnings.append(f"seed {seed}: {error.what}")
    found.keep(
        "seeds",
        StepTable(
            about("seeds", bench.model, bench.pairs, metric=bench.metric.name, circuit=name),
            title=f"what is lost without {name}, by training seed",
            columns=("seed", "lost", "lost low", "lost high", "its best place", "lost there"),
            rows=tuple(rows),
            bars=("lost", "lost there"),
            unit="share of behaviour",
        ),
        count=7,
    )
    found.facts["lost"] = {str(row[0]): row[1] for row in rows}
    if len(models) > 1 and bench.settings["match"]:
        try:
            matches = match_across_seeds(
                models, lambda model, prompts: _scores(bench, model, prompts), bench.pairs,
                count=bench.settings["match"], metric=bench.metric, progress=bench.progress,
            )  # fmt: skip
            found.keep("matches", matches, count=4)
        except MechtestError as error:
            found.warnings.append(f"no matches: {error.what}")
    return found


def _scores(bench: Bench, model: HookedMamba, prompts: Any) -> dict[str, float]:
    """Return a score of each place of one seed: the finder whose findings are matched."""
    told = bench.study.steps["selection"]
    effects = sweep(
        model, bench.sites(told["sites"], model), prompts, metric=bench.metric,
        positions=bench.positions(told["positions"]), progress=False,
    )  # fmt: skip
    assert isinstance(effects, SweepResult)
    return {place.site: place.effect for place in effects.top(effects.values[..., 0].size)}


def _in_seed(bench: Bench, model: HookedMamba, circuit: Circuit) -> tuple[Any, ...]:
    runner = looking_runner(model, bench.prompts.discovery)
    behaviour_of(runner, bench.metric)
    share = measure_share(runner, bench.metric, circuit)
    site = circuit.sites[0]
    pattern = f"blocks.*.{site.hook}"
    effects = sweep(
        model, bench.sites([pattern], model), runner.pairs, metric=bench.metric,
        positions=[str(site).partition("@")[2] or "last"], progress=False,
    )  # fmt: skip
    assert isinstance(effects, SweepResult)
    best = effects.top(1)
    place = (best[0].site, best[0].effect) if best else ("", None)
    return share.value, share.low, share.high, *place


def _whole(circuit: Circuit) -> Circuit:
    """Return a circuit's sites without what of them it is."""
    return Circuit(*map(str, circuit.sites), fitted_on=circuit.fitted_on)
