"""On which models does a claim run?

Reads directory names only, so that collecting needs no torch. What cannot be found is no crash of
the collection: the parameter carries the error, and the fixture raises it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mechtest.errors import CheckpointNotFoundError, MechtestError, RegistrationError
from mechtest.plugin.marks import FamilyMark
from mechtest.plugin.options import Options

__all__ = ["CheckpointRecord", "ModelChoice", "choose_models", "key_without_model"]


@dataclass(frozen=True, slots=True)
class CheckpointRecord:
    """Which checkpoint a test is about: what the fixture `checkpoint` is.

    Attributes:
        suite: Path of the suite (or of the one checkpoint), as written.
        seed: Training seed; None outside a suite, and for all seeds.
        step: Name of the step, empty outside a suite.
        path: Directory or repository; the suite's for all seeds.
    """

    suite: str
    seed: int | None
    step: str
    path: str


@dataclass(frozen=True)
class ModelChoice:
    """One value of the parameter `mamba` or `mamba_seeds`.

    Attributes:
        id: How the parameter reads in a node id.
        suite: As written: a path relative to rootdir, or a repository.
        root: Where that is.
        seed: Training seed; None outside a suite, and for `mamba_seeds`.
        step: Training step; None outside a suite.
        step_name: As its directory is called.
        source: What `HookedMamba.from_pretrained` is given: path, revision, subfolder.
        error: Raised by the fixture instead of loading anything.
        usage: Whether the error is a wrong option, which ends a run before it starts.
    """

    id: str
    suite: str = ""
    root: str = ""
    seed: int | None = None
    step: int | None = None
    step_name: str = ""
    source: tuple[str, str | None, str | None] = ("", None, None)
    error: MechtestError | None = None
    usage: bool = False

    @property
    def record(self) -> CheckpointRecord:
        """What the fixture `checkpoint` says."""
        path, revision, subfolder = self.source
        place = path + (f"@{revision}" if revision else "") + (f"/{subfolder}" if subfolder else "")
        return CheckpointRecord(self.suite, self.seed, self.step_name, place)


def choose_models(
    family: FamilyMark, options: Options, rootdir: Path, *, all_seeds: bool
) -> list[ModelChoice]:
    """Return the models that a test asking for `mamba` (or `mamba_seeds`) is run on.

    Args:
        family: Of the test.
        options: Of the run.
        rootdir: What paths are relative to.
        all_seeds: The test asks for all seeds at once.
    """
    models = options.models or ((family.model,) if family.model else ())
    fixture = "mamba_seeds" if all_seeds else "mamba"
    if not models:
        return [ModelChoice("no-model", error=_no_model(fixture, family.name))]
    wanted = options.checkpoints or (family.checkpoint,)
    explicit = bool(options.checkpoints)
    chosen: list[ModelChoice] = []
    for model in dict.fromkeys(models):
        try:
            found = _of_model(
                model, rootdir, family.seed, wanted, explicit=explicit, all_seeds=all_seeds
            )
        except MechtestError as error:
            found = [ModelChoice(_last(model), suite=model, error=error)]
        chosen += found
    if len(models) > 1:
        chosen = [_renamed(choice) for choice in chosen]
    return _unique(chosen)


def key_without_model(node_id: str, choices: Iterable[ModelChoice]) -> str:
    """Return a node id without the parameters that name models."""
    head, bracket, rest = node_id.partition("[")
    if not bracket:
        return node_id
    inside = f"-{rest[:-1]}-"
    for choice in choices:
        before, found, after = inside.partition(f"-{choice.id}-")
        inside = f"{before}-{after}" if found else inside
    inside = inside.strip("-")
    return f"{head}[{inside}]" if inside else head


def _of_model(
    model: str,
    rootdir: Path,
    seed: int,
    wanted: Sequence[str],
    *,
    explicit: bool,
    all_seeds: bool,
) -> list[ModelChoice]:
    root = rootdir / Path(model).expanduser()
    single = (root / "config.json").is_file() or (not root.exists() and _is_repository(model))
    if single and not all_seeds:
        place = str(root) if root.exists() else model
        return [_single(model, place)]
    if single:
        raise RegistrationError(
            f"`mamba_seeds` needs a suite of several seeds, and {model} is one checkpoint",
            given=model,
            expected="a directory seed0/step-100/..., or one with a suite.toml",
        )
    return _of_suite(model, root, seed, wanted, explicit=explicit, all_seeds=all_seeds)


def _single(model: str, place: str) -> ModelChoice:
    """Return one checkpoint, or one `owner/name@revision` of a repository."""
    repo, at, revision = place.partition("@") if _is_repository(place) else (place, "", "")
    step = _parsed_step(revision or Path(model).name)
    name = _last(f"{repo}-{revision.replace('/', '-')}") if at else _last(model)
    return ModelChoice(
        name, suite=model, root=repo, step=step, source=(repo, revision or None, None)
    )


def _parsed_step(name: str) -> int | None:
    from mechtest.checkpoints.suite_names import STEP_PATTERN, compile_pattern, parse_step

    return parse_step(name, compile_pattern(STEP_PATTERN))


def _of_suite(
    model: str,
    root: Path,
    seed: int,
    wanted: Sequence[str],
    *,
    explicit: bool,
    all_seeds: bool,
) -> list[ModelChoice]:
    from mechtest.checkpoints.families import SuiteIndex

    try:
        index = SuiteIndex.scan(root)
    except CheckpointNotFoundError as error:
        error.next_step = (
            f"make the models (`make zoo` in the project's repository), or name others: "
            f"--mechtest-model=PATH; {model!r} is looked up in {root.parent}"
        )
        raise
    available = index.steps if all_seeds else _steps_of(index, seed)
    names = {step: _step_name(index, seed, step) for step in available}
    try:
        steps = _steps(wanted, index.steps[-1], names, model)
    except CheckpointNotFoundError as error:
        return [ModelChoice(_last(model), suite=model, error=error, usage=explicit)]
    base = ModelChoice("", suite=model, root=str(root))
    if all_seeds:
        whole = replace(base, source=(str(root), None, None))
        return [replace(whole, id=names[s], step=s, step_name=names[s]) for s in steps]
    return [_member(index, seed, step, names[step], base) for step in steps]


def _member(index: Any, seed: int, step: int, name: str, base: ModelChoice) -> ModelChoice:
    at = index.source(seed, step)
    source = (at.path_or_repo, at.revision, at.subfolder)
    path = Path(at.path_or_repo)
    inside = path.is_relative_to(index.root) and path != index.root and not at.subfolder
    parts = path.relative_to(index.root).parts if inside else (f"seed{seed}", name)
    name_of_it = _plain("-".join(parts))
    return replace(base, id=name_of_it, seed=seed, step=step, step_name=name, source=source)


def _steps_of(index: Any, seed: int) -> tuple[int, ...]:
    if seed not in index.seeds:
        index.source(seed)  # raises, and says what there is
    return tuple(sorted(step for number, step in index.members if number == seed))


def _step_name(index: Any, seed: int, step: int) -> str:
    """Return what the step's directory is called, or a name made from its number."""
    keys = [(seed, step), *((other, step) for other in index.seeds)]
    for key in keys:
        if key in index.members:
            member = index.members[key]
            path = Path(member.path_or_repo)
            inside = path.is_relative_to(index.root)
            name = path.name if inside else (member.revision or "")
            if _parsed_step(name) == step or (inside and str(step) in name.lstrip("0")):
                return _plain(name)
    return f"step-{step:05d}"


def _steps(wanted: Sequence[str], last: int, names: dict[int, str], model: str) -> list[int]:
    """Return the steps that are asked for, ascending."""
    by_name = {name: step for step, name in names.items()}
    found: set[int] = set()
    for text in wanted:
        if text == "all":
            found.update(names)
        elif text == "last" and last in names:
            found.add(last)
        elif text in by_name:
            found.add(by_name[text])
        elif text.isdecimal() and int(text) in names:
            found.add(int(text))
        else:
            raise CheckpointNotFoundError(
                f"{model} has no checkpoint {text!r}",
                given=f"--mechtest-checkpoint={text}",
                expected=", ".join([*names.values(), "last", "all"]),
            )
    return sorted(found)


def _no_model(fixture: str, family: str) -> RegistrationError:
    return RegistrationError(
        f"the fixture `{fixture}` has no model: family {family!r} names none",
        expected=f'pytestmark = mt.family("{family}", model="path/of/a/suite", prompts="...")',
        next_step="add that line to the test's module, or pass --mechtest-model=PATH",
    )


def _is_repository(model: str) -> bool:
    """Whether a text reads as `owner/name` rather than as a path."""
    parts = model.split("/")
    return len(parts) == 2 and all(parts) and not model.startswith((".", "~", "/"))


def _last(model: str) -> str:
    return _plain(Path(model).name or "model")


def _plain(text: str) -> str:
    """Return a text as pytest writes it in a node id; brackets and colons would confuse it."""
    escaped = text.encode("unicode_escape").decode("ascii")
    return "".join("_" if letter in "[]:" else letter for letter in escaped)


def _renamed(choice: ModelChoice) -> ModelChoice:
    prefix = _last(choice.suite)
    same = choice.id == prefix
    return choice if same else replace(choice, id=f"{prefix}-{choice.id}")


def _unique(choices: list[ModelChoice]) -> list[ModelChoice]:
    seen: dict[str, int] = {}
    unique = []
    for choice in choices:
        seen[choice.id] = seen.get(choice.id, 0) + 1
        count = seen[choice.id]
        unique.append(choice if count == 1 else replace(choice, id=f"{choice.id}.{count}"))
    return unique
