"""How do rows become a report: what was registered, where does it come from, what was it run on?"""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from mechtest.plugin.accounting import Outcomes, make_rows
from mechtest.plugin.journal import JournalContent
from mechtest.plugin.lock import Lock, differences
from mechtest.plugin.plan import PlannedClaim
from mechtest.plugin.session import ClaimSession
from mechtest.plugin.threads import effective_threads

__all__ = ["Gathered", "gather", "stale_sentences"]

ASSUMPTIONS = (
    "the error rate is that of any false 'supported' among all registered claims, on one model",
    "templates, not prompts, are what claims generalise over",
)
PACKAGES = ("mechtest", "pytest", "torch", "numpy", "scipy", "transformers", "safetensors")

Row = dict[str, Any]


@dataclass(frozen=True)
class Gathered:
    """What a finished run comes to.

    Attributes:
        rows: One for every claim.
        stale: Where lock and claims differ.
        registered: Keys of all registered claims (of all collected ones without a lock).
        journals: What workers wrote.
        facts: Of every claim that ended, by node id.
    """

    rows: list[Row]
    stale: list[str]
    registered: list[str]
    journals: JournalContent
    facts: Mapping[str, Mapping[str, Any]]


def gather(session: ClaimSession) -> Gathered:
    """Account for every claim of a session."""
    journals = session.read_journals()
    session.take_plan(journals)
    lock = None if session.problem is not None else session.lock
    budget = session.budget if session.problem is None else session.budget_without_lock
    outcomes = Outcomes(session.facts, journals, session.crashed)
    unchanged = [c.key for c in session.planned.values() if lock and session.is_registered(c)]
    replay = _replay(session)
    rows = make_rows(session.planned, outcomes, budget, registered=unchanged, replay=replay)
    ended = {line["id"]: line["facts"] for line in journals.events("end")}
    return Gathered(
        rows=rows,
        stale=[] if lock is None else stale_of(session, lock, rows),
        registered=list(budget.claims),
        journals=journals,
        facts={**ended, **session.facts},
    )


def _replay(session: ClaimSession) -> list[str]:
    """Return the options that repeat a claim of this run exactly."""
    options = session.options
    words = [f"--mechtest-seed={0 if session.problem else session.seed}"]
    words += [f"--mechtest-model={model}" for model in options.models]
    words += [f"--mechtest-checkpoint={name}" for name in options.checkpoints]
    return words


def stale_of(session: ClaimSession, lock: Lock, rows: Sequence[Row]) -> list[str]:
    """Return where a session's lock and claims differ."""
    selective = any("::" in arg for arg in session.config.args) or bool(
        getattr(session.config.option, "lf", False)
    )
    return stale_sentences(
        lock,
        session.planned.values(),
        rows,
        files=() if selective else session.files,
        gone=[
            file
            for file in {key.partition("::")[0] for key in lock.claims}
            if not (session.rootdir / file).exists()
        ],
    )


def stale_sentences(
    lock: Lock,
    planned: Any,
    rows: Sequence[Row],
    *,
    files: Sequence[str],
    gone: Sequence[str] = (),
) -> list[str]:
    """Return where a lock and the claims differ, one sentence a claim.

    Args:
        lock: The lock.
        planned: Claims as collected.
        rows: What became of them; their notes say what changed while they ran.
        files: Files that were collected completely.
        gone: Files that are no longer there.
    """
    claims: list[PlannedClaim] = list(planned)
    keys = {claim.key for claim in claims}
    problems = {claim.key for claim in claims if claim.problem}
    found = [f"{key} is not in the lock" for key in sorted(keys - set(lock.claims) - problems)]
    looked_at = {*files, *gone}
    found += [
        f"{key} is in the lock and no longer in its file"
        for key in lock.claims
        if key not in keys and key.partition("::")[0] in looked_at
    ]
    changed: dict[str, str] = {}
    for claim in claims:
        if claim.key in lock.claims:
            static = differences(lock.claims[claim.key], claim)
            if static:
                changed[claim.key] = f"{claim.key} changed since the lock: {'; '.join(static)}"
    for row in rows:
        for note in row["notes"]:
            if note.startswith("changed since the lock: "):
                changed[row["key"]] = f"{row['key']} {note}"
    return found + list(changed.values())


def report_parts(session: ClaimSession, gathered: Gathered) -> dict[str, Any]:
    """Return everything `build_report` wants beside the rows."""
    lock = None if session.problem is not None else session.lock
    budget = session.budget if session.problem is None else session.budget_without_lock
    selected = {row["key"] for row in gathered.rows if row["verdict"] != "deselected"}
    registered = gathered.registered
    families = {
        name: {
            "ordered": family.ordered,
            "level": budget.alpha / max(1, budget.shares),
            "claims": list(family.claims),
        }
        for name, family in budget.families.items()
    }
    source = "collection"
    if lock is not None and session.lock_path is not None:
        source = session.lock_path.relative_to(session.rootdir).as_posix()
    return {
        "families": families,
        "family_error": {
            "alpha": budget.alpha,
            "registered": len(registered),
            "selected": len(selected & set(registered)),
            "source": source,
            "stale": gathered.stale,
        },
        "provenance": {
            "versions": versions(),
            "lock": "" if lock is None else lock.digest,
            "git": git_state(session.rootdir),
            "seed": 0 if session.problem is not None else session.seed,
            "prompts": _prompts(gathered),
            "circuits": circuits_tested(gathered.facts.values()),
        },
        "run": _run(session, gathered),
        "assumptions": list(ASSUMPTIONS),
        "collection_errors": session.collection_errors,
    }


def circuits_tested(facts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Return how many different circuits were tested on each test half, by its digest."""
    found: dict[str, set[str]] = {}
    for one in facts:
        for half, circuit in one.get("ledger", ()):
            found.setdefault(str(half)[:16], set()).add(str(circuit))
    return {half: len(circuits) for half, circuits in sorted(found.items())}


def _prompts(gathered: Gathered) -> dict[str, str]:
    found: dict[str, str] = {}
    for _, facts in sorted(gathered.facts.items()):
        found.update(facts.get("prompts", {}))
    return dict(sorted(found.items()))


def _run(session: ClaimSession, gathered: Gathered) -> dict[str, Any]:
    facts = gathered.facts
    claims = {
        name: {
            "seconds": round(float(found["seconds"]), 3),
            "worker": found["worker"],
            "engine": found["engine"],
            "forward_passes": found["forward_passes"],
            "forward_tokens": found["forward_tokens"],
        }
        for name, found in sorted(facts.items())
    }
    workers = getattr(session.config.option, "numprocesses", None)
    return {
        "id": session.run_id,
        "started": session.started.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - session.clock, 3),
        "workers": int(workers or 0) or 1,
        "threads": max((f["threads"] for f in facts.values()), default=effective_threads()),
        "engine": session.options.engine,
        "memory": session.options.memory,
        "kernels": sorted({name for found in facts.values() for name in found["kernels"]}),
        "forward_passes": sum(found["forward_passes"] for found in facts.values()),
        "forward_tokens": sum(found["forward_tokens"] for found in facts.values()),
        "argv": [str(arg) for arg in session.config.invocation_params.args],
        "claims": claims,
        "torn_lines": gathered.journals.torn,
        "notes": list(session.messages),
    }


def versions() -> dict[str, str]:
    """Return versions of what computes, without importing it."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "platform": sys.platform}


def git_state(directory: Path) -> dict[str, Any] | None:
    """Return commit and whether tracked files differ from it; None outside a repository."""
    try:
        commit = _git(directory, "rev-parse", "HEAD")
        changed = _git(directory, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "dirty": bool(changed)}


def _git(directory: Path, *words: str) -> str:
    done = subprocess.run(  # noqa: S603
        ["git", *words],  # noqa: S607
        cwd=directory,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return done.stdout.strip()
