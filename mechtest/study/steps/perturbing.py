"""Does a circuit keep its effect when the prompts are worded in another way?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mechtest.discovery.record import about
from mechtest.errors import MechtestError, StudyError, closest_names
from mechtest.interventions import Runner
from mechtest.stats import keyed_generator
from mechtest.study.bench import Bench
from mechtest.study.measured import measure_share
from mechtest.study.step import Found
from mechtest.study.table import StepTable
from mechtest.tasks.perturbation import (
    Blanks,
    Casing,
    Menu,
    Prefix,
    Prefixes,
    Source,
    SwapSentences,
)

__all__ = ["PERTURBATIONS", "perturb_prompts"]

FEWEST = 8
"""Prompts that have to allow an edit before a number is given for it."""


def perturb_prompts(bench: Bench) -> Found:
    """Ablate the best circuits on edited discovery prompts, one kind of edit after the other."""
    found, kinds = Found(), _sources(bench)
    rows: list[tuple[Any, ...]] = []
    circuits = bench.best(bench.settings["circuits"])
    for kind, source in kinds.items():
        runner = _edited(bench, source)
        if runner is None:
            found.warnings.append(f"{kind}: fewer than {FEWEST} prompts allow it")
            continue
        for name, circuit in circuits.items():
            before = measure_share(bench.runner, bench.metric, circuit)
            after = measure_share(runner, bench.metric, circuit)
            kept = None if not before.value or after.value is None else after.value / before.value
            rows.append(
                (f"{name}, {kind}", len(runner.pairs), after.value, after.low, after.high, kept)
            )
    found.keep(
        "edited",
        StepTable(
            about("perturbation", bench.model, bench.pairs, metric=bench.metric.name,
                  kinds=list(kinds)),
            title="what is lost without the circuit on edited prompts",
            columns=("circuit and edit", "prompts", "lost", "lost low", "lost high", "kept"),
            rows=tuple(rows),
            bars=("lost",),
            unit="share of behaviour",
        ),
        count=4,
    )  # fmt: skip
    found.facts["kept"] = {str(row[0]): row[5] for row in rows}
    return found


PERTURBATIONS: Mapping[str, Any] = {
    "prefix": lambda bench: Prefixes.from_prompts(bench.prompts.discovery),
    "casing": lambda _: Casing(),
    "blanks": lambda _: Blanks(),
    "swap_sentences": lambda _: SwapSentences(),
}
"""Kinds of edits by the name study files give them."""


def _sources(bench: Bench) -> dict[str, Source]:
    found: dict[str, Source] = {}
    for name in bench.settings["kinds"]:
        if name not in PERTURBATIONS:
            raise StudyError(
                f"there is no edit {name!r}",
                given=name,
                closest=closest_names(name, PERTURBATIONS),
                expected=", ".join(PERTURBATIONS),
            )
        try:
            found[name] = PERTURBATIONS[name](bench)
        except MechtestError:
            continue  # no prompt offers anything to make this kind of edit from
    for text in bench.settings["prefixes"]:
        found[f"prefix {text!r}"] = Prefix(text)
    return found


@torch.no_grad()
def _edited(bench: Bench, source: Source) -> Runner | None:
    """Return a runner on the discovery prompts with one edit each; None where few allow it."""
    menu = Menu(bench.prompts.discovery, [source], 1, bench.model.tokenizer)
    drawn = [
        menu.draw(pair, keyed_generator(bench.seed, pair.id, "edit", type(source).__name__))
        for pair in bench.prompts.discovery
    ]
    kept = list(dict.fromkeys(one for one in drawn if one is not None))
    templates = {one.base.template for one in kept}
    if len(kept) < FEWEST or len(templates) < 2:
        return None
    return Runner(bench.model, menu.renderer.encode(kept, bench.model.device))
