"""How does a test say that it is a claim, and what does it say?

Two markers: `claim` on a test, and `claim_family` on a module (or class), which names the circuit's
family and the model and prompts that its fixtures bring.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pytest

from mechtest.errors import RegistrationError

__all__ = [
    "EXPECTATIONS",
    "ClaimMark",
    "FamilyMark",
    "claim",
    "family",
    "read_claim",
    "read_family",
]

EXPECTATIONS = ("supported", "refuted", "inconclusive", "not supported")

MARKERS = (
    (
        "claim(statement, family=None, expect='supported', exact=False, ...): the test checks this "
        "sentence about a model."
    ),
    (
        "claim_family(name, model=None, prompts=None, ordered=True, ...): the claims are about one "
        "circuit, and share one part of the error rate."
    ),
)


class Marked(Protocol):
    """What has markers: a test, or the function it will be made from."""

    def get_closest_marker(self, name: str) -> pytest.Mark | None:
        """Return the nearest marker of that name."""

    def iter_markers(self, name: str | None = None) -> Iterator[pytest.Mark]:
        """Return all markers of that name, nearest first."""


@dataclass(frozen=True, slots=True)
class FamilyMark:
    """What a `claim_family` marker says, after what the claim itself overrides.

    Attributes:
        name: Of the family.
        model: Suite, checkpoint directory or repository, as written; None without one.
        prompts: Prompt file, as written; None without one.
        ordered: Whether a claim counts only if all claims before it are supported.
        seed: Which training seed of a suite `mamba` is.
        checkpoint: Which step of a suite, as written.
        per_template: How many prompts of each template are used; None for all.
    """

    name: str
    model: str | None = None
    prompts: str | None = None
    ordered: bool = True
    seed: int = 0
    checkpoint: str = "last"
    per_template: int | None = None


@dataclass(frozen=True, slots=True)
class ClaimMark:
    """What a `claim` marker says.

    Attributes:
        statement: The claim as a sentence.
        expect: The verdict at which the test passes.
        exact: An identity: nothing is estimated, so it takes no part in the error rate.
        family: Name of its family where the claim names one itself.
        problem: Why the marker cannot be used; empty when it can.
    """

    statement: str
    expect: str = "supported"
    exact: bool = False
    family: str | None = None
    problem: str = ""


def claim(
    statement: str,
    *,
    family: str | None = None,
    expect: str = "supported",
    exact: bool = False,
    model: str | None = None,
    prompts: str | None = None,
    checkpoint: str | int | None = None,
) -> pytest.MarkDecorator:
    """Mark a test as a claim.

    Args:
        statement: The claim as one sentence; it is what the report prints.
        family: Family to count it to instead of the module's.
        expect: Verdict at which the test passes: `supported`, `refuted`, `inconclusive` or
            `not supported` (one of the last two).
        exact: The claim is an identity; it takes no part in the error rate.
        model: Use this model instead of the family's.
        prompts: Use this prompt file instead of the family's.
        checkpoint: Use this checkpoint instead of the family's.

    Raises:
        RegistrationError: An empty statement, or an `expect` that is none of the above.
    """
    given = {"family": family, "model": model, "prompts": prompts, "checkpoint": checkpoint}
    keywords: dict[str, Any] = {k: v for k, v in given.items() if v is not None}
    if expect != "supported":
        keywords["expect"] = expect
    if exact:
        keywords["exact"] = exact
    mark = pytest.mark.claim(statement, **keywords)
    problem = _parse(mark.mark).problem
    if problem:
        raise _refused(problem)
    return mark


def family(
    name: str,
    *,
    model: str | None = None,
    prompts: str | None = None,
    ordered: bool = True,
    seed: int = 0,
    checkpoint: str | int = "last",
    per_template: int | None = None,
) -> pytest.MarkDecorator:
    """Mark a module (`pytestmark = mt.family(...)`) or class: its claims are about one circuit.

    Args:
        name: Of the family; claims of one name share one part of the error rate.
        model: Directory of a suite or checkpoint, relative to pytest's rootdir, or a repository.
        prompts: Prompt file, relative to rootdir.
        ordered: Whether a claim counts only if all claims before it are supported. Each claim then
            gets the family's whole share of the error rate; unordered claims divide it.
        seed: Which training seed of a suite the fixture `mamba` is.
        checkpoint: Which step of a suite: `step-02500`, 2500 or `last`.
        per_template: Use only the first so many prompts of each template.
    """
    return pytest.mark.claim_family(
        name,
        model=model,
        prompts=prompts,
        ordered=ordered,
        seed=seed,
        checkpoint=checkpoint,
        per_template=per_template,
    )


def read_claim(node: Marked) -> ClaimMark | None:
    """Return what the nearest `claim` marker says, None for a test that is no claim."""
    mark = node.get_closest_marker("claim")
    if mark is None:
        return None
    parsed = _parse(mark)
    if not parsed.problem and node.get_closest_marker("flaky") is not None:
        problem = (
            "a claim with a `flaky` marker: k further tries turn an error rate of alpha into "
            "1 - (1 - alpha)^(k + 1)"
        )
        return replace(parsed, problem=problem)
    return parsed


def read_family(node: Marked, module: str) -> FamilyMark:
    """Return the family of a test; `module` names it where no marker does."""
    mark = node.get_closest_marker("claim_family")
    found = FamilyMark(module) if mark is None else _family(mark, module)
    own = node.get_closest_marker("claim")
    if own is None:
        return found
    changes = {k: own.kwargs[k] for k in ("model", "prompts", "checkpoint") if own.kwargs.get(k)}
    if own.kwargs.get("family"):
        changes["name"] = own.kwargs["family"]
    texts: dict[str, Any] = {key: str(value) for key, value in changes.items()}
    return replace(found, **texts)


def refusal(problem: str) -> RegistrationError:
    """Return the error for a claim whose marker cannot be used."""
    return _refused(problem)


def _refused(problem: str) -> RegistrationError:
    return RegistrationError(
        problem,
        expected='@mt.claim("one sentence", expect="supported")',
        next_step="correct the marker of this test",
    )


def _parse(mark: pytest.Mark) -> ClaimMark:
    known = {"statement", "family", "expect", "exact", "model", "prompts", "checkpoint"}
    values = dict(mark.kwargs)
    if mark.args:
        values["statement"] = mark.args[0]
    statement = values.get("statement", "")
    expect = values.get("expect", "supported")
    unknown = sorted(set(values) - known)
    problem = ""
    if len(mark.args) > 1 or not isinstance(statement, str) or not statement.strip():
        problem = f"a claim needs its statement as one sentence, got {mark.args!r}"
    elif expect not in EXPECTATIONS:
        problem = f"expect={expect!r} is none of {', '.join(EXPECTATIONS)}"
    elif unknown:
        problem = f"a claim takes no {', '.join(unknown)}"
    return ClaimMark(
        statement=str(statement),
        expect=str(expect),
        exact=bool(values.get("exact", False)),
        family=values.get("family"),
        problem=problem,
    )


def _family(mark: pytest.Mark, module: str) -> FamilyMark:
    given = mark.kwargs
    name = mark.args[0] if mark.args else given.get("name", module)
    per_template = given.get("per_template")
    model, prompts = given.get("model"), given.get("prompts")
    return FamilyMark(
        name=str(name),
        model=None if model is None else str(model),
        prompts=None if prompts is None else str(prompts),
        ordered=bool(given.get("ordered", True)),
        seed=int(given.get("seed", 0)),
        checkpoint=str(given.get("checkpoint", "last")),
        per_template=None if per_template is None else int(per_template),
    )
