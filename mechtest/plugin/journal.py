"""What does a worker write down while it runs, so that its death loses nothing that was finished?

One file a worker, one JSON object a line, one `os.write` a line: a line is there or torn at the
end, never mixed with another. The first line of a file names the run, so that files of an earlier
run are recognised.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Journal", "JournalContent", "newest_run", "read_journals", "write_lines"]

Line = dict[str, Any]


class Journal:
    """A worker's journal; its file is made with the first line.

    A journal that cannot be written is given up: verdicts reach the report without it, and `failed`
    says what is no longer safe from a crash.

    Args:
        directory: Where journals of this run are.
        worker: Name of the worker, and of the file.
        run: Name of the run.

    Attributes:
        failed: Why no more is written; empty while all is well.
    """

    def __init__(self, directory: Path, worker: str, run: str) -> None:
        self.path = directory / f"{worker}.jsonl"
        self.failed = ""
        self._worker = worker
        self._run = run
        self._file: int | None = None

    def write(self, event: str, content: Mapping[str, Any], *, keep: bool = False) -> None:
        """Append a line.

        Args:
            event: `context`, `plan`, `start`, `progress`, `record`, `end`, `done`, `crash` or
                `uncollected`.
            content: Plain values.
            keep: Whether the line has to survive the machine, not only the process.
        """
        if self.failed:
            return
        try:
            self._write(event, content, keep=keep)
        except OSError as error:
            self.failed = f"{self.path.name} could not be written: {error.strerror or error}"
            self.close()

    def _write(self, event: str, content: Mapping[str, Any], *, keep: bool) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            self._file = os.open(self.path, flags, 0o644)
            self._append(
                {"event": "run", "run": self._run, "worker": self._worker, "time": time.time()}
            )
        self._append({"event": event, **content})
        if keep:
            os.fsync(self._file)

    def _append(self, content: Mapping[str, Any]) -> None:
        assert self._file is not None
        raw = _line(content)
        if os.write(self._file, raw) < len(raw):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # what a full disk has to say, it said before
                os.close(self._file)
            self._file = None


def _line(content: Mapping[str, Any]) -> bytes:
    # A lone surrogate of a broken file name is no reason to lose a verdict.
    return json.dumps(content, ensure_ascii=True, default=str).encode() + b"\n"


def write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Write a whole journal at once; it is there completely or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    with beside.open("wb") as file:
        for line in lines:
            file.write(_line({"time": time.time(), **line} if line["event"] == "run" else line))
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def newest_run(directory: Path) -> str | None:
    """Return the name of the run that began last, of those with journals here."""
    found: dict[str, float] = {}
    for path in directory.glob("*.jsonl"):
        first = _first_line(path) if path.is_file() else {}
        if isinstance(first.get("run"), str):
            began = float(first.get("time") or 0.0)
            found[first["run"]] = max(began, found.get(first["run"], 0.0))
    return max(found, key=lambda run: (found[run], run), default=None)


def _first_line(path: Path) -> Line:
    try:
        with path.open("rb") as file:
            line = json.loads(file.readline())
    except (OSError, ValueError):
        return {}
    return line if isinstance(line, dict) else {}


@dataclass
class JournalContent:
    """What the journals of one run say together.

    Attributes:
        lines: Of each worker, in order.
        torn: Lines that cannot be read.
    """

    lines: dict[str, list[Line]] = field(default_factory=dict)
    torn: int = 0

    def events(self, event: str) -> list[Line]:
        """Return the lines of one kind, of all workers."""
        return [line for lines in self.lines.values() for line in lines if line["event"] == event]


def read_journals(directory: Path, run: str) -> JournalContent:
    """Read the journals of a run; files of other runs are left out."""
    content = JournalContent()
    for path in sorted(path for path in directory.glob("*.jsonl") if path.is_file()):
        lines, torn = _read(path)
        if lines and lines[0].get("run") == run:
            content.lines[path.stem] = lines
            content.torn += torn
    return content


def forget_other_runs(directory: Path, run: str) -> None:
    """Delete the journals that an earlier run left."""
    for path in directory.glob("*.jsonl"):
        if path.is_file() and _first_line(path).get("run") != run:
            path.unlink(missing_ok=True)


def _read(path: Path) -> tuple[list[Line], int]:
    lines: list[Line] = []
    torn = 0
    try:
        raw = path.read_bytes()
    except OSError:
        return [], 0
    for text in raw.split(b"\n"):
        if not text:
            continue
        try:
            line = json.loads(text)
        except ValueError:
            torn += 1
            continue
        if isinstance(line, dict) and isinstance(line.get("event"), str):
            lines.append(line)
        else:
            torn += 1
    return lines, torn
