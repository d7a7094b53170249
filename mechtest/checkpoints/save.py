"""How does a model become a directory that other programs read?

    save_hf        config.json, generation_config.json, model.safetensors (or shards and index)
    save_original  config.json, pytorch_model.bin, as mamba_ssm's from_pretrained expects

A directory appears whole or not at all: everything is written beside it and renamed. Because the
old files are replaced and never written into, a model may be saved over the very checkpoint its
weights are mapped from.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_torch_state_dict_into_shards
from safetensors.torch import save_file

from mechtest.checkpoints.config import MambaCfg
from mechtest.checkpoints.conversion import from_native, to_native
from mechtest.checkpoints.hf_config import config_to_hf
from mechtest.checkpoints.original_config import config_to_original
from mechtest.checkpoints.parameters import fit_vocab
from mechtest.checkpoints.weight_files import TOKENIZER_FILES, belongs_to_checkpoint
from mechtest.errors import CheckpointError, CheckpointNotFoundError

__all__ = ["save_hf", "save_original"]


def save_hf(
    directory: str | Path,
    cfg: MambaCfg,
    native_state: Mapping[str, torch.Tensor],
    tokenizer: Any = None,
    max_shard_size: int | str | None = None,
    *,
    overwrite: bool = False,
) -> Path:
    """Write a directory that `transformers.MambaForCausalLM.from_pretrained` loads.

    Args:
        directory: Where; created, with its parents.
        cfg: The model's configuration.
        native_state: Its weights, in any layout that `to_native` reads.
        tokenizer: Something with `save_pretrained`, or a directory to copy tokenizer files from.
        max_shard_size: Split the weights into files of at most this many bytes ("5GB" works too).
        overwrite: Replace a checkpoint that is already there.

    Returns:
        The directory.

    Raises:
        CheckpointError: Something is there already and `overwrite` is False, or there are files
            that are not a checkpoint's.
        WeightMismatchError: The weights do not fit the configuration.
        CheckpointNotFoundError: The tokenizer directory has no tokenizer files.
    """
    cfg, native = _prepared(cfg, native_state)
    tensors = from_native(native, cfg, "hf")
    ids = {f"{kind}_token_id": _token_id(tokenizer, kind) for kind in ("bos", "eos", "pad")}
    with _replacing(Path(directory), overwrite=overwrite) as target:
        _write_json(target / "config.json", config_to_hf(cfg) | ids)
        _write_json(target / "generation_config.json", {"_from_model_config": True, **ids})
        _write_safetensors(target, tensors, max_shard_size)
        _write_tokenizer(target, tokenizer)
    return Path(directory)


def save_original(
    directory: str | Path,
    cfg: MambaCfg,
    native_state: Mapping[str, torch.Tensor],
    *,
    overwrite: bool = False,
) -> Path:
    """Write a directory that mamba_ssm's `MambaLMHeadModel.from_pretrained` loads.

    A tied head is written under both of its names, as mamba_ssm does; the file holds it once.

    Args:
        directory: Where; created, with its parents.
        cfg: The model's configuration.
        native_state: Its weights, in any layout that `to_native` reads.
        overwrite: Replace a checkpoint that is already there.

    Returns:
        The directory.

    Raises:
        CheckpointError: As in `save_hf`.
        ConfigError: The format has no place for something in `cfg`.
        WeightMismatchError: The weights do not fit the configuration.
    """
    cfg, native = _prepared(cfg, native_state)
    raw = config_to_original(cfg)
    with _replacing(Path(directory), overwrite=overwrite) as target:
        _write_json(target / "config.json", raw)
        torch.save(from_native(native, cfg, "original"), target / "pytorch_model.bin")
    return Path(directory)


def _prepared(
    cfg: MambaCfg, state: Mapping[str, torch.Tensor]
) -> tuple[MambaCfg, dict[str, torch.Tensor]]:
    native = to_native(state, cfg)
    return fit_vocab(cfg, native), {name: _standalone(tensor) for name, tensor in native.items()}


def _standalone(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor as one that owns its memory: a view would save what it was cut from."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _write_safetensors(
    target: Path, tensors: dict[str, torch.Tensor], max_shard_size: int | str | None
) -> None:
    metadata = {"format": "pt"}  # transformers refuses a file that does not say so
    if max_shard_size is None:
        save_file(tensors, target / "model.safetensors", metadata=metadata)
        return
    plan = split_torch_state_dict_into_shards(
        tensors, filename_pattern="model{suffix}.safetensors", max_shard_size=max_shard_size
    )
    for file_name, names in plan.filename_to_tensors.items():
        save_file({name: tensors[name] for name in names}, target / file_name, metadata=metadata)
    if plan.is_sharded:
        _write_json(
            target / "model.safetensors.index.json",
            {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename},
        )


def _write_tokenizer(target: Path, tokenizer: Any) -> None:
    if tokenizer is None:
        return
    if not isinstance(tokenizer, str | Path):
        tokenizer.save_pretrained(str(target))
        return
    present = [name for name in TOKENIZER_FILES if (Path(tokenizer) / name).is_file()]
    if not present:
        raise CheckpointNotFoundError(
            f"{tokenizer} holds no tokenizer files",
            given=str(tokenizer),
            expected=", ".join(TOKENIZER_FILES[:2]),
        )
    for name in present:
        shutil.copyfile(Path(tokenizer) / name, target / name)


def _token_id(tokenizer: Any, kind: str) -> int | None:
    # Written even when None: transformers would otherwise assume token 0 is all three.
    value = getattr(tokenizer, f"{kind}_token_id", None)
    return None if value is None else int(value)


def _write_json(path: Path, raw: Mapping[str, Any]) -> None:
    text = json.dumps(raw, indent=2, sort_keys=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def _replacing(directory: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty directory that takes the place of `directory` when the block succeeds."""
    directory = directory.expanduser().absolute()
    _check_replaceable(directory, overwrite=overwrite)
    directory.parent.mkdir(parents=True, exist_ok=True)
    label = uuid.uuid4().hex[:12]
    new, old = (directory.parent / f".{directory.name}.{kind}-{label}" for kind in ("new", "old"))
    new.mkdir()
    try:
        yield new
        if directory.exists():
            directory.rename(old)
        new.rename(directory)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not directory.exists():
            old.rename(directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _check_replaceable(directory: Path, *, overwrite: bool) -> None:
    if not directory.exists():
        return
    if not directory.is_dir():
        raise CheckpointError(f"{directory} is a file", given=str(directory))
    entries = sorted(entry.name for entry in directory.iterdir())
    if entries and not overwrite:
        raise CheckpointError(
            f"{directory} is not empty",
            given=", ".join(entries[:8]),
            next_step="choose another directory, or pass overwrite=True to replace it",
        )
    foreign = [name for name in entries if not belongs_to_checkpoint(directory / name)]
    if foreign:
        raise CheckpointError(
            f"{directory} holds more than a checkpoint, and replacing it would delete that",
            given=", ".join(foreign[:8]),
            next_step="move these files away, or choose another directory",
        )
