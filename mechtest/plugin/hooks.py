"""Where does pytest call, and who answers? Every hook finds the session and passes on."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

import mechtest
from mechtest.plugin.accounting import partial_records
from mechtest.plugin.finishing import finish
from mechtest.plugin.fixtures import parametrise
from mechtest.plugin.marks import MARKERS
from mechtest.plugin.options import add_options
from mechtest.plugin.plan import PlannedClaim
from mechtest.plugin.pooling import close_pool, join_pool, share_pool
from mechtest.plugin.progress import WorkerProgress, live_line
from mechtest.plugin.resuming import Replays, begin_run, forget_refused, take_over
from mechtest.plugin.running import attach_facts, call_claim, refuse_problem, run_claim
from mechtest.plugin.scheduling import longest_first, make_scheduler
from mechtest.plugin.session import SESSION, ClaimSession, session_of
from mechtest.plugin.shown import status
from mechtest.plugin.signals import interrupt_on_sigterm, restore_sigterm
from mechtest.plugin.terminal import summarise

WORKER_PROGRESS = pytest.StashKey[WorkerProgress]()
SHARED = pytest.StashKey[bool]()

# -- configuration ---------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add options and ini keys."""
    add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    """Register the markers and start to know about claims."""
    for line in MARKERS:
        config.addinivalue_line("markers", line)
    join_pool(config)
    config.stash[SESSION] = ClaimSession(config)
    config.pluginmanager.register(Reports(config.stash[SESSION]), "mechtest-reports")
    if config.stash[SESSION].options.resume:
        replays = config.stash[SESSION].replays = Replays(config.stash[SESSION])
        config.pluginmanager.register(replays, "mechtest-replays")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the journal, and delete what workers shared."""
    close_pool(config)
    session = session_of(config)
    if session is not None:
        session.close()


def pytest_report_header() -> str:
    """Say which version answers."""
    return f"mechtest: {mechtest.__version__}"


# -- collection ------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give tests their models."""
    parametrise(metafunc)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take the plan of all claims before any is deselected."""
    session = session_of(config)
    if session is None:
        return
    if session.usage_error and not session.is_worker:
        raise pytest.UsageError(session.usage_error)
    session.collected(items)
    if session.planned and session.is_worker:
        longest_first(items)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the plan down, before xdist tells the controller that there is one."""
    claims = session_of(session.config)
    if claims is None or session.config.option.collectonly or _controls(session.config):
        return
    if claims.planned and not claims.is_worker and claims.options.resume:
        take_over(claims)
    claims.selected(session.items)
    if claims.planned and not claims.is_worker:
        begin_run(claims)
        claims.live = live_line(session.config)
        interrupt_on_sigterm(claims)


class Reports:
    """Hooks that are told of no config, and so belong to one session's object.

    Args:
        session: That gathers.
    """

    def __init__(self, session: ClaimSession) -> None:
        self._session = session

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Remember files whose claims nobody could see."""
        if report.failed:
            lines = str(report.longreprtext).strip().splitlines()
            error = {"file": report.nodeid.partition("::")[0], "message": (lines or ["error"])[-1]}
            self._session.collection_errors.append(error)
            if self._session.journal is not None:
                self._session.journal.write("uncollected", error)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Gather what claims came to; in the controller, from all workers."""
        facts = getattr(report, "mechtest", None)
        if facts is not None:
            self._session.facts[report.nodeid] = facts
        elif report.failed:
            self._session.other_failures.append(report.nodeid)

    def pytest_internalerror(self, excinfo: pytest.ExceptionInfo[BaseException]) -> None:
        """Remember that pytest itself failed; with one worker it would end as if nothing had."""
        self._session.internal_error = type(excinfo.value).__name__

    @pytest.hookimpl(optionalhook=True)
    def pytest_handlecrashitem(self, crashitem: str, report: pytest.TestReport) -> None:
        """Say what a claim had found before its worker died."""
        self._session.crashed.add(crashitem)
        if self._session.journal is not None:
            self._session.journal.write("crash", {"id": crashitem}, keep=True)
        partial = partial_records(crashitem, self._session.read_journals())
        if partial and isinstance(report.longrepr, str):
            report.longrepr += "".join(f"\nbefore that: {text}" for text in partial)


# -- one claim -------------------------------------------------------------------------------


def _planned(item: pytest.Item) -> tuple[ClaimSession, PlannedClaim] | None:
    session = session_of(item.config)
    planned = None if session is None else session.planned.get(item.nodeid)
    return None if session is None or planned is None else (session, planned)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Put a claim in place around its test."""
    found = _planned(item)
    if found is not None and found[0].replays is not None and found[0].replays.line(found[1]):
        return (yield)  # taken over from an interrupted run: nothing is checked
    return (yield) if found is None else (yield from run_claim(item, *found))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Refuse claims that cannot be checked as declared before a model is loaded."""
    found = _planned(item)
    if found is not None:
        refuse_problem(*found)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Turn what a claim came to into what pytest has to see."""
    __tracebackhide__ = True
    found = _planned(item)
    return (yield) if found is None else (yield from call_claim(item, *found))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Put what a claim came to on its report."""
    report = yield
    found = _planned(item)
    if found is not None:
        attach_facts(item, call, report, *found)
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_report_teststatus(
    report: pytest.TestReport, config: pytest.Config
) -> tuple[str, str, str] | None:
    """Show verdicts as letters and words of their own."""
    session = session_of(config)
    return status(report, planning=session is not None and session.options.planning)


# -- workers ---------------------------------------------------------------------------------


def _controls(config: pytest.Config) -> bool:
    """Whether this process only tells workers what to do."""
    return config.pluginmanager.hasplugin("dsession")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker where journals are and how tests are dealt out."""
    share_pool(node)
    session = session_of(node.config)
    if session is not None:
        node.workerinput["mechtest"] = session.share_journals()
        if session.options.resume and not node.config.stash.get(SHARED, False):
            take_over(session)
        node.config.stash[SHARED] = True


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Keep claims of one model together."""
    session = session_of(config)
    return None if session is None else make_scheduler(session, config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any) -> None:
    """See whether there are claims; if so, show how far they have come and survive SIGTERM."""
    session = session_of(node.config)
    if session is None or WORKER_PROGRESS in node.config.stash:
        return
    journals = session.read_journals()
    if journals.events("plan"):
        session.take_plan(journals)
        session.control()
        begin_run(session)
        progress = WorkerProgress(session, node.config)
        node.config.stash[WORKER_PROGRESS] = progress
        progress.start()
        interrupt_on_sigterm(session)


# -- the end ---------------------------------------------------------------------------------


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Account for every claim, write the report and make the exit status right."""
    claims = session_of(session.config)
    if claims is None or claims.is_worker or session.config.option.collectonly:
        return
    restore_sigterm(claims)
    if claims.refused:
        if claims.journals is not None:
            forget_refused(claims.journals, claims.run_id)
        return
    if WORKER_PROGRESS in session.config.stash:
        session.config.stash[WORKER_PROGRESS].stop()
    session.exitstatus = finish(claims, int(exitstatus))


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Write the section about claims."""
    session = session_of(config)
    if session is not None and not session.is_worker and not config.option.collectonly:
        summarise(terminalreporter, session)
