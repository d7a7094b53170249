"""What does a sweep write down while it runs, so that a killed one goes on where it was?

One file, one JSON object a line, one append a line: a line is whole, or torn at the end and done
again. The first line says what the values depend on; a sweep that depends on anything else is
refused. The file is locked while it is written, and the system lets go of it when the writer dies.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import socket
import time
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mechtest.errors import NonFiniteError, ShapeError, SweepFileError

try:
    import fcntl
except ImportError:  # Windows: two writers go unnoticed there
    fcntl = None  # type: ignore[assignment]

__all__ = ["FinishedCell", "JournalContent", "SweepJournal", "plan_digest", "read_sweep_journal"]

FORMAT = "mechtest-sweep-journal/1"
_START = json.dumps({"format": FORMAT}, separators=(",", ":"))[:-1].encode()
SYNC_SECONDS = 5.0
"""The most seconds of work that a power cut may lose; a killed process loses no line."""

_SHOWN = 60


@dataclass(frozen=True, eq=False)
class FinishedCell:
    """What a sweep found at one place.

    Attributes:
        row: Index of the row.
        column: Index of the column.
        values: Effect of each prompt, float "prompt"; NaN only beside a reason.
        reason: Why numbers are missing, empty where none is.
    """

    row: int
    column: int
    values: NDArray[np.floating[Any]]
    reason: str = ""


@dataclass(eq=False)
class JournalContent:
    """What a journal holds.

    Attributes:
        plan: Digest of what the values depend on; empty for a journal that was never begun.
        header: What they depend on, by name.
        cells: Finished places by (row, column).
        dropped: Lines that were torn or damaged; their places are done again.
        size: Bytes up to the end of the last whole line.
    """

    plan: str = ""
    header: dict[str, Any] = field(default_factory=dict)
    cells: dict[tuple[int, int], FinishedCell] = field(default_factory=dict)
    dropped: int = 0
    size: int = 0


def plan_digest(header: Mapping[str, Any]) -> str:
    """Return the SHA-256 of plain JSON values, whatever the order of their names."""
    text = json.dumps(header, allow_nan=False, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class SweepJournal:
    """The journal of one sweep, open for appending.

    Use it in a `with` statement, or call `close`.

    Args:
        path: The file; it and its directory are made if need be.
        plan: Digest of everything the values depend on, for example `plan_digest(header)`.
        header: The same by name, as plain JSON values: what a refusal compares field by field.
        sync_seconds: Lines are brought to the disk at least this often.

    Attributes:
        path: The file.
        finished: Places that were there when it was opened, by (row, column).
        dropped: Lines of an earlier run that were torn or damaged and are not in `finished`.

    Raises:
        SweepFileError: The file is no journal, belongs to another sweep, or is being written.
    """

    def __init__(
        self,
        path: str | Path,
        plan: str,
        header: Mapping[str, Any],
        *,
        sync_seconds: float = SYNC_SECONDS,
    ) -> None:
        self.path = Path(path)
        self._sync_seconds = sync_seconds
        self._synced = time.monotonic()
        self._file: int | None = _locked(self.path)
        try:
            content = _parse(self.path, _read_all(self._file))
            if content.plan:
                _require_same_plan(self.path, content, plan, header)
            os.ftruncate(self._file, content.size)
            if not content.plan:
                self._append({"format": FORMAT, "plan": plan, "header": dict(header)})
            # Whoever is refused later can be told who was here last.
            self._append({"pid": os.getpid(), "host": socket.gethostname()})
            os.fsync(self._file)
        except BaseException:
            self.close()
            raise
        self.finished = content.cells
        self.dropped = content.dropped

    def write(self, cells: FinishedCell | Iterable[FinishedCell]) -> None:
        """Append finished places as one line: all of them are kept, or none.

        Values come back bit by bit: as float32 where that loses nothing, as float64 otherwise.

        Raises:
            ShapeError: Values that are no vector.
            NonFiniteError: Infinity, or NaN without a reason.
            SweepFileError: The journal was closed.
            OSError: The disk is full or gone; what was written before stays readable.
        """
        done = [cells] if isinstance(cells, FinishedCell) else list(cells)
        if not done:
            return
        self._append(_sealed([_packed(cell) for cell in done]))
        if time.monotonic() - self._synced >= self._sync_seconds:
            os.fsync(self._open())
            self._synced = time.monotonic()

    def close(self) -> None:
        """Bring the file to the disk, close it and let go of it; closing twice does nothing."""
        if self._file is not None:
            descriptor, self._file = self._file, None
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def discard(self) -> None:
        """Delete the file, for example when the result is saved; nobody else can be writing it."""
        self._open()
        self.path.unlink(missing_ok=True)
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _open(self) -> int:
        if self._file is None:
            raise SweepFileError(
                f"the journal {self.path} was closed before", next_step="open it again"
            )
        return self._file

    def _append(self, content: Mapping[str, Any]) -> None:
        descriptor = self._open()
        text = json.dumps(content, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
        line = memoryview(text.encode() + b"\n")
        size = os.fstat(descriptor).st_size
        try:
            while line:
                line = line[os.write(descriptor, line) :]
        except BaseException:
            # Half a line would swallow the next one.
            os.ftruncate(descriptor, size)
            raise


def read_sweep_journal(path: str | Path) -> JournalContent:
    """Read a journal without opening it for writing, for example of a sweep that still runs.

    Raises:
        FileNotFoundError: There is none.
        SweepFileError: The file is no journal of this format.
    """
    return _parse(Path(path), Path(path).read_bytes())


def _locked(path: Path) -> int:
    """Return a descriptor of the file at `path`, locked by this process alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise SweepFileError(f"{path} is a directory", expected="the path of a file")
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        if fcntl is None:
            return descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError:
            raw = _read_all(descriptor)
            os.close(descriptor)
            raise _in_use(path, raw) from None
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # deleted between opening and locking: take the new one


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _in_use(path: Path, raw: bytes) -> SweepFileError:
    writers = [line for line in map(_json_line, raw.split(b"\n")) if line and "pid" in line]
    who = "process {pid} on {host}".format(**writers[-1]) if writers else "another process"
    here = {"pid": os.getpid(), "host": socket.gethostname()}
    hint = "wait for it or end it; two sweeps at once need a path each"
    if writers and writers[-1] == here:
        who, hint = "this process", "close the sweep that is still open here, or restart"
    return SweepFileError(f"{path} is being written by {who}", next_step=hint)


def _read_all(descriptor: int) -> bytes:
    os.lseek(descriptor, 0, os.SEEK_SET)
    parts = []
    while part := os.read(descriptor, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _parse(path: Path, raw: bytes) -> JournalContent:
    """Return what is in a journal, leaving out lines that are torn or damaged."""
    content = JournalContent(size=raw.rfind(b"\n") + 1)
    first, *rest = raw[: max(content.size - 1, 0)].split(b"\n")
    head = _json_line(first) or {}
    # What a writer left that was killed in the middle of its first line is no stranger's file.
    begun = raw.startswith(_START) or _START.startswith(raw)
    named = isinstance(head.get("plan"), str) and isinstance(head.get("header"), dict)
    if not begun or (content.size and not named):
        raise SweepFileError(
            f"{path} is not a journal of a sweep that this version reads",
            given=f"format {head['format']!r}" if "format" in head else repr(raw[:40])[1:],
            expected=f"a first line of format {FORMAT!r}",
            next_step="choose another path, or delete the file if nobody needs it",
        )
    if content.size < len(raw):
        content.dropped += 1
    if not content.size:
        return content
    content.plan, content.header = head["plan"], head["header"]
    for text in rest:
        line = _json_line(text)
        if line is not None and "pid" in line:
            continue
        cells = None if line is None else _opened(line)
        if cells is None:
            content.dropped += 1
            continue
        content.cells.update({(cell.row, cell.column): cell for cell in cells})
    return content


def _json_line(text: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return line if isinstance(line, dict) else None


def _require_same_plan(
    path: Path, content: JournalContent, plan: str, header: Mapping[str, Any]
) -> None:
    if content.plan == plan:
        return
    # As the file would hold it: a tuple comes back as a list.
    asked = json.loads(json.dumps(header))
    names = [name for name in {**content.header, **asked} if _at(content, name) != asked.get(name)]
    rows = [
        f"{name} was {_short(_at(content, name))}, is {_short(asked.get(name))}" for name in names
    ]
    raise SweepFileError(
        f"{path} belongs to another sweep",
        given="; ".join(rows) or f"digest {plan[:12]}, of which no named part differs",
        expected="the sweep it was begun with, in every part that values depend on",
        next_step="choose another path, or delete the file to begin anew",
    )


def _at(content: JournalContent, name: str) -> object:
    return content.header.get(name)


def _short(value: object) -> str:
    text = "absent" if value is None else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 20]}...{text[-17:]}"


def _packed(cell: FinishedCell) -> list[Any]:
    """Return a cell as plain values: row, column, reason, kind of float, base64."""
    values = _vector(cell)
    with np.errstate(over="ignore"):
        narrow = values.astype("<f4")
    exact = np.array_equal(narrow.astype("<f8"), values, equal_nan=True)
    kept = narrow if exact else values
    text = base64.b64encode(kept.tobytes()).decode()
    return [int(cell.row), int(cell.column), cell.reason, kept.dtype.str, text]


def _vector(cell: FinishedCell) -> NDArray[np.float64]:
    values = np.asarray(cell.values, dtype="<f8")
    place = f"row {cell.row}, column {cell.column}"
    if values.ndim != 1:
        raise ShapeError(
            f"the values at {place} are no vector", given=values.shape, expected="one a prompt"
        )
    bad = np.isinf(values) | (np.isnan(values) & (not cell.reason))
    if bad.any():
        raise NonFiniteError(
            f"the effect at {place} is {values[bad][0]} for {int(bad.sum())} prompts",
            given=f"prompts {np.flatnonzero(bad)[:5].tolist()}",
            expected="finite numbers, or NaN beside a reason",
        )
    return values


def _sealed(cells: list[list[Any]]) -> dict[str, Any]:
    return {"cells": cells, "crc": zlib.crc32(_seal_text(cells))}


def _seal_text(cells: list[list[Any]]) -> bytes:
    return json.dumps(cells, separators=(",", ":")).encode()


def _opened(line: Mapping[str, Any]) -> list[FinishedCell] | None:
    """Return the cells of a line, None where it is damaged."""
    cells = line.get("cells")
    if not isinstance(cells, list) or line.get("crc") != zlib.crc32(_seal_text(cells)):
        return None
    return [
        FinishedCell(row, column, np.frombuffer(base64.b64decode(text), dtype=kind), reason)
        for row, column, reason, kind, text in cells
    ]
