"""What does a worker write down while it runs, so that its death loses nothing that was finished?

One file a worker, one JSON object a line, one `os.write` a line: a line is there or torn at the
end, never mixed with another. The first line of a file names the run, so that files of an earlier
run are recognised.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Journal", "JournalContent", "read_journals"]

Line = dict[str, Any]


class Journal:
    """A worker's journal; its file is made with the first line.

    Args:
        directory: Where journals of this run are.
        worker: Name of the worker, and of the file.
        run: Name of the run.
    """

    def __init__(self, directory: Path, worker: str, run: str) -> None:
        self.path = directory / f"{worker}.jsonl"
        self._worker = worker
        self._run = run
        self._file: int | None = None

    def write(self, event: str, content: Mapping[str, Any], *, keep: bool = False) -> None:
        """Append a line.

        Args:
            event: `plan`, `start`, `progress`, `record` or `end`.
            content: Plain values.
            keep: Whether the line has to survive the machine, not only the process.
        """
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND
            self._file = os.open(self.path, flags, 0o644)
            self._append({"event": "run", "run": self._run, "worker": self._worker})
        self._append({"event": event, **content})
        if keep:
            os.fsync(self._file)

    def _append(self, content: Mapping[str, Any]) -> None:
        assert self._file is not None
        # A lone surrogate of a broken file name is no reason to lose a verdict.
        text = json.dumps(content, ensure_ascii=True, default=str)
        os.write(self._file, text.encode() + b"\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None


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
    for path in sorted(directory.glob("*.jsonl")):
        lines, torn = _read(path)
        if lines and lines[0].get("run") == run:
            content.lines[path.stem] = lines
            content.torn += torn
    return content


def forget_other_runs(directory: Path, run: str) -> None:
    """Delete the journals that an earlier run left."""
    for path in directory.glob("*.jsonl"):
        lines, _ = _read(path)
        if not lines or lines[0].get("run") != run:
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
