"""Under which conditions does a run check its claims?

Written to the journal before the first claim starts, so that the run can be accounted for, or gone
on with, by another process that knows nothing else of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mechtest.plugin.gathering import git_state, versions
from mechtest.plugin.inputs import package_digest

if TYPE_CHECKING:
    from mechtest.plugin.session import ClaimSession

__all__ = ["context_differences", "run_context"]

_INDIFFERENT = ("report", "ci", "require_all", "resume", "plan", "lock", "earlier")
"""Options that change what is done with results, and no result."""


def run_context(session: ClaimSession) -> dict[str, Any]:
    """Return what a run is, in plain values."""
    lock = None if session.problem is not None else session.lock
    name = ""
    if lock is not None and session.lock_path is not None:
        name = session.lock_path.relative_to(session.rootdir).as_posix()
    options = {**asdict(session.options), "report": str(session.options.report or "")}
    problem = session.problem is not None
    option = session.config.option
    return {
        "rootdir": str(session.rootdir),
        "started": session.started.isoformat(timespec="seconds"),
        "args": [str(arg) for arg in session.config.args],
        "argv": [str(arg) for arg in session.config.invocation_params.args],
        "lf": bool(getattr(option, "lf", False)),
        "workers": int(getattr(option, "numprocesses", None) or 0),
        "options": options,
        "lock_name": name,
        "lock": None if lock is None else lock.text,
        "seed": 0 if problem else session.seed,
        "alpha": None if problem else session.alpha,
        "versions": versions(),
        "code": package_digest(),
        "git": git_state(session.rootdir),
    }


def context_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Return in what two runs differ that a result may depend on, one sentence a field."""
    pairs = [(name, old.get(name), new.get(name)) for name in ("seed", "alpha", "rootdir")]
    names = [name for name in new["options"] if name not in _INDIFFERENT]
    pairs += [(name, old["options"].get(name), _plain(new["options"][name])) for name in names]
    packages = {**old["versions"], **new["versions"]}
    pairs += [(name, old["versions"].get(name), new["versions"].get(name)) for name in packages]
    found = [f"{name} {_shown(a)} -> {_shown(b)}" for name, a, b in pairs if a != b]
    if old["lock"] != new["lock"]:
        found.append(f"{new['lock_name'] or old['lock_name']} changed")
    if old["code"] != new["code"]:
        found.append("the code of mechtest changed")
    return list(dict.fromkeys(found))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: object) -> str:
    return "none" if value in (None, "", []) else str(value)
