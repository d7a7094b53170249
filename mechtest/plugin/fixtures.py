"""What can a claim ask for: models, prompts, itself, random numbers?

Torch is imported when a fixture is used, never before.
"""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mechtest.errors import RegistrationError
from mechtest.plugin.marks import FamilyMark, read_family
from mechtest.plugin.models import CheckpointRecord, ModelChoice, choose_models
from mechtest.plugin.plan import MODEL_FIXTURES, choices_of, module_of
from mechtest.plugin.running import PROMPTS, RUNNING
from mechtest.plugin.seeds import SuiteAtStep
from mechtest.plugin.session import ClaimSession, session_of
from mechtest.running_claim import RunningClaim

if TYPE_CHECKING:
    import numpy as np

    from mechtest.models import HookedMamba
    from mechtest.tasks import PromptPairs

__all__ = ["checkpoint", "claim", "mamba", "mamba_seeds", "parametrise", "prompts", "rng"]

_CACHE = pytest.StashKey[dict[tuple[str, int | None], Any]]()


def parametrise(metafunc: pytest.Metafunc) -> None:
    """Give `mamba` and `mamba_seeds` their models."""
    session = session_of(metafunc.config)
    for name in MODEL_FIXTURES:
        if session is None or name not in metafunc.fixturenames or not _is_ours(metafunc, name):
            continue
        family = read_family(metafunc.definition, module_of(metafunc.definition.nodeid))
        choices = choose_models(
            family, session.options, session.rootdir, all_seeds=name == "mamba_seeds"
        )
        wrong = next((choice.error for choice in choices if choice.usage), None)
        if wrong is not None:
            session.usage_error = str(wrong)
        metafunc.parametrize(
            name, choices, indirect=True, scope="session", ids=[choice.id for choice in choices]
        )


def _is_ours(metafunc: pytest.Metafunc, name: str) -> bool:
    """Whether a fixture is this plugin's, and nobody parametrises it otherwise."""
    defined = getattr(metafunc, "_arg2fixturedefs", {}).get(name)
    if defined and getattr(defined[-1].func, "__module__", __name__) != __name__:
        return False
    for mark in metafunc.definition.iter_markers("parametrize"):
        names = mark.args[0] if mark.args else mark.kwargs.get("argnames", ())
        listed = names.split(",") if isinstance(names, str) else names
        if name in [str(one).strip() for one in listed]:
            return False
    return True


def _choice(request: pytest.FixtureRequest) -> ModelChoice:
    choice = getattr(request, "param", None)
    if not isinstance(choice, ModelChoice):
        raise RegistrationError(
            f"`{request.fixturename}` was asked for by name while a test was running",
            next_step="name it among the arguments of the test",
        )
    if choice.error is not None:
        raise choice.error
    return choice


def _dtype(session: ClaimSession) -> Any:
    import torch

    dtype = getattr(torch, session.options.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise RegistrationError(
            f"no type of weights is called {session.options.dtype!r}",
            given=f"--mechtest-dtype={session.options.dtype}",
            expected="float32, float64, bfloat16 or float16",
        )
    return dtype


def _session(request: pytest.FixtureRequest) -> ClaimSession:
    session = session_of(request.config)
    assert session is not None
    return session


@pytest.fixture(scope="session")
def mamba(request: pytest.FixtureRequest) -> HookedMamba:
    """The model of this claim, in float32 on the CPU unless options say otherwise."""
    choice = _choice(request)
    session = _session(request)
    from mechtest.models import HookedMamba

    path, revision, subfolder = choice.source
    model = HookedMamba.from_pretrained(
        path, revision, subfolder, dtype=_dtype(session), device=session.options.device
    )
    model.source = _without_root(model.source, session)
    return model


def _without_root(source: str, session: ClaimSession) -> str:
    """Return a model's place as reports show it: the same in every checkout."""
    return source.removeprefix(f"{session.rootdir}{os.sep}")


@pytest.fixture(scope="session")
def mamba_seeds(request: pytest.FixtureRequest) -> SuiteAtStep:
    """All training seeds of a suite at one checkpoint; iterating gives (seed, model)."""
    choice = _choice(request)
    session = _session(request)
    from mechtest.models import ModelSuite

    assert choice.step is not None
    suite = ModelSuite(choice.root)
    keywords = {"dtype": _dtype(session), "device": session.options.device}
    return SuiteAtStep(suite, choice.suite, choice.step, keywords)


@pytest.fixture
def prompts(request: pytest.FixtureRequest) -> PromptPairs:
    """The family's prompts, both halves; assertions take the test half themselves."""
    family = _family(request)
    if family.prompts is None:
        raise RegistrationError(
            f"the fixture `prompts` has no file: family {family.name!r} names none",
            expected=f'pytestmark = mt.family("{family.name}", model=..., '
            'prompts="path/of/prompts.jsonl")',
            next_step="add that line to the test's module",
        )
    cache = request.config.stash.setdefault(_CACHE, {})
    key = (family.prompts, family.per_template)
    if key not in cache:
        cache[key] = _load(_session(request).rootdir / family.prompts, family.per_template)
    pairs = cache[key]
    if PROMPTS in request.node.stash:
        request.node.stash[PROMPTS][family.prompts] = pairs.digest
    return pairs  # type: ignore[no-any-return]


def _load(path: Path, per_template: int | None) -> PromptPairs:
    from mechtest.tasks import PromptPairs

    pairs = PromptPairs.from_jsonl(path)
    if per_template is None:
        return pairs
    if per_template < 1:
        raise RegistrationError(f"per_template={per_template} leaves no prompts")
    seen: Counter[str] = Counter()
    rows = []
    for row in pairs.rows:
        seen[row.template] += 1
        if seen[row.template] <= per_template:
            rows.append(row)
    return replace(pairs, rows=tuple(rows))


def _family(request: pytest.FixtureRequest) -> FamilyMark:
    return read_family(request.node, module_of(request.node.nodeid))


@pytest.fixture
def claim(request: pytest.FixtureRequest) -> RunningClaim:
    """The claim that this test checks."""
    found = request.node.stash.get(RUNNING, None)
    if found is None:
        raise RegistrationError(
            "the fixture `claim` was asked for by a test that is no claim",
            expected='@mt.claim("one sentence") above the test',
            next_step="add that line",
        )
    return found  # type: ignore[no-any-return]


@pytest.fixture
def rng(claim: RunningClaim) -> np.random.Generator:
    """Random numbers that belong to this claim, whatever runs beside it and wherever."""
    from mechtest.stats import keyed_generator

    return keyed_generator(claim.seed, claim.key, "rng")


@pytest.fixture
def checkpoint(request: pytest.FixtureRequest) -> CheckpointRecord:
    """Which checkpoint this test is about: suite, seed, step, path."""
    choices = choices_of(request.node)
    if not choices:
        raise RegistrationError(
            "the fixture `checkpoint` was asked for by a test without a model",
            expected="`mamba` or `mamba_seeds` among the arguments of the test",
        )
    return choices[0].record
