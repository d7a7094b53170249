"""How is a run kept, so that nobody ever meets half of one?

A run is written into a directory of its own and then renamed into place; pointers are files that
are renamed likewise. Any number of processes may save at once.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mechtest.errors import RunError
from mechtest.report import headline, write_report
from mechtest.runs.names import LATEST, RUN, require_tag, run_name

__all__ = ["RunStore", "Saved", "StoredRun"]

_OUTLINE = "run.json"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run in the store.

    Attributes:
        name: Of its directory.
        path: Its directory.
        tags: Names that point to it.
        latest: Whether it was saved last.
        headline: What it came to, in one sentence.
        commit: Of the working tree; empty where there was none.
    """

    name: str
    path: Path
    tags: tuple[str, ...]
    latest: bool
    headline: str
    commit: str


@dataclass(frozen=True, slots=True)
class Saved:
    """What saving a run did.

    Attributes:
        name: Of the new run.
        path: Its directory.
        tag: That points to it; empty for none.
        retired: Run that the tag pointed to before; empty for none.
    """

    name: str
    path: Path
    tag: str = ""
    retired: str = ""

    def __str__(self) -> str:
        text = f"saved as {self.name}"
        if not self.tag:
            return text
        before = f" (was {self.retired})" if self.retired else ""
        return f"{text}; tag {self.tag} points to it{before}"


class RunStore:
    """Reports of earlier runs.

    Args:
        root: The store, for example `.mechtest`. Nothing is created before something is saved.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runs_folder = root / "runs"
        self.tags_folder = root / "tags"

    def save(
        self, report: Mapping[str, Any], *, tag: str = "", now: dt.datetime | None = None
    ) -> Saved:
        """Keep a report, make it the latest, and let a tag point to it.

        Raises:
            RunError: The tag is no name, or the store cannot be written.
        """
        if tag:
            require_tag(tag)
        git = report["provenance"].get("git") or {}
        commit = str(git.get("commit", ""))
        name = run_name(now or dt.datetime.now(dt.UTC), commit)
        try:
            path = self._write(report, name, commit)
            self._point(self.root / LATEST, name)
            retired = ""
            if tag:
                retired = self.pointed(self.tags_folder / tag)
                self._point(self.tags_folder / tag, name)
        except OSError as error:
            raise RunError(
                f"the run could not be kept in {self.root}: {error}",
                next_step="make the directory writable, or leave --mechtest-save out",
            ) from error
        return Saved(name, path, tag, retired)

    def _write(self, report: Mapping[str, Any], name: str, commit: str) -> Path:
        self.runs_folder.mkdir(parents=True, exist_ok=True)
        ignore = self.root / ".gitignore"
        if not ignore.exists():
            ignore.write_text("# Written by mechtest: runs are kept apart from the sources.\n*\n")
        beside = self.runs_folder / f".{name}.part"
        write_report(report, beside)
        outline = {"run": name, "headline": headline(report), "commit": commit}
        (beside / _OUTLINE).write_text(json.dumps(outline) + "\n", encoding="utf-8")
        final = self.runs_folder / name
        beside.rename(final)  # names hold random digits: there is nothing in the way
        return final

    def _point(self, pointer: Path, name: str) -> None:
        pointer.parent.mkdir(parents=True, exist_ok=True)
        beside = pointer.with_name(f".{pointer.name}.{os.getpid()}-{secrets.token_hex(4)}")
        try:
            beside.write_text(f"{name}\n", encoding="utf-8")
            beside.replace(pointer)
        finally:
            beside.unlink(missing_ok=True)

    def pointed(self, pointer: Path) -> str:
        """Return the run that a pointer names, empty where there is no pointer."""
        try:
            return pointer.read_text(encoding="utf-8").strip()
        except OSError:
            return ""

    @property
    def latest(self) -> str:
        """Name of the run that was saved last; empty for none."""
        return self.pointed(self.root / LATEST)

    @property
    def tags(self) -> dict[str, str]:
        """Tag -> name of its run, sorted by tag."""
        if not self.tags_folder.is_dir():
            return {}
        files = sorted(self.tags_folder.iterdir())
        return {file.name: self.pointed(file) for file in files if not file.name.startswith(".")}

    @property
    def names(self) -> list[str]:
        """Names of all whole runs, the oldest first."""
        if not self.runs_folder.is_dir():
            return []
        return sorted(path.name for path in self.runs_folder.iterdir() if RUN.fullmatch(path.name))

    def runs(self) -> list[StoredRun]:
        """Return all runs, the newest first."""
        tags, latest = self.tags, self.latest
        return [
            self._described(name, tuple(tag for tag, run in tags.items() if run == name), latest)
            for name in reversed(self.names)
        ]

    def _described(self, name: str, tags: tuple[str, ...], latest: str) -> StoredRun:
        path = self.runs_folder / name
        try:
            outline = json.loads((path / _OUTLINE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            outline = {"headline": f"({_OUTLINE} cannot be read)", "commit": ""}
        return StoredRun(
            name, path, tags, name == latest, str(outline["headline"]), str(outline["commit"])
        )
