"""Where do large intermediate results go, so that memory is not paged in afresh for each layer?"""

from __future__ import annotations

import torch

__all__ = ["Workspace"]


class Workspace:
    """Matrices by name, grown as needed and used again.

    What `take` returns holds whatever was there before, and is only valid until the same name is
    taken again.

    Args:
        dtype: Of every matrix.
        device: Of every matrix.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._held: dict[str, torch.Tensor] = {}
        self._views: dict[str, torch.Tensor] = {}

    def take(self, name: str, rows: int, width: int) -> torch.Tensor:
        """Return a matrix "rows width" to be written over."""
        known = self._views.get(name)
        if known is not None and known.shape == (rows, width):
            return known
        size = rows * width
        held = self._held.get(name)
        if held is None or held.numel() < size:
            held = torch.empty(size, dtype=self._dtype, device=self._device)
            self._held[name] = held
        view = self._views[name] = held[:size].view(rows, width)
        return view
