"""How does a report reach the disk whole, and come back?

Every file is written beside its place and moved there when complete: a reader, or a crash, never
meets half a report.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mechtest.errors import MechtestError
from mechtest.report.build import SCHEMA
from mechtest.report.comment import markdown
from mechtest.report.ctrf_format import ctrf
from mechtest.report.page import html
from mechtest.report.plain_text import whole_characters

__all__ = ["SCHEMA_PATH", "load_schema", "read_report", "write_report"]

SCHEMA_PATH = Path(__file__).with_name("report.schema.json")
"""The published JSON Schema of `report.json`."""

# What every part of this room reads; the schema says the rest.
_SECTIONS: Mapping[str, type] = {
    "summary": dict,
    "family_error": dict,
    "families": dict,
    "claims": list,
    "collection_errors": list,
    "assumptions": list,
    "provenance": dict,
    "run": dict,
}


def write_report(report: Mapping[str, Any], directory: str | Path) -> list[Path]:
    """Write `report.json`, `report.md`, `report.html` and `ctrf.json`.

    All four are made before the first is put in place, so an error leaves the old ones as they are.

    Args:
        report: From `build_report`.
        directory: Created if need be.

    Returns:
        The files, the JSON first.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        folder / "report.json": _json(report),
        folder / "report.md": markdown(report),
        folder / "report.html": html(report),
        folder / "ctrf.json": _json(ctrf(report)),
    }
    written: list[tuple[Path, Path]] = []
    try:
        for path, text in contents.items():
            beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
            written.append((beside, path))
            _write_through(beside, text)
        for beside, path in written:
            beside.replace(path)
    finally:
        for beside, _ in written:
            beside.unlink(missing_ok=True)
    return list(contents)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the new one, never half of it.

    Raises:
        MechtestError: It cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_bytes(content)
        beside.replace(path)
    except OSError as error:
        raise MechtestError(
            f"{path} cannot be written: {error}",
            given=str(path),
            next_step="name another file, or make room",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def _json(content: Mapping[str, Any]) -> str:
    text = json.dumps(content, allow_nan=False, ensure_ascii=False, indent=1)
    return whole_characters(text) + "\n"


def _write_through(path: Path, text: str) -> None:
    with path.open("x", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def read_report(path: str | Path) -> dict[str, Any]:
    """Read a `report.json`.

    Args:
        path: The file, or the directory it lies in.

    Raises:
        MechtestError: There is none, it is not JSON, or it is of another schema.
    """
    file = Path(path)
    file = file / "report.json" if file.is_dir() else file
    hint = "write one with `pytest claims --mechtest-report=DIRECTORY`"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MechtestError(
            f"there is no report at {file}", given=path, expected="report.json", next_step=hint
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise MechtestError(
            f"{file} cannot be read as a report: {error}", expected="JSON", next_step=hint
        ) from error
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != SCHEMA:
        raise MechtestError(
            f"{file} is not a report this version reads",
            given=f"schema {schema!r}",
            expected=f"schema {SCHEMA!r}",
            next_step="read it with the version of mechtest that wrote it, or run the claims again",
        )
    for name, kind in _SECTIONS.items():
        if not isinstance(content.get(name), kind):
            raise MechtestError(
                f"{file} has no usable {name!r}",
                given=type(content.get(name)).__name__,
                expected=f"a {kind.__name__}, as {SCHEMA} says",
                next_step="run the claims again",
            )
    return dict(content)


def load_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every `report.json` of this version obeys."""
    return dict(json.loads(SCHEMA_PATH.read_text(encoding="utf-8")))
