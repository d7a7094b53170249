"""How do activations lie in a file, and how are they read back?

A safetensors file. What was kept is a tensor under its own name; what is rebuilt is a recipe in the
metadata over tensors called `ingredient.{i}`, so a file is as small as the cache was in memory.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mechtest.errors import CheckpointFormatError
from mechtest.models.recipes import STEPS, TRAJECTORY_STEPS, Node, Recipe

FORMAT = "mechtest-activations/2"
KEPT_ONLY = "mechtest-activations/1"
"""Without recipes; still read."""


class Writer:
    """Collects the tensors and recipes of one file; what is shared is written once."""

    def __init__(self) -> None:
        self.tensors: dict[str, torch.Tensor] = {}
        self.recipes: list[dict[str, Any]] = []
        self._names: dict[tuple[object, ...], str] = {}
        self._numbers: dict[int, int] = {}

    def add(self, node: Node, name: str | None = None) -> str | int:
        """Return how the file refers to a node: a tensor's name or a recipe's number."""
        if isinstance(node, torch.Tensor):
            return self._add_tensor(node, name)
        if id(node) not in self._numbers:
            parts = [self.add(part) for part in node.parts]
            self.recipes.append(
                {
                    "step": node.step,
                    "parts": parts,
                    "shape": list(node.shape),
                    "dtype": str(node.dtype).removeprefix("torch."),
                    "position": node.position,
                }
            )
            self._numbers[id(node)] = len(self.recipes) - 1
        return self._numbers[id(node)]

    def _add_tensor(self, value: torch.Tensor, name: str | None) -> str:
        place = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if place not in self._names:
            self._names[place] = name or f"ingredient.{len(self._names)}"
            # safetensors refuses views and shared storage.
            self.tensors[self._names[place]] = value.contiguous().clone()
        return self._names[place]


def write(path: str | Path, nodes: Mapping[str, Node], about: Mapping[str, Any]) -> None:
    """Write nodes by name, and facts about them."""
    writer = Writer()
    # Tensors first: each is then stored under the first name it is looked up by.
    kept = {name: writer.add(node, name) for name, node in nodes.items() if _is_kept(node)}
    refs = kept | {name: writer.add(node) for name, node in nodes.items() if not _is_kept(node)}
    # safetensors sorts by size: keep our order beside the data.
    order = {"order": list(nodes), "nodes": refs, "recipes": writer.recipes}
    metadata = {"mechtest": json.dumps({"format": FORMAT, **about, **order})}
    save_file(writer.tensors, str(path), metadata=metadata)


def read(path: str | Path, device: str) -> tuple[dict[str, Node], dict[str, Any]]:
    """Read a file back: nodes by name, and the facts.

    Raises:
        CheckpointFormatError: Not such a file, or damaged.
    """
    try:
        with safe_open(str(path), framework="pt", device=device) as file:
            about = json.loads((file.metadata() or {}).get("mechtest", "{}"))
            if about.get("format") not in (FORMAT, KEPT_ONLY):
                raise CheckpointFormatError(
                    f"{path} holds no activations of ours",
                    given=about.get("format") or "a safetensors file without our metadata",
                    expected=FORMAT,
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointFormatError(
            f"{path} cannot be read as activations", given=error, expected="a safetensors file"
        ) from error
    refs = about.get("nodes") or {name: name for name in about["order"]}
    recipes: list[Recipe] = []

    def node(ref: str | int) -> Node:
        return tensors[ref] if isinstance(ref, str) else recipes[ref]

    for row in about.get("recipes", ()):
        if row["step"] not in STEPS and row["step"] not in TRAJECTORY_STEPS:
            raise CheckpointFormatError(
                f"{path} rebuilds an activation by a step unknown here",
                given=row["step"],
                expected=", ".join([*STEPS, *sorted(TRAJECTORY_STEPS)]),
                next_step="read it with the version of mechtest that wrote it",
            )
        parts = tuple(node(ref) for ref in row["parts"])
        dtype = getattr(torch, row["dtype"])
        recipes.append(Recipe(row["step"], parts, tuple(row["shape"]), dtype, row["position"]))
    return {name: node(refs[name]) for name in about["order"]}, about


def _is_kept(node: Node) -> bool:
    return isinstance(node, torch.Tensor)
