"""How does a repository name become a directory, without a network where possible?

The local cache answers first, so a cached model never waits for a network and a run repeats what
an earlier run saw. The price: a branch that has moved on is not noticed; the commit that was used
is part of what every report shows, and `revision=<commit>` asks for another. Only what the cache
lacks is downloaded, and nothing is when HF_HUB_OFFLINE is set.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mechtest.checkpoints.weight_files import find_weights
from mechtest.errors import CheckpointNotFoundError, RevisionError, closest_names

__all__ = ["HubSnapshot", "resolve_in_hub"]

_SMALL_FILES = ("*.json", "tokenizer.model", "vocab.txt", "merges.txt")
_SAFETENSORS, _BIN = "*.safetensors", "pytorch_model*.bin"


@dataclass(frozen=True)
class HubSnapshot:
    """A directory in the hub cache and the commit it is a snapshot of."""

    directory: Path
    commit: str


def resolve_in_hub(repo: str, revision: str | None, subfolder: str | None) -> HubSnapshot:
    """Return the snapshot of a repository that holds config and weights, downloading if allowed.

    Raises:
        RevisionError: The repository is known, the revision is not (or is not cached, offline).
        CheckpointNotFoundError: The repository is unknown, private, or cannot be reached.
    """
    cached = _cached(repo, revision)
    if cached is not None and _complete(cached / (subfolder or "")):
        return HubSnapshot(cached, cached.name)
    if _offline():
        raise _not_cached(repo, revision, cached, subfolder)
    directory = _download(repo, revision, subfolder)
    return HubSnapshot(directory, directory.name)


def _cache_directory() -> Path:
    # Read at call time: huggingface_hub reads these variables once, when it is imported.
    if os.environ.get("HF_HUB_CACHE"):
        return Path(os.environ["HF_HUB_CACHE"])
    if os.environ.get("HF_HOME"):
        return Path(os.environ["HF_HOME"]) / "hub"
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _offline() -> bool:
    from huggingface_hub import constants

    flag = os.environ.get("HF_HUB_OFFLINE", "").upper()
    return flag in ("1", "ON", "YES", "TRUE") or bool(constants.HF_HUB_OFFLINE)


def _cached(repo: str, revision: str | None) -> Path | None:
    folder = _cache_directory() / f"models--{repo.replace('/', '--')}"
    name = revision or "main"
    ref = folder / "refs" / name
    commit = ref.read_text(encoding="utf-8").strip() if ref.is_file() else name
    snapshot = folder / "snapshots" / commit
    return snapshot if commit and snapshot.is_dir() else None


def _complete(directory: Path) -> bool:
    if not (directory / "config.json").is_file():
        return False
    try:
        weight_files, _ = find_weights(directory)
    except CheckpointNotFoundError:
        return False
    return all(path.is_file() for path in weight_files)


def _download(repo: str, revision: str | None, subfolder: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import errors as hub_errors

    def fetch(*patterns: str) -> Path:
        below = f"{subfolder}/" if subfolder else ""
        return Path(
            huggingface_hub.snapshot_download(
                repo,
                revision=revision,
                cache_dir=_cache_directory(),
                allow_patterns=[below + pattern for pattern in patterns],
                # A pattern without a slash also matches below; other checkpoints stay away.
                ignore_patterns=None if subfolder else ["*/*"],
            )
        )

    try:
        directory = fetch(*_SMALL_FILES, _SAFETENSORS)
        if not _complete(directory / (subfolder or "")):
            directory = fetch(*_SMALL_FILES, _BIN)
    except hub_errors.RevisionNotFoundError as error:
        raise RevisionError(
            f"the hub repository {repo} has no revision {revision!r}",
            given=f"{repo} with revision={revision!r}",
            expected=f"a branch, tag or commit listed at https://huggingface.co/{repo}",
        ) from error
    except hub_errors.RepositoryNotFoundError as error:
        raise CheckpointNotFoundError(
            f"there is no directory and no public hub repository {repo!r}",
            given=repo,
            next_step="check the spelling; for a private repository run `hf auth login` first",
        ) from error
    except hub_errors.HFValidationError as error:
        raise CheckpointNotFoundError(
            f"{repo!r} is neither a directory nor a repository name",
            given=repo,
            expected="a directory, or owner/name",
        ) from error
    except Exception as error:
        raise CheckpointNotFoundError(
            f"{repo} is not in the local cache and could not be downloaded: "
            + (str(error).strip() or type(error).__name__).splitlines()[0],
            given=repo if revision is None else f"{repo} with revision={revision!r}",
            next_step=f"fetch it where there is a network: hf download {repo}",
        ) from error
    return directory


def _not_cached(
    repo: str, revision: str | None, snapshot: Path | None, subfolder: str | None
) -> Exception:
    folder = _cache_directory() / f"models--{repo.replace('/', '--')}"
    fetch = f"hf download {repo}" + (f" --revision {revision}" if revision else "")
    if snapshot is not None:
        below = f" in subfolder {subfolder!r}" if subfolder else ""
        return CheckpointNotFoundError(
            f"the cached snapshot of {repo} lacks config.json or weights{below}",
            given=str(snapshot / (subfolder or "")),
            next_step=f"fetch it where there is a network: {fetch}",
        )
    if folder.is_dir():
        known = _known_revisions(folder)
        wanted = revision or "main"
        return RevisionError(
            f"revision {wanted!r} of {repo} is not in the local cache, and the hub is offline",
            given=f"{repo} with revision={revision!r}",
            closest=closest_names(wanted, known),
            expected=", ".join(known) or None,
            next_step=f"fetch it where there is a network: {fetch}",
        )
    return CheckpointNotFoundError(
        f"{repo} is no local directory and not in the local hub cache, and the hub is offline",
        given=f"{repo} (cache: {folder.parent})",
        next_step=f"fetch it where there is a network: {fetch}",
    )


def _known_revisions(folder: Path) -> list[str]:
    refs = folder / "refs"
    named = sorted(str(ref.relative_to(refs)) for ref in refs.rglob("*") if ref.is_file())
    snapshots = folder / "snapshots"
    commits = sorted(entry.name for entry in snapshots.iterdir()) if snapshots.is_dir() else []
    return [*named, *commits]
