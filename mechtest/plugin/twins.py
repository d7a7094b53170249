"""Would a model that learned nothing support the claim too?

The body of a supported claim's test, what it looks for included, is run again with twins in the
place of its models: weights drawn anew, or the trained ones shuffled inside each tensor. What these
runs find is counted and otherwise forgotten.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from mechtest.plugin.plan import MODEL_FIXTURES, PlannedClaim
from mechtest.plugin.verdicts import Judgement, all_records, judge
from mechtest.running_claim import RunningClaim, running

if TYPE_CHECKING:
    from mechtest.models import HookedMamba
    from mechtest.plugin.seeds import SuiteAtStep

__all__ = ["TwinOutcome", "TwinSuite", "untrained_twin", "with_twins"]

PASS_ON = (KeyboardInterrupt, SystemExit, GeneratorExit, pytest.exit.Exception)
OWN_FIXTURES = (*MODEL_FIXTURES, "checkpoint", "claim", "prompts", "rng", "request")


@dataclass(frozen=True)
class TwinOutcome:
    """What twins make of a claim.

    Attributes:
        judgement: Of the claim: as before, or invalid.
        note: One sentence for the record; empty where no twins were asked for.
    """

    judgement: Judgement
    note: str = ""


class TwinSuite:
    """Twins of all training seeds of a suite, made as they are asked for.

    Args:
        suite: The trained ones.
        number: Which twins.
        seed: Root seed.
    """

    def __init__(self, suite: SuiteAtStep, number: int, seed: int) -> None:
        self._suite, self._number, self._seed = suite, number, seed
        self.name, self.step, self.seeds = f"twins of {suite.name}", suite.step, suite.seeds

    def load(self, seed: int) -> HookedMamba:
        """Return the twin of one seed's model."""
        return untrained_twin(self._suite.load(seed), self._number, self._seed, f"seed {seed}")

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[tuple[int, HookedMamba]]:
        for seed in self.seeds:
            yield seed, self.load(seed)


def untrained_twin(model: HookedMamba, number: int, seed: int, of: str = "") -> HookedMamba:
    """Return a model of the same architecture that knows nothing.

    Args:
        model: The trained one.
        number: Which twin: even ones get fresh weights; odd ones the trained weights, shuffled
            inside each tensor, which keeps their scale.
        seed: Root seed.
        of: Which of several models this is the twin of.
    """
    import torch

    from mechtest.models import HookedMamba
    from mechtest.stats import derived_seed

    key = derived_seed(seed, f"untrained twin|{of}", "twin", number) % 2**31
    twin = HookedMamba(model.cfg, tokenizer=model.tokenizer, seed=key)
    trained = dict(model.named_parameters())
    if number % 2:
        generator = torch.Generator().manual_seed(key)
        with torch.no_grad():
            for name, values in twin.named_parameters():
                flat = trained[name].detach().reshape(-1)
                order = torch.randperm(len(flat), generator=generator).to(flat.device)
                values.copy_(flat[order].view_as(values))
    twin.to(device=model.device, dtype=next(iter(trained.values())).dtype)
    kind = "shuffled weights" if number % 2 else "fresh weights"
    twin.source = f"{model.source} (twin {number}, {kind})"
    return twin


def with_twins(
    item: pytest.Item, planned: PlannedClaim, claim: RunningClaim, judgement: Judgement, twins: int
) -> TwinOutcome:
    """Check a claim again in untrained twins, and say what it comes to then.

    Only claims that are supported and meant to be are: a claim that is refuted anyway misleads
    nobody, and an identity holds in any model.

    Args:
        item: Its test, which has run.
        planned: What it is registered as.
        claim: What it found.
        judgement: What that came to.
        twins: How many.
    """
    wanted = planned.expect == "supported" and not planned.exact
    if not twins or not wanted or judgement.verdict != "supported":
        return TwinOutcome(judgement)
    refusal = _refusal(item)
    if refusal:
        return TwinOutcome(judgement, f"no untrained twins were run: {refusal}")
    from mechtest.stats import count_twins

    found = [_verdict(item, claim, number) for number in range(twins)]
    count = count_twins(found.count("supported"), twins, claim.level)
    if not count.broken:
        return TwinOutcome(judgement, str(count))
    reason = f"its harness is broken: {count}; it does not take training to support this claim"
    return TwinOutcome(Judgement("invalid", "untrained twins", reason), str(count))


def _refusal(item: pytest.Item) -> str:
    """Say why a test cannot be run on a twin; empty where it can."""
    arguments = getattr(getattr(item, "_fixtureinfo", None), "argnames", ())
    models = [name for name in arguments if name in MODEL_FIXTURES]
    if not models:
        return "the test takes no model among its arguments"
    if any(not _is_model(item, name) for name in models):
        return "its model is not one of the plugin's"
    made = [name for name in arguments if name not in OWN_FIXTURES and _needs_model(item, name)]
    if made:
        return f"the fixture {made[0]!r} is made from the trained model; find circuits in the test"
    return ""


def _is_model(item: pytest.Item, name: str) -> bool:
    from mechtest.models import HookedMamba
    from mechtest.plugin.seeds import SuiteAtStep

    value = getattr(item, "funcargs", {}).get(name)
    return isinstance(value, HookedMamba | SuiteAtStep)


def _needs_model(item: pytest.Item, name: str) -> bool:
    """Whether a fixture, or one that it asks for, asks for a model."""
    definitions: Mapping[str, Any] = getattr(item, "_fixtureinfo").name2fixturedefs  # noqa: B009
    todo, seen = [name], set()
    while todo:
        current = todo.pop()
        if current in MODEL_FIXTURES:
            return True
        if current not in seen:
            seen.add(current)
            todo += [one for found in definitions.get(current, ()) for one in found.argnames]
    return False


def _verdict(item: pytest.Item, claim: RunningClaim, number: int) -> str:
    """Run the test's body on a twin; whatever stops it, it did not support the claim."""
    key = f"{claim.key}|twin {number}"
    twin = RunningClaim(
        id=claim.id, key=key, statement=claim.statement, family=claim.family, level=claim.level,
        seed=claim.seed, registered=claim.registered, engine=claim.engine, memory=claim.memory,
        tallies=claim.tallies,
    )  # fmt: skip
    arguments = _arguments(item, twin, number)
    error: BaseException | None = None
    try:
        with running(twin):
            getattr(item, "obj")(**arguments)  # noqa: B009
    except PASS_ON:
        raise
    except BaseException as problem:  # noqa: BLE001 - outcomes of pytest are no Exceptions
        error = problem
    verdict = judge(all_records(twin, error), error).verdict
    if verdict == "interrupted" and error is not None:
        raise error  # the time of the test is over, not of the twin
    claim.progress(number + 1, number + 1, "untrained twins")
    return verdict


def _arguments(item: pytest.Item, twin: RunningClaim, number: int) -> dict[str, Any]:
    """Return the test's arguments with twins for models, and randomness of their own."""
    from mechtest.models import HookedMamba
    from mechtest.stats import keyed_generator

    values = getattr(item, "funcargs", {})
    names = getattr(item, "_fixtureinfo").argnames  # noqa: B009
    arguments = {name: values[name] for name in names}
    for name in MODEL_FIXTURES:
        if name in arguments:
            model = arguments[name]
            arguments[name] = (
                untrained_twin(model, number, twin.seed)
                if isinstance(model, HookedMamba)
                else TwinSuite(model, number, twin.seed)
            )
    if "claim" in arguments:
        arguments["claim"] = twin
    if "rng" in arguments:
        arguments["rng"] = keyed_generator(twin.seed, twin.key, "rng")
    return arguments
