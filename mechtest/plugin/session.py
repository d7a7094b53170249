"""What does a pytest process know about the claims of this run?

One object a process, in pytest's stash: in a worker it decides at which level a claim is tested, in
the controller (or the only process) it gathers what became of all of them.
"""

from __future__ import annotations

import os
import tempfile
import time
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from mechtest.errors import RegistrationError
from mechtest.plugin.baseline import Baseline, load_baseline
from mechtest.plugin.inputs import digests_of, inputs_of
from mechtest.plugin.journal import Journal, JournalContent, read_journals
from mechtest.plugin.levels import Budget
from mechtest.plugin.lock import Lock, differences, find_lock, read_lock
from mechtest.plugin.options import Options, read_options
from mechtest.plugin.plan import PlannedClaim, budget_of, plan_items, with_selection
from mechtest.running_claim import DEFAULT_ALPHA

if TYPE_CHECKING:
    from mechtest.plugin.progress import Live
    from mechtest.plugin.resuming import Replays

__all__ = ["SESSION", "ClaimSession", "session_of"]

RERUNNING = ("loadscope", "loadfile", "loadgroup")
"""Modes of xdist that start a test again after it has killed its worker."""


def _cannot_write(directory: Path) -> str:
    """Return why nothing can be written into a directory; empty where it can.

    What is made for the question goes again: there may be no claims, and then nothing is left.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    probe = directory / f".probe-{os.getpid()}"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"\n")
        probe.unlink()
        for path in made:
            path.rmdir()
    except OSError as error:
        return str(error)
    return ""


class ClaimSession:
    """The claims of one run, as one process sees them.

    Args:
        config: pytest's.
    """

    def __init__(self, config: pytest.Config) -> None:
        given = getattr(config, "workerinput", {}).get("mechtest", {})
        self.begin(config, read_options(config, dict(os.environ)), given)

    def begin(self, config: pytest.Config, options: Options, given: Mapping[str, str]) -> None:
        """Set everything to how a process begins.

        Args:
            config: pytest's.
            options: What is asked for.
            given: What the controller tells a worker.
        """
        self.config = config
        self.options = options
        self.rootdir = Path(config.rootpath)
        self.is_worker = hasattr(config, "workerinput")
        self.worker = str(getattr(config, "workerinput", {}).get("workerid", "main"))
        self.run_id = str(given.get("run", uuid.uuid4().hex))
        self.dist = str(given.get("dist", "no"))
        self.started = datetime.now(UTC)
        self.clock = time.monotonic()
        self._journals = given.get("journals")
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self.planned: dict[str, PlannedClaim] = {}
        self.files: list[str] = []
        self.lock_path: Path | None = None
        self.problem: RegistrationError | None = None
        self.journal: Journal | None = None
        self.facts: dict[str, Mapping[str, Any]] = {}
        self.crashed: set[str] = set()
        self.collection_errors: list[dict[str, str]] = []
        self.messages: list[str] = []
        self.report: dict[str, Any] | None = None
        self.live: Live | None = None
        self.usage_error = ""
        self.internal_error = ""
        self.other_failures: list[str] = []
        self.comparison_error = ""
        self.unsaved = False
        self.baseline: Baseline | None = None
        if not self.is_worker and not config.option.collectonly:
            self.baseline = load_baseline(self.options, self.rootdir)
        self.terminable = False
        self.written: list[Path] = []
        self.annotations: list[str] = []
        self.plans: list[tuple[Mapping[str, Any], Mapping[str, Any]]] = []
        self.inputs: dict[str, str] = {}
        self.replays: Replays | None = None
        self.refused = False
        self.unwritten = ""

    # -- where journals are ------------------------------------------------------------------

    @property
    def journals(self) -> Path | None:
        """Directory of this run's journals; None where there are none."""
        if self._journals:
            return Path(self._journals)
        report = self.options.report
        # A plan or a lock finishes no claim, and must not take the place of a run that did.
        if report is None or self.options.planning:
            return None
        return report / "journal"

    def share_journals(self) -> dict[str, str]:
        """Return what a worker is told; makes a place for journals where no report is written."""
        problem = "" if self.journals is None else _cannot_write(self.journals)
        if problem:
            self.messages.append(f"no journal is kept, a crash would lose everything: {problem}")
        if self.journals is None or problem:
            self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="mechtest-")
            self._journals = self._temporary.name
        dist = str(self.config.getoption("dist", "no"))
        return {"journals": str(self.journals), "run": self.run_id, "dist": dist}

    def read_journals(self) -> JournalContent:
        """Return what this run's workers have written so far."""
        return read_journals(self.journals, self.run_id) if self.journals else JournalContent()

    def close(self) -> None:
        """Close files and remove what was temporary."""
        if self.journal is not None:
            self.journal.close()
        if self._temporary is not None:
            self._temporary.cleanup()

    # -- collecting --------------------------------------------------------------------------

    def collected(self, items: Sequence[pytest.Item]) -> None:
        """Take the plan from all tests, before any is deselected."""
        self.planned = plan_items(items)
        if not self.planned:
            return
        self.files = sorted({item.nodeid.partition("::")[0] for item in items})
        if self.journals is not None and not self._only_looks:
            claims = [item for item in items if item.nodeid in self.planned]
            names = [name for item in claims for name in inputs_of(item, self.rootdir)]
            self.inputs = digests_of(names, self.rootdir)
        try:
            self._refuse_reruns()
            self.find_lock()
        except RegistrationError as error:
            self.problem = error

    @property
    def _only_looks(self) -> bool:
        """Whether no claim is checked, so that nobody will go on with this run."""
        return bool(self.config.option.collectonly) or self.options.planning

    def selected(self, items: Sequence[pytest.Item]) -> None:
        """Note which claims are left to run, and write the plan down."""
        if not self.planned:
            return
        self.planned = with_selection(self.planned, items)
        if self.journals is not None:
            name = f"{self.worker}-{self.run_id[:8]}" if self.options.resume else self.worker
            self.journal = Journal(self.journals, name, self.run_id)
            claims = [claim.as_json() for claim in self.planned.values()]
            content = {"claims": claims, "files": self.files, "inputs": self.inputs}
            problem = "" if self.problem is None else self.problem.what
            self.journal.write("plan", {**content, "problem": problem}, keep=True)

    def control(self) -> None:
        """Open the journal of the process that tells workers what to do."""
        if self.journals is not None:
            name = f"controller-{self.run_id[:8]}" if self.options.resume else "controller"
            self.journal = Journal(self.journals, name, self.run_id)

    def take_plan(self, journals: JournalContent) -> None:
        """Take the plan that workers wrote, in a process that collects nothing itself."""
        for line in journals.events("plan"):
            for content in line["claims"]:
                claim = PlannedClaim.from_json(content)
                self.planned.setdefault(claim.id, claim)
            self.files = sorted({*self.files, *line["files"]})
            if line["problem"] and self.problem is None:
                self.problem = RegistrationError(line["problem"])
        if self.planned and self.lock_path is None and self.problem is None:
            try:
                self.find_lock()
            except RegistrationError as error:
                self.problem = error

    def find_lock(self) -> None:
        """Find and read the lock of the claims' files."""
        files = {claim.file for claim in self.planned.values()}
        self.lock_path = find_lock(files, self.rootdir)
        self.__dict__.pop("lock", None)
        if self.lock is not None and self.options.lock != "write":
            self.messages += self.deviations()

    def _refuse_reruns(self) -> None:
        if getattr(self.config.option, "reruns", 0):
            raise RegistrationError(
                "claims are not run again: k further tries turn an error rate of alpha into "
                "1 - (1 - alpha)^(k + 1)",
                given=f"--reruns={self.config.option.reruns}",
                next_step="drop --reruns for claims",
            )
        if self.dist in RERUNNING:
            raise RegistrationError(
                f"--dist={self.dist} starts a test that killed its worker again, and claims are "
                "not run again",
                given=f"--dist={self.dist}",
                expected="--dist=load or --dist=worksteal",
                next_step="drop --dist: claims of one model are kept together anyway",
            )

    # -- levels ------------------------------------------------------------------------------

    @cached_property
    def lock(self) -> Lock | None:
        """The lock of these claims, where there is one."""
        return None if self.lock_path is None else read_lock(self.lock_path)

    @property
    def seed(self) -> int:
        """Root seed of the run."""
        if self.options.seed is not None:
            return self.options.seed
        return 0 if self.lock is None else self.lock.seed

    @property
    def alpha(self) -> float:
        """Error rate shared by all claims."""
        if self.options.alpha is not None:
            return self.options.alpha
        return DEFAULT_ALPHA if self.lock is None else self.lock.alpha

    @property
    def budget(self) -> Budget:
        """How that rate is shared: over the lock's claims, or over those collected."""
        if self.lock is None or self.options.lock == "write":
            return budget_of(self.planned, self.alpha)
        return Budget(self.alpha, self.lock.budget.families, self.lock.budget.claims)

    @property
    def budget_without_lock(self) -> Budget:
        """How the rate would be shared over the collected claims alone."""
        alpha = DEFAULT_ALPHA if self.options.alpha is None else self.options.alpha
        return budget_of(self.planned, alpha)

    def deviations(self) -> list[str]:
        """Return in what this run departs from its lock as a whole."""
        if self.lock is None:
            return []
        pairs = (("seed", self.seed, self.lock.seed), ("alpha", self.alpha, self.lock.alpha))
        return [
            f"run with {name} {used}, the lock says {locked}: exploratory"
            for name, used, locked in pairs
            if used != locked
        ]

    def changed_since_lock(self, claim: PlannedClaim) -> list[str]:
        """Return how a claim differs from its registration before it runs."""
        if self.lock is None:
            return []
        locked = self.lock.claims.get(claim.key)
        return ["not in the lock"] if locked is None else differences(locked, claim)

    def level(self, claim: PlannedClaim) -> float:
        """Return the level at which a claim is tested."""
        if self.options.lock != "write" and self.changed_since_lock(claim):
            return self.budget.alpha / (self.budget.shares + 1)
        return self.budget.level(claim.key)

    def is_registered(self, claim: PlannedClaim) -> bool:
        """Whether the lock holds this claim as it is."""
        unchanged = self.lock is not None and not self.changed_since_lock(claim)
        return unchanged and not self.deviations()


SESSION = pytest.StashKey[ClaimSession]()


def session_of(config: pytest.Config) -> ClaimSession | None:
    """Return the claims of a run; None where the plugin was not configured."""
    return config.stash.get(SESSION, None)
