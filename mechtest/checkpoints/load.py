"""What does it take to read one checkpoint: configuration, weights, and proof of identity?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from mechtest.checkpoints.config import MambaCfg
from mechtest.checkpoints.conversion import to_native
from mechtest.checkpoints.digest_cache import remembered_digest
from mechtest.checkpoints.fingerprint import Fingerprint, digest_files, digest_weights
from mechtest.checkpoints.formats import read_config
from mechtest.checkpoints.location import CheckpointFiles, locate, read_json
from mechtest.checkpoints.parameters import fit_vocab
from mechtest.checkpoints.weights import load_weights
from mechtest.errors import WeightMismatchError

__all__ = ["LoadedCheckpoint", "read_checkpoint"]


@dataclass(frozen=True)
class LoadedCheckpoint:
    """One checkpoint in memory.

    Attributes:
        cfg: Its configuration; `dtype` is that of the tensors in `state_dict`.
        state_dict: Native names in model order; mapped from the file where the dtype allows.
        fingerprint: Of what is on disk, whatever dtype was asked for.
        files: Where it came from.
    """

    cfg: MambaCfg
    state_dict: dict[str, torch.Tensor]
    fingerprint: Fingerprint
    files: CheckpointFiles


def read_checkpoint(
    path_or_repo: str | Path,
    revision: str | None = None,
    subfolder: str | None = None,
    dtype: torch.dtype | None = None,
) -> LoadedCheckpoint:
    """Read a checkpoint of either format from a directory or the hub (cache first).

    Args:
        path_or_repo: A local directory, or a hub repository `owner/name`.
        revision: Branch, tag or commit of a hub repository; refused for a local directory.
        subfolder: Directory below it that holds the checkpoint.
        dtype: Cast the weights to this; None keeps the file's. A cast makes copies, which
            processes no longer share.

    Raises:
        CheckpointError: Some subclass; see `locate`, `load_weights` and `to_native`.
    """
    files = locate(path_or_repo, revision=revision, subfolder=subfolder)
    cfg = read_config(read_json(files.config_path), str(files.config_path))
    raw = load_weights(files)
    try:
        state = to_native(raw, cfg)
    except WeightMismatchError as error:
        raise WeightMismatchError(
            f"{files.source}: {error.what}",
            given=error.given,
            closest=error.closest,
            expected=error.expected,
            next_step=error.next_step,
        ) from error
    fingerprint = Fingerprint(
        weights=remembered_digest(
            files.weight_files, lambda: digest_weights(state), tied=cfg.tie_embeddings
        ),
        config=digest_files([files.config_path]) or "",
        tokenizer=digest_files(files.tokenizer_files),
    )
    if dtype is not None:
        state = {name: tensor.to(dtype) for name, tensor in state.items()}
    cfg = replace(
        fit_vocab(cfg, state),
        dtype=str(state["embedding.weight"].dtype).removeprefix("torch."),
        name=cfg.name or files.source,
    )
    return LoadedCheckpoint(cfg=cfg, state_dict=state, fingerprint=fingerprint, files=files)
