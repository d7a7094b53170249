"""What can be said of a run whose process is gone?

Everything its workers wrote down: the journals hold the plan, the conditions, what ended and what
was begun. The report made of them is the one the run would have written where it stopped; claims
that never ended have rows that say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from mechtest.errors import MechtestError
from mechtest.plugin.finishing import exit_status, say
from mechtest.plugin.gathering import gather, report_parts
from mechtest.plugin.journal import JournalContent, newest_run, read_journals
from mechtest.plugin.lock import parse_lock
from mechtest.plugin.options import Options
from mechtest.plugin.session import ClaimSession

__all__ = ["journal_directory", "rebuild", "status_of_report"]


class PastSession(ClaimSession):
    """The session of a run that has ended, from its journals.

    Args:
        directory: Of the journals.
        content: What they say.
        run: Name of the run.

    Raises:
        MechtestError: The run ended before it had a plan.
    """

    def __init__(self, directory: Path, content: JournalContent, run: str) -> None:
        contexts = content.events("context")
        if not contexts or not content.events("plan"):
            raise MechtestError(
                f"the run in {directory} ended before its claims were collected",
                given=str(directory),
                expected="journals with a plan",
                next_step="run the claims again",
            )
        context = contexts[-1]
        # The attributes of a session come from its options and its config; both are stood in for.
        config: Any = SimpleNamespace(
            stash={},
            rootpath=Path(context["rootdir"]),
            args=context["args"],
            option=SimpleNamespace(
                lf=context["lf"], numprocesses=context["workers"], collectonly=False
            ),
            invocation_params=SimpleNamespace(args=context["argv"]),
        )
        self.begin(config, _options(context["options"]), {"run": run, "journals": str(directory)})
        self.started = datetime.fromisoformat(context["started"])
        self.past = context
        self.content = content
        text = context["lock"]
        self.__dict__["lock"] = None if text is None else parse_lock(text, context["lock_name"])
        self.lock_path = self.rootdir / context["lock_name"] if text is not None else None
        self.crashed = {line["id"] for line in content.events("crash")}
        errors = [*context["collection_errors"], *content.events("uncollected")]
        self.collection_errors = [{"file": e["file"], "message": e["message"]} for e in errors]

    def find_lock(self) -> None:
        """Keep the lock that the run had, whatever the file says now."""
        self.messages += self.deviations()

    def take_plan(self, journals: JournalContent) -> None:
        """Take the plan once; a lock that was not there then is not looked for now."""
        if not self.planned:
            super().take_plan(journals)
            if self.lock_path is not None and self.problem is None:
                self.find_lock()

    def read_journals(self) -> JournalContent:
        """Return what was read already: one state of the files for the whole report."""
        return self.content


def _options(content: Mapping[str, Any]) -> Options:
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in content.items()
        if name in Options.__dataclass_fields__ and name != "earlier"
    }  # a baseline is for `mechtest compare`, which takes the report that is made here
    report = str(content["report"])
    return Options(**{**values, "report": Path(report) if report else None})


def journal_directory(path: Path) -> Path | None:
    """Return the journals that belong to a report's directory, None where there are none."""
    for candidate in (path / "journal", path):
        if candidate.is_dir() and newest_run(candidate) is not None:
            return candidate
    return None


def rebuild(directory: Path) -> tuple[dict[str, Any], int]:
    """Make the report of the newest run with journals in a directory.

    Returns:
        The report, and the exit status its run would have ended with.

    Raises:
        MechtestError: There is no such run, or it ended before it had a plan.
    """
    from mechtest.report import build_report

    run = newest_run(directory)
    if run is None:
        raise MechtestError(
            f"there are no journals in {directory}",
            given=str(directory),
            expected="the report's directory of a run, or the journal directory in it",
        )
    content = read_journals(directory, run)
    session = PastSession(directory, content, run)
    gathered = gather(session)
    say(session, gathered)
    session.messages.append("rebuilt from the journals of the run")
    parts = report_parts(session, gathered)
    past = {"versions": session.past["versions"], "git": session.past["git"]}
    parts["provenance"] = {**parts["provenance"], **past}
    parts["run"] = {**parts["run"], "seconds": _seconds(content)}
    report = build_report(gathered.rows, **parts)
    failed = status_of_report(report, session.options.inconclusive)
    return report, failed if failed == 1 else exit_status(session, gathered)


def _seconds(content: JournalContent) -> float:
    """Return the time that its claims took: when the run itself ended nobody wrote down."""
    return round(sum(float(line["facts"]["seconds"]) for line in content.events("end")), 3)


def status_of_report(report: Mapping[str, Any], inconclusive: str = "fail") -> int:
    """Return the exit status that a report stands for: 0, 1 or 8.

    Args:
        report: Of any run.
        inconclusive: What an inconclusive claim did to its test.
    """
    if any(_failed(row, inconclusive) for row in report["claims"]):
        return 1
    unfinished = any(report["summary"][name] for name in ("crashed", "interrupted", "not_run"))
    return 8 if unfinished or report["collection_errors"] else 0


def _failed(row: Mapping[str, Any], inconclusive: str) -> bool:
    verdict = row["verdict"]
    if row["as_expected"] or verdict in ("skipped", "not_run", "deselected"):
        return False
    if verdict == "inconclusive" and inconclusive != "fail":
        return False
    # A timeout failed its test; what was cut off with the run failed nothing.
    return bool(verdict != "interrupted" or row["binding"] == "timeout")
