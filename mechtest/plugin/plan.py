"""Which claims does a session hold, selected or not?"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import pytest

from mechtest.plugin.levels import Budget, RegisteredClaim, budget
from mechtest.plugin.marks import ClaimMark, read_claim, read_family
from mechtest.plugin.models import ModelChoice, key_without_model

__all__ = ["PlannedClaim", "budget_of", "choices_of", "module_of", "plan_items", "with_selection"]

MODEL_FIXTURES = ("mamba", "mamba_seeds")

MOST_CODE = 4000
"""Characters of a test's source that a report shows."""


@dataclass(frozen=True, slots=True)
class PlannedClaim:
    """A claim as collected, before anything has run.

    Attributes:
        id: Node id.
        key: Node id without the model's parameter.
        statement: The claim as a sentence.
        family: Name of its family.
        ordered: Whether that family's claims are gates for one another.
        expect: Verdict at which its test passes.
        exact: Whether it is an identity.
        file: Of the test, relative to rootdir.
        line: Of the test, from 1.
        selected: Whether this run checks it.
        suite: Model, as written; empty without one.
        seed: Training seed; None for none or all.
        checkpoint: Name of the step.
        step: Training step, where the model's name says one.
        code: Of the test, as its file had it.
        problem: Why the claim cannot be checked as declared; empty when it can.
    """

    id: str
    key: str
    statement: str
    family: str
    ordered: bool
    expect: str
    exact: bool
    file: str
    line: int
    selected: bool = True
    suite: str = ""
    seed: int | None = None
    checkpoint: str = ""
    step: int | None = None
    code: str = ""
    problem: str = ""

    @property
    def registered_claim(self) -> RegisteredClaim:
        """The claim as far as its error rate goes."""
        return RegisteredClaim(self.key, self.family, self.expect, self.exact)

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PlannedClaim:
        """Read what `as_json` wrote; fields of later versions are ignored."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in content.items() if key in known})


def module_of(node_id: str) -> str:
    """Return the name of a test's module: the family of claims that name none."""
    return node_id.partition("::")[0].rpartition("/")[2].removesuffix(".py")


def choices_of(item: pytest.Item) -> list[ModelChoice]:
    """Return the models that a test was parametrised with."""
    callspec = getattr(item, "callspec", None)
    values = {} if callspec is None else callspec.params
    found = [values.get(name) for name in MODEL_FIXTURES]
    return [choice for choice in found if isinstance(choice, ModelChoice)]


def plan_items(items: Sequence[pytest.Item]) -> dict[str, PlannedClaim]:
    """Return the claims among tests, by node id."""
    planned = {}
    for item in items:
        mark = read_claim(item)
        if mark is not None:
            planned[item.nodeid] = _planned(item, mark)
    return planned


def _planned(item: pytest.Item, mark: ClaimMark) -> PlannedClaim:
    choices = choices_of(item)
    family = read_family(item, module_of(item.nodeid))
    record = choices[0].record if choices else None
    file, line, _ = item.location
    return PlannedClaim(
        id=item.nodeid,
        key=key_without_model(item.nodeid, choices),
        statement=mark.statement,
        family=family.name,
        ordered=family.ordered,
        expect=mark.expect,
        exact=mark.exact,
        file=file.replace("\\", "/"),
        line=(line or 0) + 1,
        suite="" if record is None else record.suite,
        seed=None if record is None else record.seed,
        checkpoint="" if record is None else record.step,
        step=choices[0].step if choices else None,
        code=_code(item),
        problem=mark.problem,
    )


def _code(item: pytest.Item) -> str:
    """Return a test's source, decorators included; empty where there is none to read."""
    try:
        code = inspect.getsource(item.function)  # type: ignore[attr-defined]
    except (OSError, TypeError, AttributeError):
        return ""
    code = textwrap.dedent(code)
    return code if len(code) <= MOST_CODE else f"{code[:MOST_CODE]}\n..."


def with_selection(
    planned: Mapping[str, PlannedClaim], selected: Sequence[pytest.Item]
) -> dict[str, PlannedClaim]:
    """Return the claims with a note which of them are left to run."""
    left = {item.nodeid for item in selected}
    return {name: replace(claim, selected=name in left) for name, claim in planned.items()}


def budget_of(planned: Mapping[str, PlannedClaim], alpha: float) -> Budget:
    """Return how alpha is shared over the claims of a collection, in their order."""
    in_order = sorted(planned.values(), key=lambda claim: (claim.file, claim.line, claim.id))
    claims = [claim.registered_claim for claim in in_order if not claim.problem]
    ordered = {claim.family: claim.ordered for claim in reversed(in_order)}
    return budget(alpha, claims, ordered)
