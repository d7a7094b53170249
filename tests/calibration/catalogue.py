"""Which claims are calibrated, on which models?

Compiled models have an effect that is known and may be set; the zoo's are trained, and their
effects are what they are. Both are populations: the truth of a claim is the population's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

from fixtures.compiled import FAMILIES
from mechtest.discovery import find_channels, find_difference_subspace
from mechtest.interventions import Circuit
from mechtest.models import HookedMamba
from mechtest.tasks import PromptPairs
from tests.calibration.cells import Cell, boundary, exchangeable, planned_power, subspace_family
from tests.calibration.further_cells import (
    best_of_two,
    flips,
    minimal,
    monotone,
    off_target,
    ranked,
    relative,
    selective,
)
from tests.calibration.population import Population

__all__ = ["CELLS", "NAIVE", "POWERS"]

NOISE = 0.02
"""Of the weights of compiled models: enough for effects to differ from prompt to prompt."""


@cache
def compiled(family: str, behaviour: str, share: float = 0.6) -> Population:
    """Return the prompts of a behaviour in a noisy compiled model."""
    built = FAMILIES[family].build(seed=0, share=share, noise=NOISE)
    return Population(built.model, built.prompts.filter(behaviour=behaviour))


@cache
def compiled_circuit(family: str, row: str) -> Circuit:
    """Return the circuit of a row of truth."""
    return FAMILIES[family].build(seed=0, share=0.6, noise=NOISE).row(row).circuit


@cache
def zoo(name: str) -> Population:
    """Return a behaviour of a trained model, four prompts a template."""
    model = HookedMamba.from_pretrained("fixtures/zoo/prose/seed0/step-02500")
    whole = PromptPairs.from_jsonl(f"fixtures/prompts/{name}.jsonl")
    rows = [row for part in whole.by_template().values() for row in part.rows[:4]]
    return Population(model, PromptPairs(tuple(rows), source=name))


@cache
def zoo_channels(name: str, count: int = 6) -> Circuit:
    """Return channels of the state, found on the discovery half; six carry two thirds."""
    population = zoo(name)
    return find_channels(
        population.model, "blocks.1.state@last", population.prompts.discovery, count=count
    )


zoo_most_channels = partial(zoo_channels, count=16)
"""Nearly all of the effect, which then is skewed to the left: no template can have more."""


@cache
def zoo_subspace(name: str) -> Circuit:
    """Return a subspace of the residual stream, found on the discovery half."""
    population = zoo(name)
    return find_difference_subspace(
        population.model, "blocks.1.hook_resid_post@last", population.prompts.discovery, rank=2
    )


Make = Callable[[], Cell]
SLOTS, SHIFT, FACT = ("marked_slots", "first"), ("token_shift", "shift"), "fact_city"


def _on_compiled(kind: str, make: Callable[..., Cell], family: tuple[str, str], row: str) -> Cell:
    return make(kind, compiled(*family), compiled_circuit(family[0], row))


def _on_zoo(kind: str, make: Callable[..., Cell], circuit: Callable[[str], Circuit]) -> Cell:
    return make(kind, zoo(FACT), circuit(FACT))


def _catalogue() -> dict[str, Make]:
    found: dict[str, Make] = {}
    rows = {SLOTS: "store channels 0", SHIFT: "shift channels 0"}
    for family, row in rows.items():
        name = f"compiled/{family[0]}"
        for kind in ("necessary", "sufficient", "sufficient (keep)", "not necessary"):
            found[f"{name} | {kind} | boundary"] = partial(
                _on_compiled, kind, boundary, family, row
            )
        for kind in ("necessary", "sufficient"):
            found[f"{name} | {kind} | exchangeable"] = partial(
                _on_compiled, kind, exchangeable, family, row
            )
    slot = "first slot 0, first asked"
    found["compiled/marked_slots | necessary, subspace | boundary"] = partial(
        _on_compiled, "necessary", boundary, SLOTS, slot
    )
    for kind in ("necessary", "sufficient", "not necessary"):
        found[f"zoo/{FACT} | {kind} | boundary"] = partial(_on_zoo, kind, boundary, zoo_channels)
        found[f"zoo/{FACT} | {kind}, saturated | boundary"] = partial(
            _on_zoo, kind, boundary, zoo_most_channels
        )
    for kind in ("necessary", "sufficient"):
        found[f"zoo/{FACT} | {kind} | exchangeable"] = partial(
            _on_zoo, kind, exchangeable, zoo_most_channels
        )
    found[f"zoo/{FACT} | necessary, subspace | boundary"] = partial(
        _on_zoo, "necessary", boundary, zoo_subspace
    )
    for name, where in (
        ("compiled/marked_slots", lambda: compiled(*SLOTS)),
        (f"zoo/{FACT}", lambda: zoo(FACT)),
    ):
        found[f"{name} | special among subspaces | exchangeable"] = partial(_special, where)
    return {**found, **_further()}


def _further() -> dict[str, Make]:
    """Return cells of assertions that ask more than one question."""
    found: dict[str, Make] = {}
    of_one = {
        "minimal": minimal,
        "ranked": ranked,
        "monotone": monotone,
        "best of two": best_of_two,
        "flip rate": flips,
        "specific to, selective": selective,
    }
    for kind, make in of_one.items():
        found[f"zoo/{FACT} | {kind} | boundary"] = partial(_one, make)
    for kind, make in of_one.items():
        if kind != "flip rate":  # all answers flip, or none
            found[f"compiled/{SLOTS[0]} | {kind} | boundary"] = partial(_one_compiled, make)
    found[f"zoo/{FACT} | specific to | boundary"] = lambda: off_target(
        zoo(FACT), zoo("fact_material"), zoo_channels(FACT)
    )
    found[f"zoo/{FACT} | transfers, relative | boundary"] = lambda: relative(
        zoo(FACT), zoo_channels(FACT), zoo_most_channels(FACT)
    )
    return found


def _one(make: Callable[[Population, Circuit], Cell]) -> Cell:
    return make(zoo(FACT), zoo_channels(FACT))


def _one_compiled(make: Callable[[Population, Circuit], Cell]) -> Cell:
    return make(compiled(*SLOTS), compiled_circuit(SLOTS[0], "store channels 0"))


def _special(where: Callable[[], Population]) -> Cell:
    return subspace_family("special among subspaces", where(), "blocks.1.hook_resid_pre@last", 2)


def _power(kind: str, family: tuple[str, str], row: str, power: float) -> Cell:
    return planned_power(kind, compiled(*family), compiled_circuit(family[0], row), power)


CELLS: dict[str, Make] = _catalogue()
"""Null hypotheses by name: model, assertion, way of not being true."""

NAIVE = tuple(
    name
    for name in CELLS
    if " | necessary | " in name or name == f"zoo/{FACT} | sufficient | exchangeable"
)
"""Null hypotheses on which other tests are tried too."""

POWERS: dict[str, Make] = {
    f"compiled/{family[0]} | {kind} | planned {power:.2f}": partial(
        _power, kind, family, row, power
    )
    for family, row in ((SLOTS, "store channels 0"), (SHIFT, "shift channels 0"))
    for kind in ("necessary", "sufficient")
    for power in (0.5, 0.8, 0.95)
}
"""True claims by name, with the power that the plan gives them."""
