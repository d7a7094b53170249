"""How are runs and tags called, and where is the store?"""

from __future__ import annotations

import datetime as dt
import re
import secrets
from pathlib import Path

from mechtest.errors import RunError

__all__ = ["LATEST", "RUN", "STORE", "find_store", "require_tag", "run_name"]

STORE = ".mechtest"
"""Directory of the store, beside the claims' root."""

LATEST = "latest"

RUN = re.compile(r"\d{8}T\d{6}Z-[0-9a-z]{7}-[0-9a-f]{6}")
"""UTC, commit, six random digits: sorted by name is sorted by time."""

_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def run_name(now: dt.datetime, commit: str) -> str:
    """Return a name for a run, for example `20260102T030405Z-0123456-9f3c1e`.

    Args:
        now: When the run began, with a time zone.
        commit: Of the working tree; empty outside a repository.
    """
    stamp = now.astimezone(dt.UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{stamp}-{commit[:7].ljust(7, '0')}-{secrets.token_hex(3)}"


def require_tag(tag: str) -> str:
    """Return a tag that can be a file's name and is mistaken for no run.

    Raises:
        RunError: Empty, with other characters, or a name that means something already.
    """
    if not _TAG.fullmatch(tag) or tag == LATEST or RUN.match(tag) or tag.endswith("."):
        raise RunError(
            "this is no name for a tag",
            given=repr(tag),
            expected="letters, digits, '.', '_' and '-', beginning with a letter or digit; "
            f"not {LATEST!r} and no run's name",
        )
    return tag


def find_store(start: Path) -> Path:
    """Return the nearest store at or above a directory; where one would be, if there is none."""
    for directory in (start, *start.parents):
        if (directory / STORE / "runs").is_dir():
            return directory / STORE
    return start / STORE
