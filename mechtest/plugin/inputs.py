"""What was read to check a claim: which files, and what was in them?

Digests are of bytes, so that no torch is needed and any change is seen. Files of many megabytes
are told apart by what the file system says of them: size, times, inode. A repository on the hub is
known by its name and revision; what the local cache holds of them does not change by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from mechtest.errors import MechtestError
from mechtest.plugin.marks import read_family
from mechtest.plugin.models import ModelChoice
from mechtest.plugin.plan import choices_of, module_of

__all__ = ["digests_of", "inputs_of", "package_digest"]

_READ_UP_TO = 64 << 20
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")
_ABSENT = "absent"


def inputs_of(item: pytest.Item, rootdir: Path) -> list[str]:
    """Return the files and directories a claim's test is made from, relative to rootdir.

    Its own file, the `conftest.py` above it, its prompts and its models. What its code imports or
    opens by itself is not known.
    """
    file = item.nodeid.partition("::")[0]
    names = [file, *_conftests(rootdir / file, rootdir)]
    prompts = read_family(item, module_of(item.nodeid)).prompts
    names += [prompts] if prompts else []
    for choice in choices_of(item):
        names += _models(choice)
    return sorted({_relative(name, rootdir) for name in names})


def _conftests(file: Path, rootdir: Path) -> list[str]:
    return [
        str(folder / "conftest.py")
        for folder in file.parents
        if folder.is_relative_to(rootdir) and (folder / "conftest.py").is_file()
    ]


def _models(choice: ModelChoice) -> list[str]:
    if choice.error is not None:
        return []
    path, revision, subfolder = choice.source
    if choice.seed is not None or choice.step_name == "":
        end = (f"@{revision}" if revision else "") + (f"/{subfolder}" if subfolder else "")
        return [f"{path}{end}"]
    from mechtest.checkpoints.families import SuiteIndex

    try:
        members = SuiteIndex.scan(choice.root).members
    except MechtestError:
        return [choice.root]
    return [str(at) for (_, step), at in members.items() if step == choice.step]


def _relative(name: str, rootdir: Path) -> str:
    path = rootdir / name
    return path.relative_to(rootdir).as_posix() if path.is_relative_to(rootdir) else name


def digests_of(names: Iterable[str], rootdir: Path) -> dict[str, str]:
    """Return what is in files and directories of models, by name."""
    return {name: _digest(rootdir / name) for name in sorted(set(names))}


def _digest(path: Path) -> str:
    if path.is_file():
        return _file_digest(path)
    if not path.is_dir():
        return _ABSENT
    files = sorted(p for p in path.iterdir() if p.suffix in (*_WEIGHTS, ".json", ".txt", ".model"))
    return _joined([f"{file.name} {_file_digest(file)}" for file in files])


def _file_digest(path: Path) -> str:
    stat = path.stat()
    if stat.st_size > _READ_UP_TO:
        facts = (stat.st_size, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns)
        return _joined([str(fact) for fact in facts])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _joined(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode("utf-8", "replace")).hexdigest()


def package_digest() -> str:
    """Return the digest of mechtest's own code, which an editable installation may change."""
    root = Path(__file__).parents[1]
    files = sorted(p for p in root.rglob("*") if p.suffix in (".py", ".c", ".h"))
    return _joined([f"{p.relative_to(root)} {_file_digest(p)}" for p in files])
