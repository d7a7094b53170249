"""Are two tensors, settings or interventions the same, judged by a short text?"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch

__all__ = ["digest_of", "digest_of_weights"]


def digest_of(value: object) -> str:
    """Return a digest of plain values, tensors, and frozen descriptions made of them.

    Equal values give equal digests in every process; a tensor's dtype and shape count.

    Raises:
        TypeError: Something whose parts are not known.
    """
    hasher = hashlib.blake2b(digest_size=16)
    _feed(hasher, value)
    return hasher.hexdigest()


def _feed(hasher: Any, value: object) -> None:
    """Feed a value, its type in front, so that no two kinds look alike."""
    if isinstance(value, torch.Tensor):
        array = value.detach().cpu()
        hasher.update(f"tensor {array.dtype} {tuple(array.shape)};".encode())
        hasher.update(array.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray):
        _feed(hasher, torch.as_tensor(value))
    elif isinstance(value, Mapping):
        hasher.update(f"mapping {len(value)};".encode())
        for key in sorted(value):
            _feed(hasher, key)
            _feed(hasher, value[key])
    elif isinstance(value, list | tuple):
        hasher.update(f"sequence {len(value)};".encode())
        for part in value:
            _feed(hasher, part)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        hasher.update(f"{type(value).__name__};".encode())
        for field in dataclasses.fields(value):
            _feed(hasher, field.name)
            _feed(hasher, getattr(value, field.name))
    elif value is None or isinstance(value, str | int | float | bool):
        hasher.update(f"{type(value).__name__} {value!r};".encode())
    else:
        raise TypeError(f"no digest is known for {type(value).__name__}")


_WEIGHTS: WeakKeyDictionary[torch.nn.Module, tuple[object, str]] = WeakKeyDictionary()
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def digest_of_weights(model: torch.nn.Module) -> str:
    """Return a digest of a model's weights as they are now."""
    parts = [*model.parameters(), *model.buffers()]
    state = tuple(map(_now, parts))
    known = _WEIGHTS.get(model)
    if known is None or known[0] != state:
        known = _WEIGHTS[model] = (state, digest_of(parts))
    return known[1]


def _now(tensor: torch.Tensor) -> tuple[int, int, int]:
    """Return what differs when a tensor has changed; an eighth of the work of a digest.

    In-place changes raise its version, but not those of `tensor.data`; the sum of its bits sees
    these too.
    """
    bits = tensor.detach().reshape(-1).view(_BITS[tensor.element_size()])
    return tensor.data_ptr(), tensor._version, int(bits.sum())
