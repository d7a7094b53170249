"""Which files of a directory are a checkpoint's, and which of them hold the weights?"""

from __future__ import annotations

import re
from pathlib import Path

from mechtest.checkpoints.json_file import read_json
from mechtest.errors import CheckpointFormatError, CheckpointNotFoundError

__all__ = [
    "TOKENIZER_FILES",
    "belongs_to_checkpoint",
    "find_weights",
    "list_directories",
    "list_entries",
]

_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
)
_OWN = re.compile(
    r"config\.json|generation_config\.json|params\.json|README\.md|chat_template\.jinja"
    r"|(model|pytorch_model)[\w.-]*\.(safetensors|bin|index\.json)"
)


def belongs_to_checkpoint(path: Path) -> bool:
    """Tell whether an entry of a directory is a file such as checkpoints consist of."""
    known = path.name in TOKENIZER_FILES or _OWN.fullmatch(path.name) is not None
    return known and path.is_file()


def find_weights(directory: Path) -> tuple[tuple[Path, ...], Path | None]:
    """Return the weight files of a directory and the index of their shards, if any.

    Raises:
        CheckpointNotFoundError: There are none.
        CheckpointFormatError: An index that cannot be used.
    """
    for single, index in _WEIGHTS:
        if (directory / single).is_file():
            return (directory / single,), None
        if (directory / index).is_file():
            return _shards(directory / index), directory / index
    raise CheckpointNotFoundError(
        f"{directory} holds no weights",
        given=list_entries(directory),
        expected=" or ".join(name for pair in _WEIGHTS for name in pair),
    )


def _shards(index_path: Path) -> tuple[Path, ...]:
    weight_map = read_json(index_path, CheckpointFormatError).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointFormatError(
            f"{index_path.name} has no weight_map", given=str(index_path), expected="{tensor: file}"
        )
    names = list(weight_map.values())
    # An index comes from elsewhere and must not make us open files outside its directory.
    foreign = [n for n in names if not isinstance(n, str) or Path(n).name != n or n == ".."]
    if foreign:
        raise CheckpointFormatError(
            f"{index_path.name} names files outside its own directory",
            given=str(foreign[0]),
            expected="plain file names",
        )
    return tuple(index_path.parent / name for name in sorted(set(names)))


def list_directories(directory: Path) -> list[str]:
    """Names of the directories in a directory, sorted."""
    try:
        return sorted(entry.name for entry in directory.iterdir() if entry.is_dir())
    except OSError:
        return []


def list_entries(directory: Path) -> str:
    """What a directory holds, for an error text."""
    try:
        names = sorted(e.name + ("/" if e.is_dir() else "") for e in directory.iterdir())
    except OSError:
        return "nothing readable"
    return ", ".join(names[:10]) + (", ..." if len(names) > 10 else "") if names else "nothing"
