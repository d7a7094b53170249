"""Are two checkpoints the same: their weights, their configuration, their tokenizer?

The weight digest is over content, not over files: for every native name in sorted order, the name,
the dtype, the shape and the sha256 of the bytes. So one model saved as safetensors, in shards, as
`.bin`, with Hugging Face or with state-spaces names, tied head dropped or written out, has one
digest, and any changed bit of any weight, a renamed tensor or another dtype has another. What the
files say beyond the weights (metadata, order, padding) does not count.

Configuration and tokenizer digests are over the bytes of the files, because there a changed
default or a reordered merge can change the model while nothing else tells.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Fingerprint", "digest_files", "digest_weights"]

_CHUNK = 1 << 24


@dataclass(frozen=True)
class Fingerprint:
    """sha256 hex digests of one checkpoint.

    Attributes:
        weights: Of the tensors' content.
        config: Of config.json's bytes.
        tokenizer: Of the tokenizer files' names and bytes; None when there are none.
    """

    weights: str
    config: str
    tokenizer: str | None

    @property
    def short(self) -> str:
        """First twelve digits of the weight digest, for tables and titles."""
        return self.weights[:12]


def digest_weights(native: Mapping[str, torch.Tensor]) -> str:
    """Return the content digest of native tensors; mapped files are streamed, never copied."""
    total = hashlib.sha256()
    for name in sorted(native):
        tensor = native[name].detach()
        total.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        total.update(_digest_tensor(tensor))
    return total.hexdigest()


def digest_files(paths: Sequence[Path]) -> str | None:
    """Return one digest over the names and bytes of files (None for no files)."""
    if not paths:
        return None
    total = hashlib.sha256()
    for path in sorted(paths, key=lambda path: path.name):
        total.update(f"{path.name}\0".encode())
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def _digest_tensor(tensor: torch.Tensor) -> bytes:
    digest = hashlib.sha256()
    # Bytes rather than numbers: numpy has no bfloat16, and -0.0 must differ from 0.0.
    data = memoryview(tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]
    for start in range(0, len(data), _CHUNK):
        digest.update(data[start : start + _CHUNK])
    return digest.digest()
