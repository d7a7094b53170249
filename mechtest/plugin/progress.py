"""How far has a long claim come?

In one process a line is rewritten in place. With workers, their journals are read: a thread of the
controller only puts a tick into the queue of xdist's loop, which then prints between two reports,
so that lines never mix. Those parts of xdist are private; where they are missing there is silence.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from mechtest.plugin.session import ClaimSession

__all__ = ["Live", "WorkerProgress", "progress_text"]

TTY_SECONDS = 1.0
LOG_SECONDS = 10.0


def progress_text(claim: str, content: Mapping[str, Any]) -> str:
    """Return one line about a running claim."""
    name = claim.rpartition("::")[2]
    note = f", {content['note']}" if content.get("note") else ""
    return f"{name}: {content.get('done', '?')} of at most {content.get('total', '?')}{note}"


def printable(text: str, width: int) -> str:
    """Return a text that fits one line and moves no cursor."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text)
    return clean if len(clean) <= width else clean[: max(0, width - 3)] + "..."


class Live:
    """The rewritten line of a run in one process.

    Args:
        reporter: pytest's terminal reporter.
        capture: pytest's capture manager, which has to let go for a moment; None without one.
    """

    def __init__(self, reporter: Any, capture: Any) -> None:
        self._reporter = reporter
        self._capture = capture
        self._last = 0.0
        self._shown = False

    def show(self, claim: str, content: Mapping[str, Any]) -> None:
        """Show how far a claim has come, at most once a second."""
        now = time.monotonic()
        if now - self._last < TTY_SECONDS:
            return
        self._last = now
        width = self._reporter.writer.fullwidth if hasattr(self._reporter, "writer") else 80
        text = printable(progress_text(claim, content), width - 1)
        with self._uncaptured():
            if not self._shown:
                self._reporter.ensure_newline()  # leaves the letters of earlier tests alone
            self._shown = True
            self._reporter.rewrite(text, erase=True)

    def clear(self, file: str) -> None:
        """Make room for the letter of the claim that ended, after the name of its file."""
        if not self._shown:
            return
        self._shown = False
        with self._uncaptured():
            self._reporter.rewrite("", erase=True)
            self._reporter.rewrite(f"{file} ")

    def _uncaptured(self) -> AbstractContextManager[Any]:
        if self._capture is None:
            return nullcontext()
        disabled: AbstractContextManager[Any] = self._capture.global_and_fixture_disabled()
        return disabled


def live_line(config: pytest.Config) -> Live | None:
    """Return a line to rewrite, None where there is no terminal to do it on."""
    reporter = config.pluginmanager.getplugin("terminalreporter")
    if reporter is None or not getattr(reporter, "isatty", False):
        return None
    return Live(reporter, config.pluginmanager.getplugin("capturemanager"))


class WorkerProgress:
    """Prints the progress of claims that run in workers.

    Args:
        session: Of the controller.
        config: pytest's.
    """

    def __init__(self, session: ClaimSession, config: pytest.Config) -> None:
        self._session = session
        self._reporter = config.pluginmanager.getplugin("terminalreporter")
        self._dsession = config.pluginmanager.getplugin("dsession")
        self._stop = threading.Event()
        self._offsets: dict[Path, int] = {}
        self._running: dict[str, tuple[str, dict[str, Any]]] = {}
        self._tty = bool(getattr(self._reporter, "isatty", False))

    def start(self) -> None:
        """Start ticking, where xdist's loop can be told to call back."""
        queue = getattr(self._dsession, "queue", None)
        if self._reporter is None or self._reporter.config.option.verbose < 0:
            return
        if not hasattr(queue, "put") or not hasattr(self._dsession, "loop_once"):
            return
        self._dsession.worker_mechtest_tick = self.tick
        thread = threading.Thread(target=self._tick_on, args=(queue,), daemon=True)
        thread.start()

    def stop(self) -> None:
        """Stop ticking."""
        self._stop.set()

    def _tick_on(self, queue: Any) -> None:
        while not self._stop.wait(TTY_SECONDS * 2 if self._tty else LOG_SECONDS):
            queue.put(("mechtest_tick", {}))

    def tick(self) -> None:
        """Print how far running claims have come; called from xdist's own loop."""
        self.read_on()
        for worker, (claim, content) in sorted(self._running.items()):
            if not content:
                continue
            width = self._reporter.writer.fullwidth if hasattr(self._reporter, "writer") else 80
            text = printable(f"[{worker}] {progress_text(claim, content)}", width - 1)
            self._new_line()
            self._reporter.write_line(text)
            content.clear()

    def _new_line(self) -> None:
        """End a line of dots."""
        writer = getattr(self._reporter, "_tw", None)
        if getattr(writer, "width_of_current_line", 0):
            self._reporter.write_line("")

    def read_on(self) -> None:
        """Take in what workers have written since the last time."""
        directory = self._session.journals
        if directory is None:
            return
        for path in directory.glob("*.jsonl"):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                raw = file.read()
            complete, _, _ = raw.rpartition(b"\n")
            self._offsets[path] = self._offsets.get(path, 0) + len(complete) + bool(complete)
            for text in complete.split(b"\n"):
                self._take(path.stem, text)

    def _take(self, worker: str, text: bytes) -> None:
        try:
            line = json.loads(text)
        except ValueError:
            return
        event = line.get("event") if isinstance(line, dict) else None
        if event == "start":
            self._running[worker] = (str(line["id"]), {})
        elif event == "progress":
            self._running[worker] = (str(line["id"]), line)
        elif event == "end":
            self._running.pop(worker, None)
