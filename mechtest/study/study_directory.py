"""Whose is the directory of a study, and does anybody else write into it now?"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mechtest.errors import StudyError
from mechtest.study.step_folder import json_text

try:
    import fcntl
except ImportError:  # Windows: two runs at once go unnoticed there
    fcntl = None  # type: ignore[assignment]

__all__ = ["own_directory", "unwritable"]

FORMAT = "mechtest-study/1"
IDENTITY = ("name", "model", "prompts", "seed", "checkpoint")
"""What makes a study the same one: anything else may be changed and gone on with."""


@contextmanager
def own_directory(folder: Path, told: Mapping[str, Any]) -> Iterator[None]:
    """Make a directory one study's, and nobody else's for as long as it runs.

    Args:
        folder: Made where it is missing.
        told: The settings of the whole study, by name.

    Raises:
        StudyError: It is of another study, in use, or cannot be written.
    """
    identity = {key: told[key] for key in IDENTITY}
    head = folder / "study.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_another(folder, head, identity)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise unwritable(folder, error) from error
    try:
        if fcntl is not None:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StudyError(
                    f"another run writes {folder}",
                    next_step="wait for it or end it; two studies at once need a directory each",
                ) from error
        head.write_text(json_text({"format": FORMAT, **identity}), encoding="utf-8")
        yield
    finally:
        os.close(lock)


def unwritable(place: Path, error: OSError) -> StudyError:
    """Return the error that says why a place of a study cannot be written."""
    return StudyError(
        f"{place} cannot be written: {error.strerror or error}",
        expected="a directory that can be written, on a disk with room",
        next_step="choose another with --output",
    )


def _refuse_another(folder: Path, head: Path, identity: Mapping[str, Any]) -> None:
    if not head.is_file():
        strangers = sorted(one.name for one in folder.iterdir() if not one.name.startswith("."))
        if strangers:
            raise StudyError(
                f"{folder} holds something else than a study",
                given=", ".join(strangers[:5]),
                expected="an empty directory, or that of this study",
                next_step="choose another with --output",
            )
        return
    try:
        known = json.loads(head.read_text(encoding="utf-8"))
    except ValueError:
        known = {}
    known = known if isinstance(known, dict) else {}
    rows = [
        f"{key} was {known.get(key)!r}, is {value!r}"
        for key, value in identity.items()
        if known.get(key) != value
    ]
    if known.get("format") != FORMAT or rows:
        raise StudyError(
            f"{folder} belongs to another study",
            given="; ".join(rows) or f"format {known.get('format')!r}",
            expected="the study it was begun with",
            next_step="choose another directory with --output, or delete it",
        )
