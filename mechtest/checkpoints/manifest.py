"""How does a `suite.toml` say where each (seed, step) of a suite is?

    [suite]
    name = "pythia-mamba"                  # optional

    [[members]]                            # a local checkpoint; paths are relative to this file
    seed = 0
    step = 1000
    path = "run-a/step-01000"

    [[members]]                            # many at once: {seed} and {step} are filled in
    seeds = [0, 1, 2]
    steps = [1000, 2000, 4000]
    repo = "owner/mamba-130m-seed{seed}"
    revision = "step{step}"                # optional; {step:05d} pads with zeros
    subfolder = "checkpoints"              # optional, also with `path`

A member names `path` or `repo`, never both; `revision` goes with `repo` only, because a local
directory has one revision. Unknown keys, and a (seed, step) given twice, are errors.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechtest.errors import ConfigError, closest_names

__all__ = ["CheckpointSource", "read_manifest"]

_KEYS = ("seed", "seeds", "step", "steps", "path", "repo", "revision", "subfolder")


@dataclass(frozen=True)
class CheckpointSource:
    """Where one checkpoint is; the three arguments of `read_checkpoint`.

    Attributes:
        path_or_repo: A local directory, or a hub repository.
        revision: Of a hub repository.
        subfolder: Below it.
    """

    path_or_repo: str
    revision: str | None = None
    subfolder: str | None = None

    def __str__(self) -> str:
        at = f"@{self.revision}" if self.revision else ""
        return self.path_or_repo + at + (f"/{self.subfolder}" if self.subfolder else "")


def read_manifest(path: Path) -> tuple[str, dict[tuple[int, int], CheckpointSource]]:
    """Read a suite.toml: the suite's name and its members by (seed, step).

    Raises:
        ConfigError: The file is no TOML, or a member is not as described above.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path.name} cannot be read: {error}", given=str(path)) from error
    _check_keys(raw, ("suite", "members"), str(path))
    suite = raw.get("suite", {})
    if not isinstance(suite, dict):
        raise ConfigError(f"[suite] in {path} is not a table", given=repr(suite))
    _check_keys(suite, ("name",), f"[suite] in {path}")
    entries = raw.get("members", [])
    if not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path} lists no [[members]]", given=str(path))
    members: dict[tuple[int, int], CheckpointSource] = {}
    for number, entry in enumerate(entries, start=1):
        where = f"[[members]] number {number} in {path}"
        for key, source in _expand(entry, path.parent, where):
            if key in members:
                raise ConfigError(
                    f"{where}: seed {key[0]} step {key[1]} was given before",
                    given=f"{source} and {members[key]}",
                )
            members[key] = source
    return str(suite.get("name", path.parent.resolve().name)), members


def _expand(entry: Any, base: Path, where: str) -> list[tuple[tuple[int, int], CheckpointSource]]:
    if not isinstance(entry, dict):
        raise ConfigError(f"{where} is not a table", given=repr(entry))
    _check_keys(entry, _KEYS, where)
    if ("path" in entry) == ("repo" in entry):
        raise ConfigError(
            f"{where} needs either path or repo", given=", ".join(entry), expected="one of the two"
        )
    if "path" in entry and "revision" in entry:
        raise ConfigError(
            f"{where} has a revision with a local path",
            given=f"path={entry['path']!r}, revision={entry['revision']!r}",
            expected="revision only with repo; give each local checkpoint a path of its own",
        )
    return [
        ((seed, step), _source(entry, base, seed, step, where))
        for seed in _numbers(entry, "seed", where)
        for step in _numbers(entry, "step", where)
    ]


def _numbers(entry: dict[str, Any], key: str, where: str) -> list[int]:
    if (key in entry) == (f"{key}s" in entry):
        raise ConfigError(
            f"{where} needs either {key} or {key}s",
            given=", ".join(entry),
            expected=f"{key} = 0, or {key}s = [0, 1]",
        )
    value = entry[key] if key in entry else entry[f"{key}s"]
    numbers = value if isinstance(value, list) else [value]
    if not numbers or any(not isinstance(n, int) or isinstance(n, bool) or n < 0 for n in numbers):
        raise ConfigError(
            f"{where}: {key} must be a whole number of at least 0, or a list of them",
            given=repr(value),
        )
    return numbers


def _source(
    entry: dict[str, Any], base: Path, seed: int, step: int, where: str
) -> CheckpointSource:
    def filled(key: str) -> str | None:
        if key not in entry:
            return None
        try:
            return str(entry[key]).format(seed=seed, step=step)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ConfigError(
                f"{where}: {key} cannot be filled in ({type(error).__name__}: {error})",
                given=str(entry[key]),
                expected="only {seed} and {step}, with a format such as {step:05d} if need be",
            ) from error

    path = filled("path")
    root = str(base / Path(path).expanduser()) if path is not None else str(filled("repo"))
    return CheckpointSource(root, filled("revision"), filled("subfolder"))


def _check_keys(raw: dict[str, Any], known: tuple[str, ...], where: str) -> None:
    unknown = [key for key in raw if key not in known]
    if unknown:
        raise ConfigError(
            f"{where} has unknown keys: {', '.join(unknown)}",
            given=", ".join(unknown),
            closest=[near for key in unknown for near in closest_names(key, known, 1)],
            expected=", ".join(known),
        )
