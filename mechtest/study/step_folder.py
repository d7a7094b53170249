"""How does what a step found reach the disk whole, and come back the same?

A folder a step. It is written beside its place and moved there: a killed run leaves a finished step
or none. Its `step.json` says what the numbers depend on, and the digest of every file.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechtest.discovery.record import DiscoveryRecord
from mechtest.errors import MechtestError, MissingPackageError, StudyError
from mechtest.interventions import Circuit, SweepResult
from mechtest.study.step import Found, Step

__all__ = ["Finished", "json_text", "read_step", "text_digest", "write_step"]

FORMAT = "mechtest-study-step/1"
_KIND = re.compile(r'"kind": ?"(\w+)"')
STEP_FILE = "step.json"


@dataclass(frozen=True)
class Finished:
    """What a folder of a step says.

    Attributes:
        name: Of the step.
        status: `done` or `failed`.
        digest: Of everything its numbers depend on.
        depends: The same by name.
        content: Digest of what it found.
        lines: What it came to.
        warnings: What to know before believing it.
        error: Why it failed.
        pictures: Names of its pictures, by record.
        records: Files of its records, by name.
        circuits: Files of its circuits, by name.
    """

    name: str
    status: str
    digest: str
    depends: Mapping[str, Any]
    content: str
    lines: tuple[str, ...]
    warnings: tuple[str, ...]
    error: str
    pictures: Mapping[str, str]
    records: Mapping[str, str]
    circuits: Mapping[str, str]


def json_text(value: object) -> str:
    """Return plain values as one JSON text, the same for equal values."""
    return json.dumps(value, allow_nan=False, sort_keys=True, indent=1, ensure_ascii=True) + "\n"


def text_digest(value: object) -> str:
    """Return the SHA-256 of plain values."""
    return hashlib.sha256(json_text(value).encode()).hexdigest()


def write_step(
    folder: Path, step: Step, found: Found, *, digest: str, depends: Mapping[str, Any],
    error: str = "", pictures: bool = True,
) -> None:  # fmt: skip
    """Write what a step found, whole or not at all, in the place of what was there.

    Raises:
        OSError: The disk refuses.
        NonFiniteError: NaN or infinity among its numbers.
    """
    beside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    records, circuits, drawn, warnings = _parts(beside, found, draw=pictures)
    for name, write in sorted(found.files.items()):
        write(beside / name)
    written = {
        path.relative_to(beside).as_posix(): _file_digest(path)
        for path in sorted(beside.rglob("*"))
        if path.is_file() and path.suffix not in (".png", ".svg")
    }
    facts = {"lines": found.lines, "warnings": [*found.warnings, *warnings],
             "facts": found.facts, "error": error}  # fmt: skip
    content = {
        "format": FORMAT,
        "step": step.name,
        "status": "failed" if error else "done",
        "digest": digest,
        "depends": dict(depends),
        **facts,
        # Lists of pairs, because the order says which is best and names of JSON are sorted here.
        "records": list(records.items()),
        "circuits": list(circuits.items()),
        "pictures": list(drawn.items()),
        "files": written,
        "content": text_digest([facts, written]),
    }
    (beside / STEP_FILE).write_text(json_text(content), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    beside.rename(folder)


def _parts(
    folder: Path, found: Found, *, draw: bool
) -> tuple[dict[str, str], dict[str, str], dict[str, str], list[str]]:
    """Write records, circuits and pictures; return their files by name, and what went wrong."""
    records, circuits, pictures = {}, {}, {}
    warnings: list[str] = []
    for name, record in found.records.items():
        records[name] = f"{name}.json"
        record.save(folder / records[name])
        if not draw:
            continue
        try:
            record.plot(folder / f"{name}.png")
            pictures[name] = f"{name}.png"
        except MissingPackageError as error:
            warnings.append(f"no picture of {name}: {error.what}; {error.next_step}")
    for number, (name, circuit) in enumerate(found.circuits.items()):
        circuits[name] = f"{number:02d}.circuit.json"
        circuit.save(folder / circuits[name])
    return records, circuits, pictures, warnings


def read_step(folder: Path) -> Finished | None:
    """Return what a folder says; None where there is nothing whole.

    A folder whose files are not those it was written with counts as nothing.
    """
    try:
        content = json.loads((folder / STEP_FILE).read_text(encoding="utf-8"))
        if content["format"] != FORMAT:
            return None
        for name, digest in content["files"].items():
            if _file_digest(folder / name) != digest:
                return None
        if not all((folder / name).is_file() for _, name in content["pictures"]):
            return None
        return Finished(
            name=content["step"],
            status=content["status"],
            digest=content["digest"],
            depends=content["depends"],
            content=content["content"],
            lines=tuple(content["lines"]),
            warnings=tuple(content["warnings"]),
            error=content["error"],
            pictures=dict(content["pictures"]),
            records=dict(content["records"]),
            circuits=dict(content["circuits"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def found_in(folder: Path) -> Found:
    """Return what a finished step found, read from its folder.

    Raises:
        StudyError: A file of it is gone or damaged.
    """
    finished = read_step(folder)
    if finished is None:
        raise StudyError(f"{folder} holds no finished step", next_step="run the study again")
    content = json.loads((folder / STEP_FILE).read_text(encoding="utf-8"))
    try:
        return Found(
            lines=list(finished.lines),
            warnings=list(finished.warnings),
            facts=content["facts"],
            records={name: _record(folder / file) for name, file in finished.records.items()},
            circuits={
                name: Circuit.load(folder / file) for name, file in finished.circuits.items()
            },
        )
    except MechtestError as error:
        raise StudyError(
            f"{folder} cannot be read: {error.what}",
            given=error.given,
            next_step="run the study with --fresh",
        ) from error


def _record(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(200).decode(errors="replace")
    if '"mechtest-sweep/' in head:
        return SweepResult.load(path)
    # Some kinds keep tensors beside them, and know where.
    kind = _KIND.search(head)
    known = DiscoveryRecord._kinds.get(kind[1]) if kind else None
    return DiscoveryRecord.load(path) if known is None else known.load(path)


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
