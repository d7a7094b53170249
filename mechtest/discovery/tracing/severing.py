"""What reaches the answer when one path through the later layers is kept from noticing?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from mechtest.errors import ShapeError, closest_names
from mechtest.interventions import Circuit, Intervention, Places, Run
from mechtest.sites import Site

__all__ = ["PATHS", "RestoreAndHold", "held_sites"]

PATHS: Mapping[str, str] = {
    "mixer": "hook_out_proj",
    "ssm": "hook_ssm_output",
    "conv": "hook_conv",
    "gate": "hook_skip",
}
"""Paths that can be severed, and the hook that is held: all a block adds, what its state-space
model puts out, what its convolution puts out (so what goes into the state), its gate."""

BEFORE_THE_BLOCK = frozenset({"hook_resid_pre", "hook_embed"})
"""Hooks whose own block comes after them, and is severed too."""


@dataclass(frozen=True, eq=False)
class RestoreAndHold(Intervention):
    """Put clean values in at some hooks, and the corrupted run's own at others.

    Attributes:
        restored: Names of the hooks that get clean values.
        held: Values of the others in the corrupted run, "prompt pos ...", by name.
    """

    restored: frozenset[str]
    held: Mapping[str, torch.Tensor]
    name: str = "restoring"

    def source(self, base: Run) -> Run:
        """Return the run the restored values come from."""
        del base
        return "clean"

    def replacement(
        self, value: torch.Tensor, reference: torch.Tensor | None, site: str, places: Places
    ) -> torch.Tensor:
        """Return the clean values at restored hooks, and the held ones elsewhere."""
        if site in self.restored:
            assert reference is not None
            return reference
        held = self.held[site]
        column = held.shape[1] - places.from_end
        return held[places.prompt.to(held.device), column.to(held.device)].to(value)


def held_sites(sever: str, restored: Circuit, n_layer: int) -> list[str]:
    """Return what is held beside a restored circuit: its positions, in all later layers.

    Args:
        sever: A name in `PATHS`.
        restored: Sites of one layer, or of a window of them.
        n_layer: Layers of the model.

    Raises:
        ShapeError: No such path.
    """
    if sever not in PATHS:
        raise ShapeError(
            f"no path is called {sever!r}",
            given=f"sever={sever!r}",
            closest=closest_names(sever, PATHS),
            expected=f"one of {', '.join(PATHS)}, or None",
        )
    first = max(_first_behind(site) for site in restored.parts)
    position = str(restored.parts[0].position)
    return [f"blocks.{layer}.{PATHS[sever]}@{position}" for layer in range(first, n_layer)]


def _first_behind(site: Site) -> int:
    """Return the first layer all of which comes after a site."""
    if site.layer is None:
        return 0
    return site.layer if site.hook in BEFORE_THE_BLOCK else site.layer + 1
