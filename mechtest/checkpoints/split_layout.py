"""How does MambaLens cut a block's projections, and how are the parts put together again?

    in_proj [2E, D]     rows :E   -> in_proj      rows E:       -> skip_proj   (biases alike)
    x_proj  [R+2N, E]   rows :R   -> W_delta_1    rows R:R+N    -> W_B         rows R+N: -> W_C
    dt_proj             renamed W_delta_2
    D                   renamed W_D

MambaLens itself has no place for in_proj.bias; cutting it like the weight is our extension.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

from mechtest.errors import WeightMismatchError

__all__ = ["joined", "split"]

_BLOCK = re.compile(r"blocks\.(\d+)\.(.+)")

# Native name inside a mixer <-> MambaLens name inside a block.
_RENAMES = {
    "conv1d.weight": "conv1d.weight",
    "conv1d.bias": "conv1d.bias",
    "dt_proj.weight": "W_delta_2.weight",
    "dt_proj.bias": "W_delta_2.bias",
    "A_log": "A_log",
    "D": "W_D",
    "out_proj.weight": "out_proj.weight",
    "out_proj.bias": "out_proj.bias",
}
_JOINS = {
    "in_proj.weight": ("in_proj.weight", "skip_proj.weight"),
    "in_proj.bias": ("in_proj.bias", "skip_proj.bias"),
    "x_proj.weight": ("W_delta_1.weight", "W_B.weight", "W_C.weight"),
}


def split(native: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give native tensors MambaLens's names; the parts of a projection are views of it."""
    result: dict[str, torch.Tensor] = {}
    for name, tensor in native.items():
        match = _BLOCK.fullmatch(name)
        suffix = match[2].removeprefix("mixer.") if match else ""
        if match is None or not match[2].startswith("mixer."):
            result[name] = tensor
            continue
        prefix = f"blocks.{match[1]}."
        if suffix in _JOINS:
            sizes = _part_sizes(native, prefix, suffix, tensor)
            parts = torch.split(tensor, sizes, dim=0)
            result |= zip((prefix + part for part in _JOINS[suffix]), parts, strict=True)
        else:
            result[prefix + _RENAMES.get(suffix, f"mixer.{suffix}")] = tensor
    return result


def joined(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Give MambaLens's tensors native names, joining what it keeps apart.

    Raises:
        WeightMismatchError: A part of a projection is missing.
    """
    back = {theirs: ours for ours, theirs in _RENAMES.items()}
    owner = {part: whole for whole, parts in _JOINS.items() for part in parts}
    result: dict[str, torch.Tensor] = {}
    for name, tensor in state_dict.items():
        match = _BLOCK.fullmatch(name)
        if match is None:
            result[name] = tensor
            continue
        prefix, suffix = f"blocks.{match[1]}.", match[2]
        if suffix in owner:
            whole = prefix + "mixer." + owner[suffix]
            if whole not in result:
                result[whole] = _join(state_dict, prefix, owner[suffix])
        else:
            result[prefix + (f"mixer.{back[suffix]}" if suffix in back else suffix)] = tensor
    return result


def _join(state_dict: Mapping[str, torch.Tensor], prefix: str, whole: str) -> torch.Tensor:
    names = [prefix + part for part in _JOINS[whole]]
    missing = [name for name in names if name not in state_dict]
    if missing:
        raise WeightMismatchError(
            f"{prefix}{whole} cannot be put together: {', '.join(missing)} missing",
            given=", ".join(name for name in names if name in state_dict),
            expected=", ".join(names),
        )
    try:
        return torch.cat([state_dict[name] for name in names], dim=0)
    except (RuntimeError, TypeError) as error:
        shapes = ", ".join(f"{name} {list(state_dict[name].shape)}" for name in names)
        raise WeightMismatchError(
            f"{prefix}{whole} cannot be put together: the parts do not fit", given=shapes
        ) from error


def _part_sizes(
    native: Mapping[str, torch.Tensor], prefix: str, whole: str, tensor: torch.Tensor
) -> list[int]:
    rows = tensor.shape[0]
    if whole.startswith("in_proj."):
        return [rows // 2, rows - rows // 2]
    dt_proj, a_log = prefix + "mixer.dt_proj.weight", prefix + "mixer.A_log"
    absent = [name for name in (dt_proj, a_log) if name not in native]
    if absent:
        raise WeightMismatchError(
            f"{prefix}mixer.{whole} cannot be cut: {', '.join(absent)} missing",
            expected="dt_proj.weight [E, R] and A_log [E, N], which say where to cut",
        )
    rank, d_state = native[dt_proj].shape[1], native[a_log].shape[1]
    if rank + 2 * d_state != rows:
        raise WeightMismatchError(
            f"{prefix}mixer.{whole} has {rows} rows, but dt_proj and A_log say otherwise",
            given=f"R={rank}, N={d_state}",
            expected=f"R + 2N = {rank + 2 * d_state} rows",
        )
    return [rank, d_state, d_state]
