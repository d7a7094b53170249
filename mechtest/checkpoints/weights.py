"""How do a checkpoint's tensors get into memory, safely and without a copy?

safetensors files are mapped privately: processes that read one file share its pages, and writing
to a loaded tensor changes only the writer's copy of the page, never the file. `.bin` files are
unpickled by torch's restricted reader alone, which knows tensors and containers and runs no code;
a file that asks for more is refused.

Names are left as they are in the files; `conversion.py` renames them.
"""

from __future__ import annotations

import json
import pickle
import pickletools
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from mechtest.checkpoints.location import CheckpointFiles
from mechtest.errors import CheckpointFormatError, UnsafeCheckpointError, closest_names

__all__ = ["load_weights"]


def load_weights(files: CheckpointFiles, *, check_finite: bool = True) -> dict[str, torch.Tensor]:
    """Load every tensor of a located checkpoint, on the CPU, in the dtype of the file.

    Args:
        files: What `locate` found.
        check_finite: Look for NaN and infinity, which reads every page of the file.

    Raises:
        CheckpointFormatError: A file is truncated, corrupt, empty or missing, an index and its
            shards disagree, or a tensor holds NaN or infinity; the text names file and cause.
        UnsafeCheckpointError: A `.bin` file holds more than tensors; nothing of it was run.
    """
    state: dict[str, torch.Tensor] = {}
    origin: dict[str, Path] = {}
    for path in files.weight_files:
        for name, tensor in _load_file(path).items():
            if name in state:
                raise CheckpointFormatError(
                    f"tensor {name} is in two files",
                    given=f"{origin[name].name} and {path.name} in {files.directory}",
                )
            state[name], origin[name] = tensor, path
    if files.index_path is not None:
        _check_index(files.index_path, {name: path.name for name, path in origin.items()})
    for name, tensor in state.items() if check_finite else ():
        _check_finite(name, tensor, origin[name])
    return state


def _load_file(path: Path) -> dict[str, torch.Tensor]:
    if not path.is_file():
        raise CheckpointFormatError(
            f"weight file {path.name} is missing",
            given=str(path),
            next_step="fetch the checkpoint again; a download or a copy was probably cut short",
        )
    if path.stat().st_size == 0:
        raise CheckpointFormatError(f"weight file {path.name} is empty", given=str(path))
    tensors = _load_safetensors(path) if path.suffix == ".safetensors" else _load_bin(path)
    if not tensors:
        raise CheckpointFormatError(f"{path.name} holds no tensors", given=str(path))
    return tensors


def _load_safetensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointFormatError(
            f"{path.name} is not a readable safetensors file: {error}",
            given=f"{path} ({path.stat().st_size} bytes)",
            next_step="compare its size and checksum with the source; it may be truncated",
        ) from error


def _load_bin(path: Path) -> dict[str, torch.Tensor]:
    loaded = _unpickle(path)
    if isinstance(loaded, Mapping) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in loaded.items()
    ):
        return {name: tensor.detach() for name, tensor in loaded.items()}
    inside = ", ".join(map(str, list(loaded)[:6])) if isinstance(loaded, Mapping) else "no mapping"
    raise CheckpointFormatError(
        f"{path.name} does not hold a state dict, that is tensors by name",
        given=f"{type(loaded).__name__} ({inside}) in {path}",
        expected="{name: tensor}",
        next_step="save the model's state_dict() itself, without the trainer's other records",
    )


def _unpickle(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            # Only the zip format can be mapped; files from before torch 1.6 are read whole.
            is_zip = file.read(4) == b"PK\x03\x04"
        with warnings.catch_warnings():
            # torch warns of newer pickle protocols; what it cannot read of them it refuses.
            warnings.filterwarnings("ignore", message="Detected pickle protocol")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        if _wants_code(path, str(error)):
            raise UnsafeCheckpointError(
                f"{path.name} holds more than tensors; it was refused and nothing in it was run",
                given=str(path),
                expected="a pickle of tensors only (readable with weights_only=True)",
                next_step="ask its author for safetensors; do not load it with weights_only=False",
            ) from error
        raise _unreadable(path, error) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError) as error:
        raise _unreadable(path, error) from error


def _wants_code(path: Path, refusal: str) -> bool:
    if any(word in refusal for word in ("GLOBAL", "global", "Unsupported class", "REDUCE")):
        return True
    if "Unsupported operand" not in refusal:
        return False
    # An instruction the restricted reader does not know: a plain pickle, or mere garbage.
    # pickletools lists instructions without following any.
    calls = {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "REDUCE", "BUILD"}
    try:
        with path.open("rb") as file:
            return any(opcode.name in calls for opcode, _, _ in pickletools.genops(file))
    except Exception:  # noqa: BLE001 - it raises whatever garbage makes it raise
        return False


def _unreadable(path: Path, error: Exception) -> CheckpointFormatError:
    # torch puts the cause last, after advice to switch the protection off, which is left out.
    cause = re.search(r"WeightsUnpickler error: *([^\n]+)", str(error))
    reason = cause[1] if cause else (str(error) or type(error).__name__).splitlines()[0]
    return CheckpointFormatError(
        f"{path.name} is not a readable torch file: {reason}",
        given=f"{path} ({path.stat().st_size} bytes)",
        next_step="compare its size and checksum with the source; it may be truncated",
    )


def _check_index(index_path: Path, found: Mapping[str, str]) -> None:
    weight_map = json.loads(index_path.read_text(encoding="utf-8"))["weight_map"]
    lost = [name for name, file in weight_map.items() if found.get(name) != file]
    if lost:
        raise CheckpointFormatError(
            f"{index_path.name} places {len(lost)} tensors in files that do not hold them: "
            + ", ".join(f"{name} ({weight_map[name]})" for name in lost[:4]),
            given=str(index_path),
            closest=[near for name in lost[:3] for near in closest_names(name, found, 1)],
        )
    extra = [name for name in found if name not in weight_map]
    if extra:
        raise CheckpointFormatError(
            f"the shards hold {len(extra)} tensors that {index_path.name} does not list: "
            + ", ".join(f"{name} ({found[name]})" for name in extra[:4]),
            given=str(index_path),
        )


def _check_finite(name: str, tensor: torch.Tensor, path: Path) -> None:
    if not tensor.is_floating_point():
        return
    # A sum needs no second tensor; it may overflow on finite numbers, so only then look closer.
    if torch.isfinite(tensor.sum()) or bool(torch.isfinite(tensor).all()):
        return
    bad = int((~torch.isfinite(tensor)).sum())
    raise CheckpointFormatError(
        f"tensor {name} holds {bad} values that are NaN or infinite",
        given=f"{name} {list(tensor.shape)} {tensor.dtype} in {path}",
        next_step="take an earlier checkpoint: training has probably diverged before this one",
    )
