"""What does a study file say, and what is wrong with one?

A study file is TOML. Every key is known, has a type and (but for three) a default: a key that
nobody reads would be a setting that silently does nothing.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mechtest.errors import MechtestError, StudyError, closest_names
from mechtest.study.step import Setting

__all__ = ["STUDY_SETTINGS", "StudySettings", "read_study_file", "settings_of"]

REQUIRED = ("name", "model", "prompts")

STUDY_SETTINGS: Mapping[str, Setting] = {
    "name": Setting("", "what the study, its directory and its claims are called"),
    "model": Setting("", "suite of models, one checkpoint, or a repository"),
    "prompts": Setting("", "prompt file (JSON Lines); its discovery half is looked at"),
    "seed": Setting(0, "training seed of the suite that is studied"),
    "checkpoint": Setting("last", "training step of the suite that is studied"),
    "metric": Setting("logit_difference", "metric that effects are read with"),
    "per_template": Setting(0, "use the first so many prompts of each template; 0 for all"),
    "output": Setting("", "directory of the study; by default studies/<name>"),
    "random_seed": Setting(0, "seed of everything that is drawn"),
    "device": Setting("cpu", "where the model runs"),
    "pictures": Setting(default=True, meaning="draw a picture of every record"),
    "min_accuracy": Setting(0.6, "share of clean prompts that the model has to answer right"),
}
"""Keys of `[study]`."""

TRANSFER_SETTINGS: Mapping[str, Setting] = {
    "prompts": Setting((), "further prompt files"),
}
SCALE_SETTINGS: Mapping[str, Setting] = {
    "models": Setting((), "further suites, checkpoints or repositories"),
    "checkpoints": Setting((), "further training steps of the studied suite"),
}


@dataclass(frozen=True)
class StudySettings:
    """What a study file says, defaults filled in.

    Attributes:
        study: Keys of `[study]`.
        only: Steps that are wanted; empty for all.
        skip: Steps that are left out.
        steps: Settings of each step, by its name.
        transfer: Keys of `[transfer]`.
        scale: Keys of `[scale]`.
        source: Name of the file, for messages.
    """

    study: Mapping[str, Any]
    only: tuple[str, ...] = ()
    skip: tuple[str, ...] = ()
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    transfer: Mapping[str, Any] = field(default_factory=dict)
    scale: Mapping[str, Any] = field(default_factory=dict)
    source: str = "study.toml"

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.study["name"])

    @property
    def output(self) -> Path:
        """Directory of the study."""
        return Path(self.study["output"] or f"studies/{self.name}")


def read_study_file(path: str | Path, steps: Mapping[str, Mapping[str, Setting]]) -> StudySettings:
    """Read a study file.

    Args:
        path: The file.
        steps: Names of all steps, each with the settings it takes.

    Raises:
        StudyError: No such file, no TOML, or a key, step or value that nobody knows.
    """
    place = Path(path)
    try:
        content = tomllib.loads(place.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{place} cannot be read: {getattr(error, 'strerror', None) or error}",
            expected="a study file",
            next_step="`mechtest new-study study.toml --model ... --prompts ...` writes one",
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise StudyError(
            f"{place} is no TOML: {error}",
            expected='lines such as name = "fact-city", under a heading [study]',
        ) from error
    return settings_of(content, steps, source=str(place))


def settings_of(
    content: Mapping[str, Any],
    steps: Mapping[str, Mapping[str, Setting]],
    *,
    source: str = "study",
) -> StudySettings:
    """Return settings from what a study file holds.

    Raises:
        StudyError: A key, step or value that nobody knows, or one that is missing.
    """
    _refuse_unknown(content, ("study", "steps", "transfer", "scale"), source, "table")
    study = _filled(_table(content, "study", source), STUDY_SETTINGS, f"{source} [study]")
    for key in REQUIRED:
        if not study[key]:
            raise StudyError(
                f"{source} does not say {key!r} under [study]",
                given=", ".join(sorted(content.get("study", {}))) or "nothing",
                expected=f"{key} = ...: {STUDY_SETTINGS[key].meaning}",
            )
    name = str(study["name"])
    if not all(letter.isalnum() or letter in "-_" for letter in name):
        raise StudyError(
            f"{source}: a study is called by letters, digits, - and _",
            given=repr(name),
            expected="a name that can be part of a file name, for example fact-city",
        )
    table = dict(_table(content, "steps", source))
    only, skip = (_names(table.pop(key, []), key, steps, source) for key in ("only", "skip"))
    _refuse_unknown(table, steps, f"{source} [steps]", "step")
    chosen = {
        name: _filled(_table(table, name, source), known, f"{source} [steps.{name}]")
        for name, known in steps.items()
    }
    return StudySettings(
        study=study,
        only=only,
        skip=skip,
        steps=chosen,
        transfer=_filled(
            _table(content, "transfer", source), TRANSFER_SETTINGS, f"{source} [transfer]"
        ),
        scale=_filled(_table(content, "scale", source), SCALE_SETTINGS, f"{source} [scale]"),
        source=source,
    )


def known_steps(names: Iterable[str], steps: Iterable[str], source: str) -> tuple[str, ...]:
    """Return names of steps.

    Raises:
        StudyError: One that is no step.
    """
    known, found = list(steps), tuple(names)
    for name in found:
        if name not in known:
            raise StudyError(
                f"{source}: there is no step {name!r}",
                given=name,
                closest=closest_names(name, known),
                expected=", ".join(known),
            )
    return found


def _names(value: object, key: str, steps: Iterable[str], source: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise StudyError(
            f"{source} [steps]: {key!r} is a list of steps",
            given=repr(value),
            expected=f'{key} = ["sae", "scale"]',
        )
    return known_steps(value, steps, f"{source} [steps] {key}")


def _table(content: Mapping[str, Any], key: str, source: str) -> Mapping[str, Any]:
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise StudyError(
            f"{source}: {key!r} is a table",
            given=f"{key} = {found!r}",
            expected=f"a heading [{key}] with keys below it",
        )
    return found


def _refuse_unknown(
    content: Mapping[str, Any], known: Iterable[str], source: str, kind: str
) -> None:
    names = list(known)
    for key in content:
        if key not in names:
            raise StudyError(
                f"{source}: unknown {kind} {key!r}",
                given=key,
                closest=closest_names(key, names),
                expected=", ".join(names) or f"no {kind} at all",
                next_step="rename it, or leave it out: nothing would read it",
            )


def _filled(
    given: Mapping[str, Any], known: Mapping[str, Setting], source: str
) -> Mapping[str, Any]:
    _refuse_unknown(given, known, source, "key")
    try:
        return {key: setting.read(key, given) for key, setting in known.items()}
    except MechtestError as error:
        raise StudyError(
            f"{source}: {error.what}", given=error.given, expected=error.expected
        ) from error
