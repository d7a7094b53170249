"""Which report is meant by a word such as `main`, `latest`, `20260102` or `old/report.json`?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mechtest.errors import RunNotFoundError, closest_names
from mechtest.runs.names import LATEST
from mechtest.runs.store import RunStore

__all__ = ["Found", "resolve"]


@dataclass(frozen=True, slots=True)
class Found:
    """A report that was meant.

    Attributes:
        name: How it is called in what is printed.
        path: Of its `report.json`.
    """

    name: str
    path: Path


def resolve(reference: str, store: RunStore, directory: Path) -> Found:
    """Return the report that a word means.

    In this order: `latest`, a tag, a run or a beginning that only one run's name has, a report file
    or a directory with one. What is both a tag and a directory is the tag; `./main` is the
    directory.

    Args:
        reference: The word.
        store: Where runs and tags are looked for.
        directory: What paths are relative to.

    Raises:
        RunNotFoundError: Nothing answers, or several runs do; names the closest.
    """
    names, tags = store.names, store.tags
    if reference == LATEST and names:
        return _stored(store, store.latest, f"{LATEST} ({store.latest})", reference)
    if reference in tags:
        return _stored(store, tags[reference], f"{reference} ({tags[reference]})", reference)
    begun = [name for name in names if name.startswith(reference)] if reference else []
    if len(begun) == 1:
        return _stored(store, begun[0], begun[0], reference)
    if len(begun) > 1 and not (directory / reference).exists():
        raise RunNotFoundError(
            f"{len(begun)} runs have names that begin so",
            given=reference,
            closest=begun[:5],
            expected="a beginning that only one run has",
        )
    path = directory / reference
    if reference and path.is_file():
        return Found(reference, path)
    if reference and (path / "report.json").is_file():
        return Found(reference, path / "report.json")
    known = [*tags, LATEST, *reversed(names)]
    raise RunNotFoundError(
        f"no run, tag or report is called {reference!r}",
        given=reference,
        closest=closest_names(reference, known) or tuple(tags)[:3],
        expected=f"a tag, {LATEST!r}, a run of {store.root}, a report.json or its directory",
        next_step="`mechtest runs list` shows what is there; `pytest claims --mechtest-tag=main` "
        "keeps a run under a name",
    )


def _stored(store: RunStore, name: str, shown: str, reference: str) -> Found:
    path = store.runs_folder / name / "report.json"
    if not name or not path.is_file():
        raise RunNotFoundError(
            f"{reference!r} points to a run that is gone",
            given=f"{reference} -> {name}",
            expected=str(path),
            closest=store.names[-3:],
            next_step="save a run under this tag again",
        )
    return Found(shown, path)
