"""What does a Mamba carry from one position to the next, and how is it handed on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float

from mechtest.errors import ShapeError


class RecurrentState(NamedTuple):
    """All that one layer carries past a position.

    Attributes:
        h: State of the recurrence, "batch d_inner d_state".
        conv: Convolution window: the last d_conv-1 rows of `hook_in_proj`, oldest first,
            "batch d_conv-1 d_inner".
    """

    h: Float[torch.Tensor, "batch d_inner d_state"]
    conv: Float[torch.Tensor, "batch window d_inner"]


@dataclass(frozen=True)
class ModelState:
    """The recurrent states of all layers after a prefix: a complete cut through the model.

    Attributes:
        layers: One RecurrentState a layer.
    """

    layers: tuple[RecurrentState, ...]

    @classmethod
    def from_cache(cls, cache: Mapping[str, torch.Tensor], position: int) -> ModelState:
        """Collect the state after `position` from an activation cache that holds it.

        Raises:
            NotCachedError: A layer's `hook_h` or `hook_conv_state` was not cached there.
        """
        n_layers = len({name.split(".")[1] for name in cache if name.startswith("blocks.")})
        return cls(
            tuple(
                RecurrentState(
                    cache[f"blocks.{layer}.hook_h.{position}"],
                    cache[f"blocks.{layer}.hook_conv_state.{position}"],
                )
                for layer in range(n_layers)
            )
        )

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[RecurrentState]:
        return iter(self.layers)

    def __getitem__(self, layer: int) -> RecurrentState:
        return self.layers[layer]

    def check(self, n_layers: int, batch: int) -> None:
        """Raise ShapeError unless this state fits a model and a batch."""
        sizes = {state.h.shape[0] for state in self.layers}
        if len(self.layers) != n_layers or sizes != {batch}:
            raise ShapeError(
                "this state does not fit the model or the batch",
                given=f"{len(self.layers)} layers, batch {sorted(sizes)}",
                expected=f"{n_layers} layers, batch {batch}",
            )
