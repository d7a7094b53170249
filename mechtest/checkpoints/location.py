"""Which files make up the checkpoint a user named?

A name is a local directory if one is there, and a hub repository otherwise. Of the weights in a
directory the first kind found is taken: `model.safetensors`, its index of shards,
`pytorch_model.bin`, its index of shards.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mechtest.checkpoints.formats import SUPPORTED, detect_format
from mechtest.checkpoints.hub import resolve_in_hub
from mechtest.checkpoints.json_file import read_json
from mechtest.checkpoints.weight_files import (
    TOKENIZER_FILES,
    find_weights,
    list_directories,
    list_entries,
)
from mechtest.errors import (
    CheckpointNotFoundError,
    ConfigError,
    RevisionError,
    UnsupportedArchitectureError,
    closest_names,
)

__all__ = ["CheckpointFiles", "locate", "read_json"]


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint, and how they were found.

    Attributes:
        directory: Where they lie.
        format: "hf" or "original".
        config_path: config.json.
        weight_files: All of one kind, shards in name order; not necessarily present yet.
        index_path: The index of the shards, if there are shards.
        tokenizer_files: What is there of a tokenizer.
        source: How a report names the checkpoint: path, or repository with revision and commit.
        repo: Hub repository; None for a local directory.
        revision: As asked for; None for a local directory or the default branch.
        subfolder: As asked for.
        commit: The 40 hex digits the revision stood for; None for a local directory.
    """

    directory: Path
    format: str
    config_path: Path
    weight_files: tuple[Path, ...]
    index_path: Path | None
    tokenizer_files: tuple[Path, ...]
    source: str
    repo: str | None = None
    revision: str | None = None
    subfolder: str | None = None
    commit: str | None = None


def locate(
    path_or_repo: str | Path, revision: str | None = None, subfolder: str | None = None
) -> CheckpointFiles:
    """Find a checkpoint's files, on disk first, then in the hub cache, then on the hub.

    Args:
        path_or_repo: A local directory, or a hub repository `owner/name`.
        revision: Branch, tag or commit of a hub repository.
        subfolder: Directory below it that holds the checkpoint.

    Raises:
        RevisionError: `revision` with a local directory, or a revision that cannot be had.
        CheckpointNotFoundError: No such directory, repository or subfolder, or nothing in it.
        CheckpointFormatError: The index of the shards cannot be used.
        ConfigError: config.json is missing or no JSON object.
        UnsupportedArchitectureError: The configuration is not of a Mamba-1.
    """
    subfolder = _checked_subfolder(subfolder)
    root = Path(path_or_repo).expanduser()
    if root.is_dir():
        _refuse_revision(root, revision)
        return _inspect(
            _descend(root, subfolder),
            source=str(root / subfolder) if subfolder else str(root),
            subfolder=subfolder,
        )
    if _looks_local(path_or_repo):
        raise _no_directory(root)
    repo = str(path_or_repo)
    found = resolve_in_hub(repo, revision=revision, subfolder=subfolder)
    at = f"@{revision}" if revision else ""
    below = f"/{subfolder}" if subfolder else ""
    return _inspect(
        _descend(found.directory, subfolder),
        source=f"{repo}{at}{below} ({found.commit[:12]})",
        repo=repo,
        revision=revision,
        subfolder=subfolder,
        commit=found.commit,
    )


def _inspect(
    directory: Path,
    *,
    source: str,
    repo: str | None = None,
    revision: str | None = None,
    subfolder: str | None = None,
    commit: str | None = None,
) -> CheckpointFiles:
    config_path = directory / "config.json"
    if not config_path.is_file():
        raise _no_config(directory)
    format_ = detect_format(read_json(config_path), str(config_path))
    weight_files, index_path = find_weights(directory)
    return CheckpointFiles(
        directory=directory,
        format=format_,
        config_path=config_path,
        weight_files=weight_files,
        index_path=index_path,
        tokenizer_files=tuple(directory / n for n in TOKENIZER_FILES if (directory / n).is_file()),
        source=source,
        repo=repo,
        revision=revision,
        subfolder=subfolder,
        commit=commit,
    )


def _checked_subfolder(subfolder: str | None) -> str | None:
    if not subfolder:
        return None
    parts = Path(subfolder).parts
    if Path(subfolder).is_absolute() or ".." in parts:
        raise CheckpointNotFoundError(
            f"subfolder {subfolder!r} leaves the checkpoint's directory",
            given=subfolder,
            expected="a path below it, such as 'step-00100'",
        )
    return "/".join(parts)


def _descend(root: Path, subfolder: str | None) -> Path:
    if subfolder is None:
        return root
    if not (root / subfolder).is_dir():
        raise CheckpointNotFoundError(
            f"no subfolder {subfolder!r} in {root}",
            given=subfolder,
            closest=closest_names(subfolder, list_directories(root)),
            expected=list_entries(root),
        )
    return root / subfolder


def _refuse_revision(root: Path, revision: str | None) -> None:
    if revision is not None:
        raise RevisionError(
            f"revision {revision!r} was given with a local directory, which has only what is in it",
            given=f"{root} with revision={revision!r}",
            expected="a hub repository with revision=, or a directory without",
            next_step="ignoring it would let a claim compare a checkpoint with itself; name the "
            "directory of that checkpoint, or use subfolder=",
        )


def _looks_local(path_or_repo: str | Path) -> bool:
    if isinstance(path_or_repo, Path):
        return True
    text = path_or_repo
    if text.startswith((".", "/", "~", "fixtures/")) or text.count("/") != 1 or os.sep * 2 in text:
        return True
    # owner/name: a path only if the first part is a directory here.
    return text.endswith("/") or Path(text).parent.is_dir()


def _no_directory(root: Path) -> CheckpointNotFoundError:
    if root.exists():
        return CheckpointNotFoundError(
            f"{root} is a file, not a directory",
            given=str(root),
            expected="the directory that holds config.json and the weights",
        )
    there = root.parent
    while not there.is_dir() and there != there.parent:
        there = there.parent
    missing = root.relative_to(there).parts[0] if there != root else root.name
    near = closest_names(missing, list_directories(there))
    return CheckpointNotFoundError(
        f"no directory {root}",
        given=str(root),
        closest=[str(there / name) for name in near],
        expected=f"a directory with config.json; {there} holds {list_entries(there)}",
        next_step="a relative path is looked up from the directory the command runs in",
    )


def _no_config(directory: Path) -> Exception:
    if (directory / "params.json").is_file():
        return UnsupportedArchitectureError(
            f"{directory} has a params.json, as Mistral's Codestral-Mamba has",
            given=list_entries(directory),
            expected=SUPPORTED,
        )
    below = [name for name in list_directories(directory) if (directory / name).is_dir()]
    return ConfigError(
        f"{directory} has no config.json",
        given=list_entries(directory),
        expected="config.json beside the weights",
        next_step=f"name one of its checkpoints, for example {directory / below[0]}"
        if below
        else "copy the whole checkpoint directory, not only the weights",
    )
