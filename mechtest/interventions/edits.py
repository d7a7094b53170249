"""What does one edit put in the place of the rows it means, and which rows did it change?

Both executors come here: the one that runs hooks and the one that runs packed rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from mechtest.interventions.circuit import Circuit
from mechtest.interventions.plan import channel_mask
from mechtest.interventions.spec import Intervention, Places
from mechtest.sites import Site

__all__ = ["Edit"]


@dataclass(frozen=True, eq=False)
class Edit:
    """An intervention at one hook of a circuit.

    Attributes:
        site: Layer and hook, without a position.
        circuit: Its channels or subspace restrict the edit.
        intervention: What is put in.
    """

    site: Site
    circuit: Circuit
    intervention: Intervention

    def edited(
        self, value: torch.Tensor, reference: torch.Tensor | None, places: Places
    ) -> torch.Tensor:
        """Return the new rows.

        Args:
            value: "row ...", one activation a row.
            reference: The source run's, shaped alike, where the intervention has a source.
            places: Prompt and position of each row.

        Raises:
            ShapeError: Channels or a subspace that do not fit the site.
        """
        new = self.intervention.replacement(value, reference, str(self.site), places)
        if self.circuit.channels is not None:
            mask = channel_mask(self.site, self.circuit.channels, value.shape).to(value.device)
            return torch.where(mask, new, value)
        if self.circuit.subspace is not None:
            change = (new - value).flatten(1)
            return value + self.circuit.subspace.project(change).reshape(value.shape)
        return new
