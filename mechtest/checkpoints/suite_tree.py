"""Which directories of a tree are the checkpoints of a suite?"""

from __future__ import annotations

import re
from pathlib import Path

from mechtest.checkpoints.suite_names import parse_number, parse_step
from mechtest.checkpoints.weight_files import list_directories
from mechtest.errors import ConfigError

__all__ = ["scan_tree"]


def scan_tree(
    root: Path, seeds: re.Pattern[str], steps: re.Pattern[str]
) -> tuple[dict[tuple[int, int], Path], list[str]]:
    """Return the members of a tree by (seed, step), and the directories that are none.

    Raises:
        ConfigError: Two directories stand for one member.
    """
    members: dict[tuple[int, int], Path] = {}
    ignored: list[str] = []
    # Where a name fits both patterns (a bare number), what it contains decides.
    for name in list_directories(root):
        child = root / name
        seed, step = parse_number(name, seeds), parse_step(name, steps)
        if not _is_checkpoint(child) and seed is not None:
            _scan_seed(child, seed, steps, members, ignored)
        elif _is_checkpoint(child) and step is not None and _says_step(name, seed):
            _add(members, (0, step), child)
        elif _is_checkpoint(child) and seed is not None:
            _add(members, (seed, 0), child)
        else:
            ignored.append(f"{name}: {_why_ignored(step)}")
    return members, ignored


def _says_step(name: str, seed: int | None) -> bool:
    return seed is None or name.isdecimal()


def _scan_seed(
    directory: Path,
    seed: int,
    steps: re.Pattern[str],
    members: dict[tuple[int, int], Path],
    ignored: list[str],
) -> None:
    names = list_directories(directory)
    if not names:
        ignored.append(f"{directory.name}: no config.json and no directories")
    for name in names:
        child = directory / name
        step = parse_step(name, steps)
        if step is not None and _is_checkpoint(child):
            _add(members, (seed, step), child)
        else:
            ignored.append(f"{directory.name}/{name}: {_why_ignored(step)}")


def _why_ignored(step: int | None) -> str:
    return "the name gives no number" if step is None else "no config.json"


def _add(members: dict[tuple[int, int], Path], key: tuple[int, int], path: Path) -> None:
    if key in members:
        raise ConfigError(
            f"two directories stand for seed {key[0]} step {key[1]}",
            given=f"{members[key]} and {path}",
            expected="one; narrow step_pattern or seed_pattern, or move one away",
        )
    members[key] = path


def _is_checkpoint(directory: Path) -> bool:
    return (directory / "config.json").is_file()
